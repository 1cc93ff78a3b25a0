"""Objects in a store, against a real S3 server on loopback."""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.places import check_store_url, join
from sweeps.records.layout import ENTRY
from sweeps.storage.exchange import ObjectExchange
from sweeps.storage.objects import ObjectStore, StoreError, check_store, store_errors, store_problem
from sweeps.storage.presence import DRIVER, refuse_second


def test_what_is_put_can_be_listed_and_got_again(s3: str, tmp_path: Path) -> None:
    store = ObjectStore(s3)
    (tmp_path / "a").write_bytes(b"abc")
    store.put(tmp_path / "a", "trials/t0001/a")
    store.write("b", b"")
    assert store.sizes() == {"trials/t0001/a": 3, "b": 0}
    assert store.sizes("trials") == {"trials/t0001/a": 3}
    assert store.names("") == {"trials", "b"}
    assert store.names("nothing") == set()
    assert store.get("trials/t0001/a", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == b"abc"
    assert (store.read("b"), store.read("c")) == (b"", None)


@pytest.mark.parametrize("size", [100, 12 << 20])
def test_a_put_that_is_interrupted_leaves_the_old_object_whole(
    s3: str, tmp_path: Path, monkeypatch, size: int
) -> None:
    """The disk fails in the middle of the file, however the file is read."""
    store, old, real = ObjectStore(s3, patience_s=0.0), b"a" * size, Path.open
    (tmp_path / "file").write_bytes(b"b" * size)
    store.write("x", old)

    class Failing:
        def __init__(self, file) -> None:
            self._file, self._left = file, size // 2

        def __enter__(self):
            return self

        def __exit__(self, *exc) -> None:
            self._file.close()

        def __getattr__(self, name: str):
            return getattr(self._file, name)

        def read(self, number: int = -1) -> bytes:
            self._left -= number
            if number < 0 or self._left < 0:
                raise OSError(errno.EIO, "Input/output error")
            return self._file.read(number)

    def opened(path: Path, *args, **options):
        return Failing(real(path, *args, **options))

    monkeypatch.setattr("sweeps.storage.objects._BLOCK", 30)
    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened(path, "rb").read())
    with pytest.raises(OSError, match="Input/output error"):
        store.put(tmp_path / "file", "x")
    assert store.read("x") == old


def test_a_part_that_does_not_arrive_leaves_the_old_object_whole(s3: str, monkeypatch) -> None:
    from moto.s3.exceptions import MissingBucket
    from moto.s3.models import S3Backend

    store, real = ObjectStore(s3), S3Backend.upload_part

    def upload(self, bucket: str, upload: str, part_id: int, value: bytes):
        if part_id == 2:
            raise MissingBucket("the second part")
        return real(self, bucket, upload, part_id, value)

    monkeypatch.setattr(S3Backend, "upload_part", upload)
    store.write("x", b"old")
    with pytest.raises(StoreError, match="UploadPart"):
        store.write("x", b"new" * (10 << 20))
    assert store.read("x") == b"old"


