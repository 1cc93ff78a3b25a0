"""What may hold a secret is found in every disguise, and nothing else is touched."""

from __future__ import annotations

import io
import logging
import pickle
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_core.errors import ConfigError, first_line
from gcp_core.redaction import (
    RedactingFormatter,
    RedactingStream,
    clean,
    is_secret_name,
    redact,
    secret_in,
    without_secrets,
)

#: Long enough not to occur by chance; every character that people put into passwords and URLs let through.
WORDS = st.text(string.ascii_letters + string.digits + "!$%*+-._~:/?#@&= ;,", min_size=12, max_size=24)
PLAIN = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=10)
SCHEMES = st.sampled_from(
    ["https", "http", "s3", "gs", "postgresql", "postgresql+psycopg", "mysql+pymysql", "abfs"]
)
KEYS = st.sampled_from(
    [
        "password",
        "passwd",
        "pwd",
        "PASSWORD",
        "sslpassword",
        "token",
        "access_token",
        "authToken",
        "sas_token",
        "sig",
        "Signature",
        "key",
        "api_key",
        "apikey",
        "api-key",
        "access_key",
        "AccessKey",
        "secret_key",
        "secret",
        "client_secret",
        "AWSAccessKeyId",
        "X-Amz-Credential",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "account_key",
        "credential",
        "credentials",
        "auth",
        "sasToken",
        "pass",
    ]
)
HARMLESS = st.sampled_from(
    [
        "region",
        "endpoint_override",
        "scheme",
        "host",
        "port",
        "user",
        "sslmode",
        "sslkey",
        "sslcert",
        "passfile",
        "application_name",
        "keepalives",
        "read_default_file",
        "allow_bucket_creation",
        "options",
        "design",
        "keyspace",
        "tokens",
        "monkey_id",
        "passes",
    ]
)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str]:
    """(an address, the secret in it as it is written there)."""
    scheme, word = draw(SCHEMES), quote(draw(WORDS), safe="")
    host, path = f"{draw(PLAIN)}.lab", draw(PLAIN)
    form = draw(st.sampled_from(["user", "query", "second", "fragment", "nested"]))
    if form == "user":
        return f"{scheme}://{draw(PLAIN)}:{word}@{host}/{path}", word
    key = draw(KEYS)
    if draw(st.booleans()):  # percent encoding hides the key from a plain comparison
        key = f"%{ord(key[0]):02x}{key[1:]}"
    pair = f"{key}={word}"
    if form == "nested":
        return f"{scheme}://{host}/{path}?odbc_connect={quote(f'DRIVER=x;{pair};UID=me', safe='')}", quote(
            word
        )
    lead = {"query": "?", "second": f"?{draw(HARMLESS)}=x&", "fragment": "#"}[form]
    return f"{scheme}://{host}/{path}{lead}{pair}", word


@given(addresses(), PLAIN)
def test_a_secret_in_an_address_is_found_and_does_not_survive(found: tuple[str, str], words: str) -> None:
    address, word = found
    assert secret_in(address)
    for text in (address, f"{words} {address} {words}", f"('{address}')", f'{{"uri": "{address}"}}'):
        safe = without_secrets(text)
        assert word not in safe
        assert secret_in(safe) == "", "stars are no secret"
        assert without_secrets(safe) == safe
        assert words not in text.split() or safe.split().count(words) == text.split().count(words)
    assert word not in str(ConfigError(f"{address!r} is wrong", address, f"try {address}"))
    assert word not in first_line(RuntimeError(address))
    assert word not in str(clean({"a": [address, {"b": address}]}))


@st.composite
def harmless(draw: st.DrawFn) -> str:
    scheme, host = draw(SCHEMES), draw(PLAIN)
    user = (
        f"{draw(PLAIN)}@"
        if draw(st.booleans()) and scheme.startswith(("postgresql", "mysql", "abfs"))
        else ""
    )
    port = f":{draw(st.integers(1, 65535))}" if draw(st.booleans()) and not user else ""
    query = "&".join(f"{key}={draw(PLAIN)}" for key in draw(st.lists(HARMLESS, max_size=3)))
    return f"{scheme}://{user}{host}{port}/{draw(PLAIN)}{'?' if query else ''}{query}"


