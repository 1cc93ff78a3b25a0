"""Files that outlast a power cut.

A system writes what it was given when it likes, up to half a minute later, and may do a rename before that: the name then
stands for an empty file, or for half of one.
"""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until the disk has what was written to that file: milliseconds, on a busy disk tenths of a second."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
