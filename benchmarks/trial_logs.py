"""What a trial really did, from its own log: how often it was started, and which epochs it trained each time.

``trial.log`` is appended to by every process that works on the trial. An epoch taken over from another trial is
reported like one that was trained, right after the line that says where it came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gcp_core.schema import ARTIFACT_LOG

_START = re.compile(r" starts in process (\d+)")
_TAKEN_OVER = re.compile(r": epochs (\d+)\.\.(\d+) taken over from another trial")
#: Of so many epochs, or of "?" where a path says when it ends.
_EPOCH = re.compile(r" gcp_core\.training[.\w]*: epoch (\d+)/(?:\d+|\?) ")
_SNAPSHOT = re.compile(r" gcp_core\.training[.\w]*: snapshot (\d+) after epoch (\d+):")
_END = re.compile(r" ends: (\w+)")


@dataclass(frozen=True)
class Attempt:
    """One process's work on a trial: the epochs it trained, those it took over, its last word (empty: none), and of a
    path the snapshots it took, as (level, epoch)."""

    pid: int
    trained: tuple[int, ...]
    taken_over: tuple[int, ...]
    ended: str
    snapshots: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class TrialLog:
    """All attempts at one trial, in order."""

    attempts: tuple[Attempt, ...]

    @property
    def epochs_trained(self) -> int:
        """Epochs that were trained from beginning to end, repetitions included."""
        return sum(len(attempt.trained) for attempt in self.attempts)

    @property
    def epochs_repeated(self) -> list[int]:
        """Per attempt after the first: how many epochs it trained that an earlier one had trained before."""
        seen: set[int] = set()
        repeated = []
        for attempt in self.attempts:
            repeated.append(len(seen & set(attempt.trained)))
            seen |= set(attempt.trained)
        return repeated[1:]

    @property
    def snapshots_retrained(self) -> set[int]:
        """Levels of which an epoch was trained again although an earlier attempt had finished the snapshot."""
        finished: dict[int, int] = {}
        found: set[int] = set()
        for attempt in self.attempts:
            found |= {
                level
                for level, epoch in finished.items()
                if any(trained <= epoch for trained in attempt.trained)
            }
            finished |= dict(attempt.snapshots)
        return found


def read(folder: Path) -> TrialLog:
    """The log in a trial's folder; empty if the trial never started."""
    path = folder / ARTIFACT_LOG
    return parse(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "")


def parse(text: str) -> TrialLog:
    """The attempts described by a log's text."""
    attempts: list[Attempt] = []
    pid, ended, passed_on = 0, "", 0
    trained: list[int] = []
    taken: list[int] = []
    snapshots: list[tuple[int, int]] = []

    def close() -> None:
        if pid:
            attempts.append(Attempt(pid, tuple(trained), tuple(taken), ended, tuple(snapshots)))

    for line in text.splitlines():
        if match := _START.search(line):
            close()
            pid, ended, passed_on = int(match[1]), "", 0
            trained, taken, snapshots = [], [], []
        elif match := _TAKEN_OVER.search(line):
            first, passed_on = int(match[1]), int(match[2])
            taken += range(first, passed_on + 1)
        elif match := _EPOCH.search(line):
            if int(match[1]) != passed_on:
                trained.append(int(match[1]))
            passed_on = 0
        elif match := _SNAPSHOT.search(line):
            snapshots.append((int(match[1]), int(match[2])))
        elif match := _END.search(line):
            ended = match[1]
    close()
    return TrialLog(tuple(attempts))
