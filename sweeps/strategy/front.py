"""The front while the sweep runs: its hypervolume after every trial, on scales that do not move with the results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gcp_core import schema
from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd

    from analysis.front.anchors import Anchors
    from sweeps.records.job import Record
    from sweeps.records.ledger import SnapshotRecord


class LiveFront:
    """Collects final values as trials end.

    The scales are those of ``analysis.show.publish``: accuracy from ten points below the mean baseline to it, costs from
    the baseline's to nothing. So the hypervolume is not known before a baseline has ended, and a later baseline (of
    another seed, say) shifts the scale of what comes after it. Objectives without such a scale have no hypervolume while
    the sweep runs.

    Attributes:
        complete: trials so far that may stand on the front.
    """

    def __init__(self, objectives: Mapping[str, str]) -> None:
        self._objectives = dict(objectives)
        self._baselines: list[dict[str, float]] = []
        self._rows: list[dict[str, float] | None] = []
        self._chance = 0.0
        self._known: dict[int, float | None] = {}
        self.complete = 0

    def baseline(self, finals: Mapping[str, float], folder: str | Path) -> None:
        """A baseline is complete; the manifest in its folder says how many classes there are to guess among."""
        self._baselines.append(dict(finals))
        self._chance = self._chance or _chance(Path(folder))
        self._known.clear()

    def trial(self, finals: Mapping[str, float] | None) -> None:
        """A trial has ended; None = without a place on the front."""
        self._rows.append(None if finals is None else {name: finals[name] for name in self._objectives})
        self.complete += finals is not None
        self._known.clear()

    def recall(
        self,
        trials: list[Record],
        baselines: list[Record],
        snapshots: Mapping[str, list[SnapshotRecord]] | None = None,
    ) -> None:
        """What the ledger knows, in the order of the trials' numbers; a path's snapshots stand for it."""
        searched = {record.job.baseline_key for record in trials}
        for record in baselines:
            if record.status == "complete" and record.key in searched:
                self.baseline(record.finals, record.job.folder)
        for record in trials:
            taken = (snapshots or {}).get(record.job.trial_id, [])
            for known in taken:
                standing = known.snap.status == "complete" and known.values is not None
                self.trial(known.snap.finals if standing else None)
            if record.finished and not taken:
                standing = record.status == "complete" and record.values is not None
                self.trial(record.finals if standing else None)

    def hypervolume(self, without_last: int = 0) -> float | None:
        """Share of the box between worst and best that the front dominates; None = not known yet.

        ``without_last`` leaves out the trials that ended last.
        """
        if without_last not in self._known:
            self._known[without_last] = self._measure(self._rows[: len(self._rows) - without_last])
        return self._known[without_last]

    def growth(self, last: int) -> float | None:
        """Growth of the hypervolume over the ``last`` trials in per cent; None if there was none before them."""
        before = self.hypervolume(last) if len(self._rows) > last else None
        now = self.hypervolume()
        return 100 * (now / before - 1) if before and now is not None else None

    def _measure(self, rows: list[dict[str, float] | None]) -> float | None:
        import pandas as pd

        from analysis.front.pareto import hypervolume

        anchors = self._anchors() if self._baselines else None
        if anchors is None:
            return None
        table = pd.DataFrame(
            [row for row in rows if row is not None], columns=list(self._objectives), dtype=float
        )
        return hypervolume(table, self._objectives, anchors).value if len(table) else 0.0

    def _anchors(self) -> Anchors | None:
        import pandas as pd

        from analysis.front.anchors import anchors_for
        from gcp_core.errors import ConfigError

        table: pd.DataFrame = pd.DataFrame(self._baselines, columns=list(FINALS), dtype=float)
        table = table.assign(kind="baseline", candidate=False)
        table.attrs["chance"] = self._chance
        try:
            return anchors_for(table, self._objectives)
        except ConfigError:  # no scale but the results' own, which would move with them
            return None


def _chance(folder: Path) -> float:
    """Accuracy of guessing in per cent, 0 if unknown."""
    try:
        manifest = json.loads((folder / schema.ARTIFACT_MANIFEST).read_text(encoding="utf-8"))
        classes = float(manifest["num_classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return 100.0 / classes if math.isfinite(classes) and classes > 1 else 0.0
