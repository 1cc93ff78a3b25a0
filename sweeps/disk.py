"""A disk without room: whose errors say so, and what to tell the user.

It is nobody's fault but the disk's: no trial may fail for it, and the sweep can be continued.
"""

from __future__ import annotations

import errno

#: No room on the device, a quota used up, a file at its largest.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(exc: BaseException | None) -> bool:
    """Whether the exception, or one that it came from, is a disk without room."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in _FULL:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def advice(folder: object) -> str:
    """One sentence: what happened and what to do."""
    return f"the disk of {folder} is full; make room, then run again: the sweep continues"
