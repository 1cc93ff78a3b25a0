"""Several files as one object of a store: one request instead of one for each, and all of them or none."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def pack(root: Path, paths: Iterable[str]) -> bytes:
    """A tar of files and folders, each relative to ``root``; FileNotFoundError if one is not there."""
    packed = io.BytesIO()
    # The plain form: names are ours and short, and nobody wants to know whose files they were.
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in paths:
            tar.add(root / path, path)
    return packed.getvalue()


def unpack(content: bytes, root: Path) -> None:
    """Put the files of :func:`pack` below ``root``, nothing elsewhere. One that is there and not shorter stays as it is:
    what two machines write under one name only grows (logs), or is equal.

    Raises ValueError if it is no such tar, or only part of one.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                known = root / member.name
                if not (known.is_file() and known.stat().st_size >= member.size):
                    tar.extract(member, root, filter="data")
    except (tarfile.TarError, EOFError) as exc:
        raise ValueError(f"not a whole pack: {exc}") from exc
