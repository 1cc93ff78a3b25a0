"""Where a sweep and its ledger may be kept, told from the name alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.places import check_store_url, check_url, is_object_store, is_url, join, working_folder


def test_a_url_is_a_store_or_a_database_and_everything_else_a_folder():
    assert is_object_store("s3://bucket/x")
    assert is_url("postgresql://host/db")
    for folder in ("runs", "/shared/runs", "C:\\runs", "~/runs"):
        assert not is_object_store(folder)
        assert not is_url(folder)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (Path("/data").as_uri(), "is a folder"),
        ("s3://", "has no bucket name"),
        ("://bucket", "has no bucket name"),
        ("s3://key:word@bucket/x", "holds a password"),
        ("s3://bucket/x?access_secret=1", "holds 'access_secret' in its query"),
    ],
)
def test_a_store_without_a_bucket_or_with_a_secret_is_refused(url, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_store_url(url)
    assert caught.value.where == "storage"
    assert check_store_url("gs://bucket/prefix") == "gs://bucket/prefix"


@pytest.mark.parametrize("url", ["", "mysql://host/db", "ledgers"])
def test_a_ledger_is_in_a_database_we_know(url):
    with pytest.raises(ConfigError, match="not a database URL") as caught:
        check_url(url)
    assert caught.value.where == "ledger"


def test_a_ledger_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(ConfigError) as caught:
        check_url("postgresql://me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)
    assert check_url("postgresql+psycopg://me@host/db") == "postgresql+psycopg://me@host/db"


def test_a_name_goes_below_the_path_and_before_the_options():
    assert join("s3://bucket/a/", "b") == "s3://bucket/a/b"
    assert join("s3://bucket?region=eu", "b") == "s3://bucket/b?region=eu"


def test_the_working_folder_is_where_the_ledger_is_or_can_be_made_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    assert working_folder("runs", "x", None) == str(tmp_path / "runs" / "x")
    assert working_folder("s3://bucket/a", "x", "ledgers") == str(tmp_path / "ledgers" / "x")
    one, other = (working_folder(f"s3://bucket/{p}", "x", "postgresql://host/db") for p in "ab")
    assert Path(one).is_relative_to(tmp_path / "cache" / "sweeps")
    assert one != other, "two stores never share a folder"
