"""Why a trial was lost, in one sentence, from what Ray says about a process that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from sweeps.records.disk import AWAY
from sweeps.records.layout import HANG_FILE
from sweeps.worker.watchdog import hung

_LOWER = "lower train.batch_size or search.concurrency"
#: (pattern in Ray's words, ours); the first that fits counts. Ray's text on a killed process guesses at memory too, so
#: only its own memory monitor's words are taken for that.
_REASONS = (
    (rf"\[Errno ({'|'.join(map(str, AWAY))})\]", "a disk or a file server did not answer"),
    (r"node has died|node was terminated|node \w+ .*(dead|died)", "its node died"),
    (
        r"node running low on memory|due to memory pressure|OutOfMemoryError",
        f"Ray ended its process because its node ran out of memory ({_LOWER})",
    ),
    (r"[Uu]navailable", "its node or process could no longer be reached"),
    (
        r"OOM killer|SIGKILL|connection error|unexpectedly",
        f"its process was killed, perhaps by the kernel, because memory ran out ({_LOWER}), or it crashed",
    ),
)


#: Ray's words of a process that cannot even be made, because what it is made of cannot be imported there.
_NO_CODE = "failed to import on the worker"


def without_code(said: str) -> str:
    """What to do if a node, one that joined late, cannot import what a trial's process is made of; empty = it can.

    Args:
        said: Ray's text about a failure.
    """
    if _NO_CODE not in said:
        return ""
    node = re.search(r"\bip=([^,)\s]+)", said)
    lines = [line.strip() for line in said.splitlines() if "Error: " in line and _NO_CODE not in line]
    return (
        f"a node{f' ({node.group(1)})' if node else ''} cannot run this project's code"
        f" ({lines[-1] if lines else 'its packages are not installed there'}): install the same environment on every"
        " node, those that join later too; mend or remove the node and run again: the sweep continues"
    )


def loss_reason(said: str, attempts: int, folder: str | Path, epoch: int = 0) -> str:
    """One sentence for the user.

    Args:
        said: Ray's text about the last loss; may be empty.
        attempts: how often the trial was started, since its last epoch if it has trained any.
        epoch: the last one it has reported.
        folder: the trial's; the watchdog's file there says that it hung.
    """
    all_of_them = f"in all {attempts} attempts" + (f" after epoch {epoch}" if epoch else "")
    times = f"{all_of_them}, " if attempts > 1 else ""
    if hung(folder):
        where = Path(folder) / HANG_FILE
        return f"lost {times}at least once because it hung; {where} says where every thread was"
    code = re.search(r"exit(?:ed)?[^\n]{0,40}\bcode[ =]+(-?\d+)", said)
    reason = next((words for pattern, words in _REASONS if re.search(pattern, said)), "")
    if code is not None and code.group(1) not in ("0", "2"):  # 2 is what Ray says of a broken connection
        reason = f"its process ended with exit code {code.group(1)}"
    if not reason:
        first = " ".join(said.split())[:200]
        reason = f"its process or node is gone{f': {first}' if first else ''}"
    return f"lost {times}the last time because {reason}" if times else f"lost because {reason}"
