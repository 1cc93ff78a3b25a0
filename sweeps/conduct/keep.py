"""Which weights a sweep of paths keeps while it runs: a path leaves a model per cycle, and few of them are needed.

With ``search.keep: front`` the weights of a snapshot go once another model, no worse in every other objective, is more
accurate than the upper end of the snapshot's own 95 % interval (``analysis.front.band``). The front only moves forward,
so what has left its band never comes back into it. A snapshot that breaks a limit goes too, unless its accuracy breaks
the limit by less than its interval. Weights of baselines and confirmation runs stay; so do those of paths that are being
trained, until they rest or end. No state of a path goes: it is not made of its snapshots' weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcp_core import schema
from gcp_core.schema import FINALS, model_id
from sweeps.config.limits import parse_limit
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Record
from sweeps.records.ledger import SnapshotRecord
from sweeps.storage.exchange import Exchange
from sweeps.storage.weights import drop, there, weights_of

_log = logging.getLogger(__name__)
#: So many manifests are asked on how many images an accuracy was counted; none says it where the runner is not ours.
_ASKED = 8


@dataclass(frozen=True)
class Dropped:
    """Deleted weights: of which model, and why."""

    trial_id: str
    level: int
    why: str


class Keeper:
    """What one driver knows of the snapshots of the search, and whose weights are still there.

    Args:
        known: trial id -> its snapshots, as the ledger holds them.
        trials: of the search; others' weights (of confirmation runs) are nobody's business here.
    """

    def __init__(
        self,
        config: SweepConfig,
        exchange: Exchange,
        known: Mapping[str, list[SnapshotRecord]],
        trials: Iterable[Record],
    ) -> None:
        self._objectives = dict(config.search.objectives)
        self._on = config.search.keep == "front" and bool(self._objectives)
        self._exchange = exchange
        self._images = 0.0
        self._front = np.empty((0, len(self._objectives)))
        self._names: list[str] = []
        self._there: dict[tuple[str, int], SnapshotRecord] = {}
        self._slacks: dict[tuple[str, int], tuple[np.ndarray, str]] = {}
        self._running: set[str] = set()
        if self._on and known:
            names = [record.job.trial_id for record in trials]
            every = {(name, one.snap.level): one for name in names for one in known.get(name, ())}
            for model, one in every.items():
                self._stand(*model, one)
            self._there = {model: every[model] for model in there(exchange, every.keys())}

    def runs(self, trial_id: str) -> None:
        """A path is being trained: nothing of it is touched until :meth:`settled`."""
        self._running.add(trial_id)

    def snapshot(self, trial_id: str, taken: SnapshotRecord) -> None:
        """A path of the search has finished a model."""
        if self._on:
            self._stand(trial_id, taken.snap.level, taken)
            self._there[trial_id, taken.snap.level] = taken
            self._slacks.pop((trial_id, taken.snap.level), None)

    def settled(self, trial_id: str) -> list[Dropped]:
        """A path rests or has ended. Drop what has left the band now, of all paths that are not being trained."""
        self._running.discard(trial_id)
        return self.sweep()

    def sweep(self) -> list[Dropped]:
        """Drop what has left the band; what cannot be removed now is tried again the next time."""
        if not self._on:
            return []
        looked_at = [model for model in self._there if model[0] not in self._running]
        found = []
        for model, why in self._out(looked_at).items():
            try:
                drop(self._exchange, *model, why)
            except OSError as exc:
                _log.warning("the weights of %s are kept for now: %s", model_id(*model), exc)
                continue
            del self._there[model], self._slacks[model]
            found.append(Dropped(*model, why))
        return found

    def _stand(self, trial_id: str, level: int, taken: SnapshotRecord) -> None:
        from analysis.front.objectives import minimised
        from analysis.front.pareto import nondominated

        if taken.values is None or taken.snap.status != "complete" or not np.isfinite(taken.values).all():
            return
        front = np.vstack([self._front, [taken.values]])
        names = [*self._names, model_id(trial_id, level)]
        best = nondominated(minimised(front, self._objectives.values()))
        self._front, self._names = front[best], [n for n, good in zip(names, best, strict=True) if good]

    def _out(self, models: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Those that have left the band -> why."""
        from analysis.front.band import beaten

        images = self._val_images(models)
        if not images:
            return {}  # nobody can say how far the accuracies are to be trusted
        slacks_of = {model: self._slack(model, images) for model in models}
        out = {
            model: f"{model_id(*model)} breaks {broken}" for model, (_, broken) in slacks_of.items() if broken
        }
        judged = [m for m in models if m not in out and self._there[m].values is not None]
        if not judged:
            return out
        values = np.array([self._there[model].values for model in judged], dtype=float)
        slacks = np.array([slacks_of[model][0] for model in judged])
        by = beaten(values, slacks, self._front, self._objectives)
        for model, rival, own in zip(judged, by, values, strict=True):
            if rival >= 0:
                out[model] = self._said(model, own, int(rival))
        return out

    def _slack(self, model: tuple[str, int], images: float) -> tuple[np.ndarray, str]:
        """How much better its values may be, and the limit that it breaks all the same; worked out once."""
        from analysis.front.band import slack

        if model not in self._slacks:
            taken = self._there[model]
            of_accuracy = float(slack(taken.snap.finals, ["val_accuracy"], images)[0])
            own = slack(taken.snap.finals, self._objectives, images)
            self._slacks[model] = (own, _broken(taken, of_accuracy))
        return self._slacks[model]

    def _said(self, model: tuple[str, int], own: np.ndarray, rival: int) -> str:
        pairs = zip(self._objectives, own, self._front[rival], strict=True)
        beats = ", ".join(f"{name} {theirs:.6g} against {mine:.6g}" for name, mine, theirs in pairs)
        return f"{self._names[rival]} beats {model_id(*model)} by more than chance explains: {beats}"

    def _val_images(self, models: list[tuple[str, int]]) -> float:
        """On how many images the accuracies were counted, as a manifest says; 0 if none does."""
        name = Path(schema.ARTIFACT_MANIFEST).name
        for model in models[-_ASKED:] if not self._images else ():
            try:
                file = (self._exchange.root / weights_of(*model)).with_name(name)
                self._images = float(json.loads(file.read_text(encoding="utf-8"))["val_images"])
                break
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return self._images


def _broken(taken: SnapshotRecord, accuracy_slack: float) -> str:
    """The limit that a snapshot breaks by more than chance explains; empty = none."""
    for text, excess in taken.violations.items():
        limit = parse_limit(text, "search.constraints")
        of_accuracy = limit.name in ("val_accuracy", "accuracy_drop") and limit.name in FINALS
        if excess > (accuracy_slack if of_accuracy else 0.0):
            return text
    return ""
