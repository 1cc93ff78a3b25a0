"""The one place that knows what may hold a secret: in an address, in a name, in the environment (stdlib only).

Configurations with a secret in them are refused (``sweeps.config``), because they are copied to many places; whatever
is written, logged or shown goes through :func:`redact` all the same.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TextIO
from urllib.parse import unquote

STARS = "***"
#: A name that ends so (case and separators do not count) holds a secret.
_ENDINGS = (
    *("password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "credentials", "signature"),
    *("accesskey", "accesskeyid", "secretkey", "apikey", "privatekey", "accountkey", "sharedkey", "authkey"),
    *("connectionstring", "authorization"),
)
#: Whole last words that do so too: everywhere, and in the query of an address.
_WORDS, _QUERY_WORDS = frozenset({"pass", "sas"}), frozenset({"pass", "sas", "sig", "key", "auth", "jwt"})
#: No secrets, whatever they are called: paths of files, and what MLflow calls the name of a saved view in its addresses.
_HARMLESS = frozenset({"sslkey", "ssl_key", "passfile", "viewstatesharekey"})
#: Schemes whose user is no secret (a role, a container) ...
_NAMED = re.compile(
    r"postgres|mysql|mariadb|mssql|oracle|sqlite|redshift|cockroach|abfs|wasb|adl|hdfs|ssh|sftp|ray"
)
#: ... and those whose password SQLAlchemy reads up to the @, whatever stands in it.
_DATABASES = re.compile(r"postgres|mysql|mariadb|mssql|oracle|redshift|cockroach")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s<>]*)")
_PAIR = re.compile(r"([?&;#\s,]|^)([^?&;#=\s,'\"]+)=([^&;#\s'\"]+)")
_KEY = re.compile(r"([^?&;#\s,='\"]+)=")
_BARE = re.compile(r"([A-Za-z][\w.-]*)=([^\s&;,'\"]+)")
#: Values of the environment shorter than this are words that stand anywhere.
_SHORTEST = 8
#: Of a shell: where it is and was.
_FOLDERS = ("PWD", "OLDPWD")


def is_secret_name(name: str, query: bool = False) -> bool:
    """Whether what carries this name may be a secret; ``query``: as a key in the query of an address.

    >>> [name for name in ("PGPASSWORD", "sasToken", "X-Amz-Signature", "num_tokens", "passfile") if is_secret_name(name)]
    ['PGPASSWORD', 'sasToken', 'X-Amz-Signature']
    """
    plain = _unquoted(name).strip()
    if plain.lower() in _HARMLESS:
        return False
    words = [
        word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower()) if word
    ]
    if not words:
        return False
    return "".join(words).endswith(_ENDINGS) or words[-1] in (_QUERY_WORDS if query else _WORDS)


def secret_in(text: str) -> str:
    """What in the addresses of a text may be a secret, in words; empty = nothing.

    >>> secret_in("https://me:word@host"), secret_in("s3://bucket/a?region=x")
    ('a password', '')
    """
    found: list[str] = []
    _cleaned(text, found.append)
    return found[0] if found else ""


def without_secrets(text: str) -> str:
    """The text with stars for every secret in its addresses; exactly what :func:`secret_in` finds nothing in stays.

    >>> without_secrets("postgresql://me:word@host/db and s3://b/c?access_key=A1&region=x")
    'postgresql://me:***@host/db and s3://b/c?access_key=***&region=x'
    """
    return _cleaned(text, lambda what: None)


def redact(text: str) -> str:
    """The same for people to read: stars also for pairs such as ``password=word``, and for whatever the secrets of the
    environment (``PGPASSWORD``, ...) hold.
    """
    for name, value in os.environ.items():
        if len(value) < _SHORTEST or value not in text or name in _FOLDERS or not is_secret_name(name):
            continue
        if not os.path.exists(value):  # where a secret is kept is none
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", STARS, text)
    text = without_secrets(text)
    return _BARE.sub(_bare, text) if "=" in text else text


def clean(value: Any) -> Any:
    """A tree of mappings and lists whose texts are :func:`without_secrets`."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


class RedactingFormatter(logging.Formatter):
    """Formats as usual, and leaves out secrets, also those in exceptions."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class RedactingStream:
    """A text file that gets no secret; whole lines are looked at where they are written as such."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(redact(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _cleaned(text: str, found: Callable[[str], None]) -> str:
    def address(match: re.Match[str]) -> str:
        scheme, rest = match.groups()
        return f"{scheme}://{_rest(scheme.lower(), rest, found)}"

    return _ADDRESS.sub(address, text) if "://" in text else text


def _rest(scheme: str, rest: str, found: Callable[[str], None]) -> str:
    """What follows ``scheme://``."""
    end = len(rest) if _DATABASES.match(scheme) else len(re.split(r"[/?#]", rest, maxsplit=1)[0])
    user, at, _ = rest[:end].rpartition("@")
    if at and _DATABASES.match(scheme) and ":" not in user:
        user, at = (user, at) if not set("/?#") & set(user) else ("", "")
    if at:
        name, colon, word = user.partition(":")
        rest = rest[len(user) :]
        if colon and word and word != STARS:
            found("a password")
        elif not colon and not _NAMED.match(scheme) and name != STARS:
            found("a user name or key")
        known = _NAMED.match(scheme) or colon
        user = f"{name}:{STARS}" if colon and word else name if known else STARS
        rest = user + rest
    place = re.search(r"[?#;]", rest)
    if place is None:
        return rest
    query = _PAIR.sub(lambda match: _pair(match, found), rest[place.start() :])
    return rest[: place.start()] + query


def _pair(match: re.Match[str], found: Callable[[str], None]) -> str:
    """One ``key=value`` of a query; what is nested in the value counts as well."""
    before, key, value = match.groups()
    if value == STARS:
        return match.group()
    plain = _unquoted(value)
    nested = _KEY.findall(plain)
    inner = plain != value and secret_in(plain)
    if is_secret_name(key, query=True):
        found(f"{_unquoted(key)!r} in its query")
    elif any(is_secret_name(name, query=True) for name in nested) or inner:
        found(f"a secret in {_unquoted(key)!r} of its query")
    else:
        return match.group()
    return f"{before}{key}={STARS}"


def _bare(match: re.Match[str]) -> str:
    return f"{match.group(1)}={STARS}" if is_secret_name(match.group(1)) else match.group()


def _unquoted(text: str) -> str:
    """Without percent encoding, however often it was applied."""
    for _ in range(3):
        text, before = unquote(text), text
        if text == before:
            break
    return text
