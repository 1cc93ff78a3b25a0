"""Temporary folders of trials' processes on their nodes: those of processes that were killed go with the next one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_log = logging.getLogger(__name__)
_PREFIX = "gcp-trial-"
#: In every folder, locked by its process as long as that lives; holds the folder's label.
_ALIVE = ".alive"


@contextlib.contextmanager
def scratch_folder(label: str, rescue: Callable[[Path], None]) -> Iterator[Path]:
    """A folder for this process, which goes at the end; before, those of dead processes go.

    Args:
        label: what the folder is for.
        rescue: called with every dead process's folder of the same label before that goes; may raise OSError.
    """
    _clear(label, rescue)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / f"{_ALIVE}.new").open("w", encoding="utf-8") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            alive.write(label)
            alive.flush()
            (folder / f"{_ALIVE}.new").rename(folder / _ALIVE)  # not to be seen before it is locked
            yield folder


def _clear(label: str, rescue: Callable[[Path], None]) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Somebody else's, gone meanwhile, or alive: not ours to touch.
        with contextlib.suppress(OSError), (folder / _ALIVE).open("r+", encoding="utf-8") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if alive.read() == label:
                try:
                    rescue(folder)
                except OSError as exc:
                    _log.warning("what a killed trial left in %s is lost: %s", folder, exc)
            shutil.rmtree(folder)
