"""Files that are written completely or not at all; disks that are full, and file servers that were away for a moment:
how to recognise them and what to tell the user.

Both are nobody's fault but theirs: no trial may fail for it, and the sweep can be continued.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from gcp_core.records.durable import flush

#: No room on the device, a quota used up, a file at its largest.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: A file server that was started again or has put its client out (Lustre), or a mount whose process is gone (FUSE): what
#: was open is lost, and what is opened anew may work.
AWAY = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.EHOSTDOWN,
    errno.EREMOTEIO,
)


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
    return _is_one_of(exc, _FULL)


def is_away(exc: BaseException | None) -> bool:
    """Whether the exception, or one that it came from, is a disk or a file server that does not answer."""
    return _is_one_of(exc, AWAY)


def _is_one_of(exc: BaseException | None, numbers: Sequence[int]) -> bool:
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in numbers:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def advice(folder: object) -> str:
    """One sentence: what happened and what to do."""
    return f"the disk of {folder} is full; make room and run again: the sweep continues"
