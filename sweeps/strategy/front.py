"""The front while the sweep runs: its hypervolume after every trial, on scales that do not move with the results."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gcp_core import schema
from gcp_core.schema import FINALS, Direction

if TYPE_CHECKING:
    import pandas as pd

    from analysis.front.anchors import Anchors
    from sweeps.records.job import Job, Record
    from sweeps.records.ledger import SnapshotRecord


class LiveFront:
    """Collects final values as trials end.

    The scales are those of ``analysis.show.publish``: accuracy from ten points below the mean baseline to it, costs from
    the baseline's to nothing. Of paths the most accurate snapshot 0 so far stands for the baseline until one has ended;
    without either there is no hypervolume. A later baseline (of another seed, say) shifts the scale of what comes after
    it, and so does a better snapshot 0. Objectives without such a scale have no hypervolume while the sweep runs.

    Attributes:
        complete: single trials and models of paths so far that may be on the front.
        stand_in: the snapshot that stands for the baseline, such as ``t0003@0``; empty once a baseline has ended.
    """

    def __init__(self, objectives: Mapping[str, Direction]) -> None:
        self._objectives = dict(objectives)
        self._baselines: list[dict[str, float]] = []
        self._unpruned: dict[str, float] = {}
        self._rows: list[dict[str, float] | None] = []
        self._ends: list[int] = []  # how many rows there were when each trial ended
        self._left: set[str] = set()
        self._best: dict[int, _Best] = {}
        self._chance = 0.0
        self._known: dict[int, float | None] = {}
        self._scales: list[Anchors | None] = []  # none, or the one that holds now
        self.complete = 0
        self.stand_in = ""

    def baseline(self, finals: Mapping[str, float], folder: str | Path) -> None:
        """A baseline is complete; the manifest in its folder says how many classes there are to guess among."""
        self._baselines.append(dict(finals))
        self._chance = self._chance or _chance(Path(folder) / schema.ARTIFACT_MANIFEST)
        self.stand_in = ""
        self._moved()

    def unpruned(self, job: Job, finals: Mapping[str, float]) -> None:
        """A path has finished its snapshot 0, which may stand for the baseline."""
        accuracy = finals.get("val_accuracy", math.nan)
        if self._baselines or not accuracy > self._unpruned.get("val_accuracy", -math.inf):
            return
        self._unpruned = {**finals, "baseline_epochs": job.config.baseline().train.num_epochs}
        self._chance = self._chance or _chance(
            Path(job.folder) / schema.snapshot_artifact(0, schema.ARTIFACT_MANIFEST)
        )
        self.stand_in = schema.model_id(job.trial_id, 0)
        self._moved()

    def _moved(self) -> None:
        """The scales are others."""
        self._known.clear()
        self._scales.clear()

    def trial(self, finals: Mapping[str, float] | None) -> None:
        """A single trial has ended; None = without a place on the front."""
        self.model(finals)
        self._ends.append(len(self._rows))

    def model(self, finals: Mapping[str, float] | None) -> None:
        """A path has finished a model; None as in :meth:`trial`."""
        self._rows.append(None if finals is None else {name: finals[name] for name in self._objectives})
        self.complete += finals is not None
        self._known.clear()

    def path_left(self, trial_id: str) -> None:
        """A path has come to rest or to its end: as one trial, and again where there are new models since."""
        if trial_id not in self._left or len(self._rows) > self._ends[-1]:
            self._left.add(trial_id)
            self._ends.append(len(self._rows))
            self._known.clear()

    def recall(
        self,
        trials: list[Record],
        baselines: list[Record],
        snapshots: Mapping[str, list[SnapshotRecord]] | None = None,
    ) -> None:
        """What the ledger knows, in the order in which the trials ended (a plateau is of the last ones, and with several
        workers these are not those of the highest numbers); a path's snapshots stand for it.
        """
        searched = {record.job.baseline_key for record in trials}
        for record in baselines:
            if record.status == "complete" and record.key in searched:
                self.baseline(record.finals, record.job.folder)
        for record in sorted(trials, key=lambda one: one.ended_ms or math.inf):  # 0 = it has not ended
            if not record.job.config.is_path:
                if record.finished:
                    standing = record.status == "complete" and record.values is not None
                    self.trial(record.finals if standing else None)
                continue
            for known in (snapshots or {}).get(record.job.trial_id, []):
                if known.snap.level == 0:
                    self.unpruned(record.job, known.snap.finals)
                standing = known.snap.status == "complete" and known.values is not None
                self.model(known.snap.finals if standing else None)
            if record.finished or record.status == "paused":
                self.path_left(record.job.trial_id)

    def hypervolume(self, without_last: int = 0) -> float | None:
        """Share of the box between worst and best that the front dominates; None = not known yet.

        ``without_last`` takes the front as it was before as many trials ended.
        """
        if without_last not in self._known:
            best = self._best.setdefault(without_last, _Best(self._objectives))
            count = self._ends[-without_last - 1] if without_last else len(self._rows)
            self._known[without_last] = self.hypervolume_of(best.of(self._rows, count))
        return self._known[without_last]

    def hypervolume_of(self, rows: Sequence[Mapping[str, float]]) -> float | None:
        """The same of any models, each with its objectives by short name; None without a scale, 0 without a model."""
        import pandas as pd

        from analysis.front.pareto import hypervolume

        anchors = self._anchors()
        if anchors is None:
            return None
        table = pd.DataFrame(list(rows), columns=list(self._objectives), dtype=float)
        return hypervolume(table, self._objectives, anchors).value if len(table) else 0.0

    def scale(self) -> tuple[dict[str, float], dict[str, float]] | None:
        """(worst, best) value of each objective, in its own unit: the corners of the box. None = not known yet."""
        anchors = self._anchors()
        if anchors is None:
            return None
        ends = {name: anchors.of[name] for name in self._objectives}
        return {name: end.worst for name, end in ends.items()}, {name: end.best for name, end in ends.items()}

    def growth(self, last: int) -> float | None:
        """Growth of the hypervolume over the ``last`` trials in per cent; None if there was none before them."""
        before = self.hypervolume(last) if len(self._ends) > last else None
        now = self.hypervolume()
        return 100 * (now / before - 1) if before and now is not None else None

    def _anchors(self) -> Anchors | None:
        if not self._scales:
            self._scales.append(self._new_anchors())
        return self._scales[0]

    def _new_anchors(self) -> Anchors | None:
        import pandas as pd

        from analysis.front.anchors import anchors_for
        from gcp_core.errors import ConfigError

        if not (self._baselines or self._unpruned):
            return None
        rows = self._baselines or [self._unpruned]
        table: pd.DataFrame = pd.DataFrame(rows, columns=[*FINALS, "baseline_epochs"], dtype=float)
        kind, level = ("baseline", math.nan) if self._baselines else ("trial", 0.0)
        table = table.assign(kind=kind, level=level, candidate=False)
        table.attrs["chance"] = self._chance
        try:
            return anchors_for(table, self._objectives)
        except ConfigError:  # no scale but the results' own, which would move with them
            return None


class _Best:
    """The non-dominated ones of a list that grows, so that no hypervolume looks at all of thousands of trials again."""

    def __init__(self, objectives: Mapping[str, Direction]) -> None:
        self._signs = np.array([-1.0 if direction == "max" else 1.0 for direction in objectives.values()])
        self._names = list(objectives)
        self._seen = 0
        self._costs = np.empty((0, len(objectives)))
        self._rows: list[dict[str, float]] = []

    def of(self, rows: Sequence[dict[str, float] | None], count: int) -> list[dict[str, float]]:
        """Those among the first ``count``, which is never less than before; of equals one."""
        for row in rows[self._seen : count]:
            if row is not None:
                self._add(row)
        self._seen = max(self._seen, count)
        return self._rows

    def _add(self, row: dict[str, float]) -> None:
        costs = np.array([row[name] for name in self._names]) * self._signs
        if not np.isfinite(costs).all() or (self._costs <= costs).all(axis=1).any():
            return
        kept = ~(self._costs >= costs).all(axis=1)
        self._costs = np.vstack([self._costs[kept], costs])
        self._rows = [*itertools.compress(self._rows, kept), row]


def _chance(manifest_file: Path) -> float:
    """Accuracy of guessing in per cent, 0 if unknown."""
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        classes = float(manifest["num_classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return 100.0 / classes if math.isfinite(classes) and classes > 1 else 0.0
