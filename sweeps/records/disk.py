"""Files that are written completely or not at all, and full disks: how to recognise them and what to tell the user.

A full disk is nobody's fault but the disk's: no trial may fail for it, and the sweep can be continued.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gcp_core.records.durable import flush

#: No room on the device, a quota used up, a file at its largest.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, text: str) -> None:
    """Write or replace a file in one step: a reader sees all of it or nothing of it, also after a power cut.

    Waits for the disk, as a line of the ledger does: for what is written every few seconds at most, not for every epoch.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    os.replace(temporary, path)


def is_full(exc: BaseException | None) -> bool:
    """Whether the exception, or one that it came from, is a disk without room."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in _FULL:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def advice(folder: object) -> str:
    """One sentence: what happened and what to do."""
    return f"the disk of {folder} is full; make room and run again: the sweep continues"
