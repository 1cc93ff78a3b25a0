"""What is known of every run so far, as columns, so that a decision costs no step of Python per run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gcp_core.errors import required
from sweeps.records.job import Job

if TYPE_CHECKING:  # it brings torch
    from sweeps.strategy.feasibility import Projection

COSTS = ("macs", "params")


def rung_epochs(rungs: Sequence[float], epochs: int) -> tuple[int, ...]:
    """The epochs after which trials of this length are compared: shares of ``epochs``, rounded; never before the second.

    >>> rung_epochs((0.25, 0.5), 12)
    (3, 6)
    """
    at = {max(2, math.floor(share * epochs + 0.5)) for share in rungs}
    return tuple(sorted(epoch for epoch in at if epoch < epochs))


class Table:
    """What the rule compares, of all runs that are trained equally long: a row each, in the order of their first report.

    Columns: whether it is a ``trial`` (not a baseline), whether it was ``stopped``, its ``final`` accuracy (NaN = not
    trained to the end), its cost ``now``, at its ``end`` as far as can be foreseen, and ``dense`` (MACs, params), the
    number of its baseline among ``twins``, its accuracy after every epoch up to the last rung (``so_far``), and the best
    up to each rung (``best``). A decision looks at columns, so that it costs no step of Python per trial.
    """

    def __init__(self, epochs: int, rungs: tuple[int, ...]) -> None:
        self.epochs, self.rungs = epochs, rungs
        self._twins: dict[str, int] = {}
        self._baseline_rows: list[int] = []
        shapes = {"now": 2, "end": 2, "dense": 2, "so_far": max(rungs, default=0), "best": len(rungs)}
        wide = [(name, "f8", (width,)) for name, width in shapes.items()]
        kinds = [("trial", "?"), ("stopped", "?"), ("final", "f8"), ("twin", "i8"), *wide]
        self._rows, self._used = np.zeros(64, dtype=kinds), 0

    @property
    def rows(self) -> np.ndarray:
        """(n,) a structured array, written in place."""
        return self._rows[: self._used]

    def enter(self, job: Job, projection: Projection | None) -> int:
        """A new row; its number."""
        number = self._used
        if number == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._used += 1
        row, key = self._rows[number], job.baseline_key if projection is not None else job.config.key()
        row["trial"] = projection is not None
        row["final"], row["so_far"], row["best"] = math.nan, math.nan, math.nan
        if key not in self._twins:
            self._twins[key] = len(self._baseline_rows)
            self._baseline_rows.append(-1)
        row["twin"] = self._twins[key]
        if projection is None:
            self._baseline_rows[row["twin"]] = number
        else:
            row["dense"] = [projection.dense[kind] for kind in COSTS]
        return number

    def baselines(self, peers: np.ndarray) -> np.ndarray:
        """The row of the baseline of each row in ``peers``, -1 = it has not reported yet."""
        return np.array(self._baseline_rows, dtype=int)[self.rows["twin"][peers]]


@dataclass(slots=True)
class Course:
    """One run: where it stands in its table, and what its cost depends on.

    A baseline has no ``projection``: it costs what it costs. ``last_event``: no event after that epoch.
    """

    table: Table
    row: int
    of: str
    last_event: int
    projection: Projection | None
    epoch: int = 0
    ended: bool = False

    @property
    def foreseen(self) -> Projection:
        """``projection`` of a trial that prunes; ValueError for a baseline."""
        return required(self.projection, "the projection of a baseline")

    @property
    def stopped(self) -> bool:
        """Whether it will not be trained to the end."""
        return bool(self.table.rows[self.row]["stopped"])

    def now(self, kind: str) -> float:
        return float(self.table.rows[self.row]["now"][COSTS.index(kind)])

    def take(self, row: Mapping[str, float]) -> None:
        """One epoch is over; one that was trained again counts as reported last."""
        mine, epoch, accuracy = self.table.rows[self.row], int(row["epoch"]), row["val/accuracy"]
        if math.isfinite(accuracy):
            self.epoch = max(self.epoch, epoch)
            if epoch <= len(mine["so_far"]):
                mine["so_far"][epoch - 1] = accuracy
                for i, rung in enumerate(self.table.rungs):
                    if epoch <= rung:  # right after an event the accuracy says little: the best one counts
                        mine["best"][i] = np.nanmax(mine["so_far"][:rung])
        if not self.ended:
            mine["now"] = [row[f"cost/{kind}"] for kind in COSTS]
        self._foresee()

    def end(self, finals: Mapping[str, float]) -> None:
        """It has been trained to the end."""
        mine, self.ended = self.table.rows[self.row], True
        mine["final"], mine["now"] = finals["val_accuracy"], [finals[kind] for kind in COSTS]
        self._foresee()

    def _foresee(self) -> None:
        mine = self.table.rows[self.row]
        mine["end"] = mine["now"]
        if not self.events_over():
            mine["end"] = np.minimum(mine["now"], [self.foreseen.final[kind] for kind in COSTS])

    def events_over(self) -> bool:
        """Whether nothing will be removed any more."""
        if self.projection is None or self.ended:
            return True
        return self.epoch >= self.last_event or self.now(self.of) <= self.projection.limit

    def least_cost(self, kind: str) -> float:
        """What the trial will cost at least at its end."""
        return self.now(kind) if self.events_over() else self.foreseen.least[kind]