@given(harmless())
def test_an_address_without_a_secret_stays_as_it_is(address: str) -> None:
    assert secret_in(address) == ""
    assert without_secrets(address) == address
    assert redact(f"see {address}") == f"see {address}"


@pytest.mark.parametrize(
    "address",
    [
        "https://me:word@host",
        "https://glpat-word@host/x",
        "s3://word:word@bucket",
        "postgresql://me:wo/rd@x@host/db",
        "postgresql:///db?password=word",
        "s3://bucket/a?access_key=word&region=x",
        "abfs://container:word@account/x",
        "abfs://container@account.dfs/x?sas_token=word",
        "https://host/x#access_token=word",
        "https://host/x?next=https%3A%2F%2Fme%3Aword%40other",
        "https://host/x?%2570assword=word",
    ],
)
def test_known_forms_are_found(address: str) -> None:
    assert secret_in(address)
    assert "word@" not in without_secrets(address)
    assert "=word" not in without_secrets(address)
    assert "rd@x" not in without_secrets(address)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////tmp/x@y:z/db.sqlite",
        "http://127.0.0.1:5000",
        "http://[::1]:5000/a@b",
        "postgresql+psycopg://me@host:5432/db?sslkey=/a/b&passfile=/c",
        "/data/token=1/part=2",
        Path("/a/b").as_uri(),
        "abfs://container@account.dfs.core.windows.net/x",
        "macs <= 50%",
    ],
)
def test_what_holds_none_is_left_alone(text: str) -> None:
    assert (secret_in(text), without_secrets(text)) == ("", text)


def test_names_are_told_apart_by_their_end() -> None:
    assert all(
        map(is_secret_name, ["password", "DB_PASSWORD", "clientSecret", "hf-token", "aws_secret_access_key"])
    )
    assert not any(
        map(is_secret_name, ["num_tokens", "tokenizer", "secretary", "key", "keys", "bypass", "author", ""])
    )


def test_what_is_shown_holds_no_value_of_the_environments_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "opensesame+1")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    assert redact("401 for opensesame+1, abc") == "401 for ***, abc"
    assert without_secrets("opensesame+1") == "opensesame+1", "what is read again by programs stays usable"
    assert redact("connect failed: password=hunter2 host=db") == "connect failed: password=*** host=db"
    error = ConfigError("opensesame+1 was refused", "tracking.uri")
    assert str(pickle.loads(pickle.dumps(error))) == "tracking.uri: *** was refused"


def test_logs_and_printed_text_hold_no_secret() -> None:
    file = io.StringIO()
    print("at https://me:word@host", file=RedactingStream(file))
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "at %s", ("https://me:word@host",), None)
    try:
        raise ValueError("s3://b?token=word")
    except ValueError as exc:
        record.exc_info = (ValueError, exc, exc.__traceback__)
    text = file.getvalue() + RedactingFormatter("%(message)s").format(record)
    assert "word@" not in text
    assert "token=word" not in text.replace('"s3://b?token=word"', "")  # the source line of the traceback


def test_the_address_of_a_saved_view_of_mlflow_stays_whole():
    address = (
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=3f2a&x=1"
    )
    assert redact(address) == address == without_secrets(address)


def test_of_a_long_message_the_beginning_and_the_cause_at_its_end_are_shown():
    said = first_line(RuntimeError("cannot ask " + "the server " * 60 + "(Connection refused)"))
    assert len(said) == 300
    assert said.startswith("cannot ask the server ")
    assert said.endswith("the server (Connection refused)")
    assert first_line(RuntimeError("x" * 300)) == "x" * 300
