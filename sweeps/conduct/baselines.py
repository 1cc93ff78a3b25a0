"""Which unpruned twins a sweep has, how they ended, and which answers wait for them.

A trial's measured values are never given up because its baseline is missing: the answer waits, for a further attempt of
this driver or for the next one.
"""

from __future__ import annotations

import builtins
import re
from collections import Counter
from collections.abc import Iterable

from sweeps.records.job import Job, Outcome, Record
from sweeps.strategy.judging import accuracy_drop, baseline_values
from sweeps.worker.gpu import asserted

#: What torch and its libraries say where memory or a device let them down.
_DEVICE = re.compile(r"out of memory|OutOfMemoryError|AcceleratorError|CUDA error|cuDNN|CUBLAS|NCCL", re.I)


class Baselines:
    """The bookkeeping of one driver.

    Args:
        retries: how often one that the machine took is trained again.
        attempts: key -> attempts that the machine took, where they should count over several connections to Ray.
    """

    def __init__(self, retries: int, attempts: Counter[str] | None = None) -> None:
        self._retries, self._attempts = retries, Counter() if attempts is None else attempts
        self._jobs: dict[str, Job] = {}
        self._complete: dict[str, Outcome] = {}
        self._gone: dict[str, tuple[Job, Outcome]] = {}
        self._waiting: dict[str, list[tuple[Job, Outcome]]] = {}
        self._without_drop: dict[str, dict[str, tuple[Job, Outcome]]] = {}

    def get(self, key: str) -> Outcome | None:
        """How the baseline ended, None until it is complete."""
        return self._complete.get(key)

    def has(self, key: str) -> bool:
        """Whether there is a baseline to wait for, or one that this driver has given up."""
        return key in self._jobs

    def is_gone(self, key: str) -> bool:
        """Whether this driver has given up on it."""
        return key in self._gone

    def entered(self, job: Job) -> None:
        """It is queued or runs."""
        self._jobs[job.baseline_key] = job

    def ended(self, job: Job, outcome: Outcome) -> bool:
        """Record how it ended; return whether it should be trained again."""
        key = job.baseline_key
        self._jobs[key] = job
        if outcome.status == "complete":
            self._complete[key] = outcome
            self._gone.pop(key, None)
            return False
        if taken_by_machine(outcome):
            self._attempts[key] += 1
            if self._attempts[key] <= self._retries:
                return True
        self._gone[key] = (job, outcome)
        return False

    def wait(self, job: Job, outcome: Outcome) -> None:
        """Keep an answer until its baseline is complete."""
        self._waiting.setdefault(job.baseline_key, []).append((job, outcome))

    def release(self, key: str) -> list[tuple[Job, Outcome]]:
        """The answers that waited for it."""
        return self._waiting.pop(key, [])

    @property
    def waiting(self) -> tuple[Job, ...]:
        """Trials whose answers wait."""
        return tuple(job for answers in self._waiting.values() for job, _ in answers)

    def lacks_drop(self, job: Job, outcome: Outcome) -> None:
        """A trial ended (or rests) before its baseline; what it lost in accuracy comes later. Its last word counts."""
        last = max(outcome.history, key=lambda row: row["epoch"], default=None)
        told = Outcome(outcome.status, outcome.finals, () if last is None else (last,))  # thousands may wait
        self._without_drop.setdefault(job.baseline_key, {})[job.trial_id] = (job, told)

    def late(self, key: str) -> list[tuple[Job, Outcome]]:
        """The trials that ended before it."""
        return list(self._without_drop.pop(key, {}).values())

    def wanted(self, key: str) -> bool:
        """Whether trials that have ended need it."""
        return key in self._waiting or key in self._without_drop

    def missing(self, needed_by: str, paths: Iterable[Job] = ()) -> str:
        """Which baseline is missing and what cannot be judged without it, as a sentence; empty = nothing.

        ``paths``: those of which a model waits.
        """
        lost = [(job, outcome) for job, outcome in self._gone.values()]
        if not lost:
            return ""
        job, outcome = lost[-1]
        others = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        number = len({one.trial_id for one in (*self.waiting, *paths) if one.baseline_key in self._gone})
        wait = "1 trial waits" if number == 1 else f"{number} trials wait"
        how = {"lost": "was lost", "failed": "failed"}.get(outcome.status, f"ended as {outcome.status}")
        return (
            f"the baseline {job.trial_id}{others} {how} ({outcome.error}), and {needed_by} needs it;"
            f" {wait} for it: run again to continue"
        )


def as_baseline(outcome: Outcome) -> Outcome:
    """The final status of a baseline; one without a finite accuracy failed, as nothing can be compared with it."""
    if outcome.status == "complete" and baseline_values(outcome) is None:
        error = f"final val_accuracy is {outcome.finals.get('val_accuracy', 'missing')}"
        return Outcome(**{**vars(outcome), "status": "failed", "error": error})
    return outcome


def taken_by_machine(outcome: Outcome) -> bool:
    """Whether the same training may succeed next time: its process was lost, or memory, disk or device failed. What the
    trial itself asserts on its device fails every time.

    >>> taken_by_machine(Outcome("failed", error="BrokenPipeError: [Errno 32] Broken pipe"))
    True
    >>> taken_by_machine(Outcome("failed", error="ValueError: no such thing"))
    False
    >>> taken_by_machine(Outcome("failed", error="AcceleratorError: CUDA error: device-side assert triggered"))
    False
    """
    if outcome.status != "failed":
        return outcome.status == "lost"
    if asserted(outcome.error):
        return False
    kind = getattr(builtins, outcome.error.partition(":")[0], None)
    known = isinstance(kind, type) and issubclass(kind, (OSError, MemoryError))
    return known or _DEVICE.search(outcome.error) is not None


def known_drops(baselines: list[Record], trials: list[Record]) -> dict[str, float]:
    """``final/accuracy_drop`` of every trial that has ended or rests and whose baseline is known, by trial id."""
    by_key = {
        record.key: Outcome("complete", record.finals) for record in baselines if record.status == "complete"
    }
    drops: dict[str, float] = {}
    for record in trials:
        baseline = by_key.get(record.job.baseline_key)
        if record.status != "running" and baseline is not None:
            drop = accuracy_drop(Outcome(record.status, record.finals), baseline)
            if drop is not None:
                drops[record.job.trial_id] = drop
    return drops
