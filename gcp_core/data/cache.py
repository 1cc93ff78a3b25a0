"""Decoded images on disk: decoded once per machine, then memory-mapped by every process."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gcp_core.cachedir import cache_folder
from gcp_core.data.images import RawData
from gcp_core.errors import DataError

log = logging.getLogger(__name__)

#: Part of the key: raise it when decoding changes.
DECODER_VERSION = 2
TRAIN_IMAGES, TEST_IMAGES = "train_images.npy", "test_images.npy"
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
#: NFS locks for writing only what is open for writing; other file systems have no locks at all.
_NO_LOCK = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def cached(files: Sequence[Path], decode: Callable[[Path], RawData], variant: str = "") -> RawData:
    """What ``decode(folder)`` returns, from the cache if these files (path, size, time) were decoded before.

    ``variant`` names whatever else decides about the result: an image size, or what the files are called, where that says
    their classes (a link counts as the file that it leads to). ``decode`` may write its images
    into ``folder`` (as :data:`TRAIN_IMAGES`, :data:`TEST_IMAGES`) and return them memory-mapped: then the set never
    is in memory as a whole.

    Only one process decodes; others wait for its lock, or decode too where the file system gives them none. The entry
    appears by one rename, once the disk has it, so it is whole or absent, and the first one stays; one that is there is
    read without the lock, which may be somebody else's.

    Raises:
        DataError: a file cannot be looked at, or the cache's folder cannot be used; and what ``decode`` raises.
    """
    folder = cache_folder() / _key(files, variant)
    try:
        if not _is_whole(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f"{folder.name}.lock")):
                if not _is_whole(folder):
                    log.info("decoding %d files: %s, ...", len(files), files[0])
                    _write(decode, folder)
        return _read(folder)
    except OSError as exc:
        where = str(folder.parent)
        raise DataError(f"cannot use the cache folder: {exc}", where, "set GCP_CACHE_DIR") from exc


def _key(files: Sequence[Path], variant: str) -> str:
    sha = hashlib.sha256(f"{DECODER_VERSION}{variant}".encode())
    for file in files:
        try:
            stat = file.stat()
        except OSError as exc:  # a link that leads nowhere, for instance
            raise DataError(f"cannot be read: {exc.strerror}", str(file)) from exc
        text = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        sha.update(text.encode(errors="surrogateescape"))  # a name need not be UTF-8
    return sha.hexdigest()[:24]


def _is_whole(folder: Path) -> bool:
    return (folder / "meta.json").exists()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Inside, no other process is; whoever waits is woken as soon as it is free (filelock would ask again and again)."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # only its owner may: colleagues need it open for writing, whatever the umask
            os.fchmod(file, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        file = os.open(path, os.O_RDONLY)  # a colleague's: it need not be written to be held
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as exc:
            if exc.errno not in _NO_LOCK:
                raise
            log.warning(
                "%s cannot be locked (%s): other processes may decode the same set", path, exc.strerror
            )
        yield
    finally:
        os.close(file)


def _write(decode: Callable[[Path], RawData], folder: Path) -> None:
    temporary = folder.with_name(f"decoding-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()  # tempfile's would be private, also where colleagues share the cache
    try:
        data = decode(temporary)
        for name in _ARRAYS:
            if not (temporary / f"{name}.npy").exists():
                np.save(temporary / f"{name}.npy", getattr(data, name))
        rest = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if f.name not in _ARRAYS}
        (temporary / "meta.json").write_text(json.dumps(rest))
        # Nobody looks at the pixels again: a power cut must not leave half of them.
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _put(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, folder: Path) -> None:
    """Rename to ``folder``, in place of what is damaged there; another process's whole entry stays: it may be read."""
    for last in (False, True):
        try:
            temporary.rename(folder)
            return
        except OSError as exc:
            there = exc.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if there and _is_whole(folder):
                return
            if last or not there:
                raise
        shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path) -> RawData:
    meta = json.loads((folder / "meta.json").read_text())
    # Copy-on-write maps: pages are shared between processes, and torch accepts them as writable.
    # The files say what the fields are: nothing here can know their types.
    fields: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in _ARRAYS}
    fields |= {k: tuple(v) if isinstance(v, list) else v for k, v in meta.items()}
    return RawData(**fields)
