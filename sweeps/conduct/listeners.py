"""Listeners of a sweep: a tracker that records what happens, and a progress display."""

from __future__ import annotations

from typing import Protocol

from sweeps.records.job import Job, Outcome, Snap


class Tracker(Protocol):
    """Records what happens (``sweeps.tracking.writer`` writes it to MLflow)."""

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, row: dict[str, float]) -> None: ...

    def snapshot(self, job: Job, snap: Snap) -> None:
        """A path has finished a model; its path continues. May come twice."""

    def dropped(self, trial_id: str, level: int, why: str) -> None:
        """A snapshot's weights were deleted from the sweep's folder, so no other copy of them is needed either."""

    def finished(self, job: Job, outcome: Outcome) -> None:
        """It has ended, or is a path that rests; that may continue, and end again."""

    def late(self, job: Job, finals: dict[str, float], epoch: int) -> None:
        """Final values that became known after the job had finished."""

    def front(self, hypervolume: float, complete: int, stand_in: str) -> None:
        """The hypervolume of the front of the trials that are complete so far; ``stand_in`` names the snapshot that
        stands for the baseline in its scale, empty = a baseline does.
        """


class Progress(Protocol):
    """Tells the user what happens (``sweeps.driver.progress``)."""

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, row: dict[str, float]) -> None: ...

    def front(self, hypervolume: float | None, left_s: float | None, stand_in: str) -> None:
        """How far the sweep is, as far as that is known; comes before :meth:`finished`."""

    def snapshot(self, job: Job, snap: Snap) -> None: ...

    def rested(self, job: Job) -> None:
        """A path has given its worker back; it may start again. Why it rests has been noted."""

    def finished(self, job: Job, outcome: Outcome, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...