def test_an_object_that_is_not_there_leaves_the_file_and_makes_no_folder(s3: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    assert not ObjectStore(s3).get("nothing", tmp_path / "kept")
    assert not ObjectStore(s3).get("nothing", tmp_path / "new" / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_removing_takes_one_object_or_all_below_a_path_and_may_be_repeated(s3: str) -> None:
    store = ObjectStore(s3)
    for path in ("a/1", "a/2", "ab/1", "b"):
        store.write(path, b"x")
    store.remove("a")
    assert set(store.sizes()) == {"ab/1", "b"}
    for path in ("b", "b", "a"):
        store.remove(path)
    assert set(store.sizes()) == {"ab/1"}


def test_a_store_that_is_away_for_a_while_is_asked_again(s3: str, monkeypatch, caplog) -> None:
    store = ObjectStore(s3)
    store.write("a", b"x")
    real, answers = store._fs, iter([OSError("AWS Error NETWORK_CONNECTION"), OSError("AWS Error SLOW_DOWN")])

    class Away:
        def open_input_stream(self, path: str):
            for exc in answers:
                raise exc
            return real.open_input_stream(path)

    monkeypatch.setattr("sweeps.storage.objects._PAUSE_S", 0.0)
    store._fs = Away()
    assert store.read("a") == b"x"
    assert caplog.text.count("does not answer; trying again") == 2


def test_a_store_that_stays_away_is_one_error_in_the_end(s3: str) -> None:
    store = ObjectStore(s3, patience_s=0.0)

    class Away:
        def open_input_stream(self, path: str):
            raise OSError("AWS Error NETWORK_CONNECTION\nand more")

    store._fs = Away()
    with pytest.raises(StoreError, match=f"{s3}: AWS Error NETWORK_CONNECTION$"):
        store.read("a")


def test_a_full_disk_here_is_not_the_stores_fault(s3: str, tmp_path: Path, monkeypatch) -> None:
    store = ObjectStore(s3)
    store.write("a", b"x")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("shutil.copyfileobj", lambda *args: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left") as caught:
        store.get("a", tmp_path / "a")
    assert caught.value is full
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_not_asked_twice(s3: str) -> None:
    store, asked = ObjectStore(s3), []

    class Strict:
        def open_input_stream(self, path: str):
            asked.append(path)
            raise OSError("AWS Error ACCESS_DENIED during GetObject operation")

    store._fs = Strict()
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        store.read("a")
    assert len(asked) == 1


def test_the_check_leaves_nothing_behind_and_names_what_is_wrong(s3: str) -> None:
    check_store(s3)
    assert ObjectStore(s3).sizes() == {}
    with pytest.raises(
        ConfigError, match=r"storage: the object store cannot be used: .*does the bucket exist"
    ):
        check_store("s3://there-is-no-such-bucket/team")
    assert "cannot be used" in store_problem("s3://there-is-no-such-bucket/team")
    assert store_problem(s3) == ""


def test_what_nobody_can_open_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        ObjectStore("nobody-knows://bucket/x")
    with pytest.raises(ConfigError, match="the object store cannot be used: gone"), store_errors():
        raise OSError("gone\nand more")


def test_what_fsspec_knows_can_be_used() -> None:
    store = ObjectStore("memory://bucket/team")
    store.write("a/b", b"x")
    assert store.sizes() == {"a/b": 1}


def test_a_store_of_fsspecs_knows_what_is_there_and_when_it_was_written(tmp_path: Path) -> None:
    """pyarrow does not ask such a store for times, so a sweep there was not found, nor its driver."""
    url = f"memory://bucket/{tmp_path.name}"
    store, exchange = ObjectStore(url), ObjectExchange(tmp_path, url)
    assert (store.written_at(ENTRY), store.stamp(ENTRY), exchange.has(ENTRY)) == (None, None, False)
    store.write(ENTRY, b"{}")
    written = store.written_at(ENTRY)
    assert written is not None
    assert abs(written - time.time()) < 3600, "seconds since 1970"
    assert (store.stamp(ENTRY), exchange.has(ENTRY)) == ((written, 2), True)
    assert store.written_at("") is None, "a folder"
    store.write(DRIVER, json.dumps({"process": 7, "host": "elsewhere", "token": "t"}).encode())
    with pytest.raises(ConfigError, match="another driver is running the sweep: process 7 on elsewhere"):
        refuse_second(store, tmp_path)


def test_urls() -> None:
    url = "s3://bucket/team?endpoint_override=127.0.0.1:9000&scheme=http"
    assert join(url, "name") == "s3://bucket/team/name?endpoint_override=127.0.0.1:9000&scheme=http"
    assert check_store_url(url) == url
    assert join("gs://bucket", "name") == "gs://bucket/name"


def test_several_at_a_time_do_all(s3: str) -> None:
    store, seen, lock = ObjectStore(s3), [], threading.Lock()

    def note(path: str) -> None:
        with lock:
            seen.append(path)

    store.all(note, [str(i) for i in range(50)])
    assert sorted(seen, key=int) == [str(i) for i in range(50)]
    with pytest.raises(ZeroDivisionError):
        store.all(lambda path: 1 / 0, ["a"])
