"""Ray's words about a process that is gone, in one sentence of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.driver.losses import loss_reason
from sweeps.worker.watchdog import HANG_FILE

DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n\tpid: 123\n"
KILLED = (
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process"
    " was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
SAID = [
    ("The actor died because its node has died. Node Id: abc", "its node died"),
    ("the actor's node was terminated unexpectedly: raylet lost", "its node died"),
    (
        f"{DIED}1 worker(s) were killed due to the node running low on memory.",
        "Ray ended its process because its node ran out of memory (lower train.batch_size or search.concurrency)",
    ),
    (
        DIED + KILLED,
        "its process was killed, perhaps by the kernel, because memory ran out (lower train.batch_size or"
        " search.concurrency), or it crashed",
    ),
    (f"{DIED}Worker exits with an exit code 1.", "its process ended with exit code 1"),
    ("ray.exceptions.ActorUnavailableError: RPC error", "its node or process could no longer be reached"),
    ("", "its process or node is gone"),
    ("something\nnew", "its process or node is gone: something new"),
]


@pytest.mark.parametrize(("said", "reason"), SAID)
def test_the_reason_is_one_sentence(said: str, reason: str, tmp_path: Path) -> None:
    assert loss_reason(said, 1, tmp_path) == f"lost because {reason}"
    assert loss_reason(said, 3, tmp_path) == f"lost in all 3 attempts, the last time because {reason}"


def test_a_trial_that_hung_says_so_and_where(tmp_path: Path) -> None:
    (tmp_path / HANG_FILE).write_text("Timeout (0:00:02)!")
    text = loss_reason(DIED + KILLED, 2, tmp_path)
    assert text.startswith("lost in all 2 attempts, at least once because it hung; ")
    assert str(tmp_path / HANG_FILE) in text
