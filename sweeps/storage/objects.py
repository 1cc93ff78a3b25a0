"""Files in an object store (``s3://``, ``gs://``, or whatever else fsspec knows): whole objects in, whole objects out.

Everything goes through pyarrow's file systems, as in Ray itself. Credentials come from where the cloud's own tools look
for them (environment, profile, the machine's role), never from the config.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gcp_core.errors import ConfigError, first_line
from sweeps.config.places import STORES
from sweeps.records.disk import is_full

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

_log = logging.getLogger(__name__)
T = TypeVar("T")
_BLOCK = 1 << 20
#: Requests at the same time; small files cost a round trip each.
_AT_ONCE = 8
#: For how long a store may be away before whoever needs it gives up.
PATIENCE_S = 120.0
_PAUSE_S, _MAX_PAUSE_S = 0.5, 10.0
#: The store's words for what waiting does not mend.
_FINAL = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|InvalidAccessKey|Forbidden|HTTP status 40[13]"
)


class StoreError(OSError):
    """The object store refuses, or does not answer for too long."""


class ObjectStore:
    """The objects below one URL, by their path relative to it (``/`` between its parts).

    A request that fails is tried again for ``patience_s`` seconds, unless the store has refused it for good.

    Raises:
        ConfigError: nobody knows such URLs, or a package for them is missing.
        StoreError: the store refuses, or stays away for longer.
        OSError: the local disk is full, or the file to be stored is gone.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self.url, self._patience_s = url, patience_s
        self._fs, self._base = _open(url)

    def put(self, file: Path, path: str) -> None:
        """Store a file; readers see the old object or the new one, never part of it.

        All of it is read before any of it is sent: a stream cannot be given up, only closed, and what was written until
        then would be the object.
        """
        self.write(path, file.read_bytes())

    def get(self, path: str, file: Path) -> bool:
        """Fetch an object into a file, in one step; False = there is none (the file stays as it was)."""

        def copy() -> bool:
            temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
            try:
                source = self._fs.open_input_stream(self._at(path))
            except FileNotFoundError:
                return False
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with source, temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _BLOCK)
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)
            return True

        return self._patiently(copy)

    def read(self, path: str) -> bytes | None:
        """An object's bytes, None if there is none."""

        def get() -> bytes | None:
            try:
                with self._fs.open_input_stream(self._at(path)) as source:
                    return source.read()
            except FileNotFoundError:
                return None

        return self._patiently(get)

    def write(self, path: str, content: bytes) -> None:
        """Store these bytes: all, or none of them."""

        def put() -> None:
            with self._fs.open_output_stream(self._at(path)) as sink:
                sink.write(content)

        self._patiently(put)

    def written_at(self, path: str) -> float | None:
        """When an object was written, in seconds since 1970 by the store's own clock; None if there is none."""
        return self._patiently(lambda: self._written(self._fs.get_file_info(self._at(path))))

    def stamp(self, path: str) -> tuple[float, int] | None:
        """(when written, bytes): another one means another object; None if there is none. 0 = it does not tell when."""

        def look() -> tuple[float, int] | None:
            info = self._fs.get_file_info(self._at(path))
            return (self._written(info) or 0.0, info.size) if info.is_file else None

        return self._patiently(look)

    def _written(self, info: FileInfo) -> float | None:
        """What pyarrow does not learn from a store of fsspec's, that may say itself; None = nobody knows."""
        if info.mtime is not None:
            return info.mtime.timestamp()
        plain = getattr(getattr(self._fs, "handler", None), "fs", None)
        if plain is not None and info.is_file:
            with contextlib.suppress(NotImplementedError, FileNotFoundError):  # or it has gone meanwhile
                return float(plain.modified(info.path).timestamp())
        return None

    def sizes(self, path: str = "") -> dict[str, int]:
        """Path -> bytes of every object below ``path`` (relative to the store's URL)."""
        return {self._relative(info): info.size for info in self._list(path, recursive=True) if info.is_file}

    def listing(self, path: str) -> dict[str, tuple[float, int]]:
        """As :meth:`sizes`, with when each was written by the store's clock: path -> (seconds since 1970, bytes)."""
        found = (info for info in self._list(path, recursive=True) if info.is_file)
        return {self._relative(i): (i.mtime.timestamp() if i.mtime else 0.0, i.size) for i in found}

    def names(self, path: str) -> set[str]:
        """What lies directly below ``path``: objects, and the first part of longer paths."""
        return {info.base_name for info in self._list(path, recursive=False)}

    def remove(self, path: str) -> None:
        """Remove an object, or all objects below a path; nothing happens if there are none."""
        from pyarrow.fs import FileType

        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                info = self._fs.get_file_info(self._at(path))
                if info.type == FileType.Directory:
                    self._fs.delete_dir(self._at(path))
                elif info.type == FileType.File:
                    self._fs.delete_file(self._at(path))

        self._patiently(delete)

    def all(self, function: Callable[[str], object], paths: list[str]) -> None:
        """Call ``function`` for every path, several at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(function, paths))

    def _list(self, path: str, recursive: bool) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._at(path), recursive=recursive, allow_not_found=True)
        return self._patiently(lambda: self._fs.get_file_info(selector))

    def _at(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    def _relative(self, info: FileInfo) -> str:
        return info.path.removeprefix(self._base).lstrip("/")

    def _patiently(self, request: Callable[[], T]) -> T:
        """By seconds, for every kind of store, and not where it has refused: pyarrow's own retries count attempts, of S3
        alone. Tenacity would be one more package for these lines."""
        end, pause = time.monotonic() + self._patience_s, _PAUSE_S
        while True:
            try:
                return request()
            except OSError as exc:
                if is_full(exc):
                    raise
                if _FINAL.search(str(exc)) or time.monotonic() >= end:
                    raise StoreError(f"{self.url}: {first_line(exc)}") from exc
                _log.warning(
                    "%s does not answer; trying again in %.1f s: %s", self.url, pause, first_line(exc)
                )
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)


def _open(url: str) -> tuple[FileSystem, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        fs, base = FileSystem.from_uri(_in_one_request(url))
    except ArrowInvalid:  # not one of pyarrow's own
        try:
            import fsspec

            plain, base = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as exc:
            raise ConfigError(f"{url!r} cannot be opened: {exc}", "storage", STORES) from exc
        fs = PyFileSystem(FSSpecHandler(plain))
    except OSError as exc:
        raise ConfigError(f"the object store cannot be used: {first_line(exc)}", "storage", url) from exc
    return fs, base.rstrip("/")


def _in_one_request(url: str) -> str:
    """Tell pyarrow to store a small object in S3 with one request; by default it takes three (a multipart upload)."""
    option = "allow_delayed_open=true"
    if not url.startswith("s3://") or "allow_delayed_open" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{option}"


def check_store(url: str) -> None:
    """The store lets us write, read and remove below ``url``; leaves nothing behind. Also run on every node.

    Raises ConfigError.
    """
    name, word = f".write-test-{uuid.uuid4().hex}", b"x"
    with store_errors():
        store = ObjectStore(url, patience_s=0.0)
        store.write(name, word)
        found = store.read(name)
        store.remove(name)
    if found != word:
        raise ConfigError("what was written there cannot be read back", "storage", url)


def store_problem(url: str) -> str:
    """What :func:`check_store` finds on this machine, empty if all is well."""
    try:
        check_store(url)
    except ConfigError as exc:
        return exc.message
    return ""


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """What a store says before anything is paid for is the user's to mend: a ConfigError."""
    try:
        yield
    except OSError as exc:
        hint = "does the bucket exist, and may you write there? pyarrow looks for credentials as the cloud's own tools do"
        raise ConfigError(f"the object store cannot be used: {first_line(exc)}", "storage", hint) from exc
