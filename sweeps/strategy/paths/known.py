"""What is known of all paths of a sweep, and what each of them promises; told in any order."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from analysis.front.pareto import nondominated
from gcp_core.config import TrialConfig
from gcp_core.errors import required
from sweeps.config.limits import Limit
from sweeps.config.paths import Step, foreseen_cost, steps_ahead
from sweeps.strategy.paths.gain import FARTHEST, Bound, Promise, Scale, cases, promise, to_points
from sweeps.strategy.paths.outlook import ACCURACIES, Ask, Outlook, Seen
from sweeps.strategy.paths.volume import Front

#: The scale of the rule reaches so many times as far below the top accuracy as the usable one: what nobody would ship
#: is still the next model of a path that was asked to go so deep.
DEEPER = 2.0
#: Limits that further pruning cannot mend.
_MENDLESS = (("val_accuracy", ">="), ("accuracy_drop", "<="))


@dataclass(frozen=True)
class Snapshot:
    """A finished model. ``standing``: it may be on the front; ``violations``: limit -> by how much it is broken."""

    epoch: int
    finals: Mapping[str, float]
    standing: bool
    violations: Mapping[str, float]


@dataclass
class Path:
    """One path. ``state``: running, paused or ended; empty = only its snapshots are known.

    ``snapshots``: by level; ``seen``: the same by depth, as the outlook wants them; ``ask``: what it still does, as far
    ahead as anybody looks, None before its config is known; ``rank`` sorts paths by cost.
    """

    config: TrialConfig | None = None
    state: str = ""
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    seen: tuple[Seen, ...] = ()
    ask: Ask | None = None
    rank: tuple[Any, ...] = ()

    def look_ahead(self, name: str = "") -> None:
        """Note what it still does; its config must be known."""
        last = self.seen[-1] if self.seen else None
        done = (None, 0) if last is None else (last.removed, last.epoch)
        steps = tuple(islice(steps_ahead(self.known_config, *done), FARTHEST))
        self.ask = Ask(name, self.seen, steps, self.known_config.pruning.interval)

    @property
    def steps(self) -> Sequence[Step]:
        """What it still does."""
        return () if self.ask is None else self.ask.steps

    @property
    def known_config(self) -> TrialConfig:
        """``config``; ValueError where only snapshots are known."""
        return required(self.config, "the config of a path")

    def broken_for_good(self, limits: Sequence[Limit]) -> str:
        """The limit on accuracy that the last two models break, both deeper than the path's best one; empty = none."""
        levels = sorted(self.snapshots)
        accuracy = [_accuracy(self.snapshots[level].finals) for level in levels]
        if len(levels) < 3 or accuracy.index(max(accuracy)) >= len(levels) - 2:
            return ""
        last = [self.snapshots[level].violations for level in levels[-2:]]
        for limit in limits:
            if (limit.name, limit.op) in _MENDLESS and all(
                broken.get(limit.text, 0.0) > 0 for broken in last
            ):
                return limit.text
        return ""


class KnownPaths:
    """All paths of a sweep.

    Args:
        objectives: short name of a final value -> ``max`` or ``min``.
        limits: the constraints.

    Attributes:
        evaluations: how many promises have been worked out.
    """

    def __init__(self, objectives: Mapping[str, str], limits: Sequence[Limit]) -> None:
        self._objectives, self.limits = dict(objectives), tuple(limits)
        self._names = tuple(dict.fromkeys([*self._objectives, *(limit.name for limit in self.limits)]))
        self._signs = np.array([-1.0 if d == "max" else 1.0 for d in self._objectives.values()])
        self._paths: dict[str, Path] = {}
        # By name, so that nothing depends on the order of telling; and kept so, as thousands take long to sort.
        self._running: list[str] = []
        self._paused: list[str] = []
        self._ranked: list[tuple[tuple[Any, ...], str]] = []
        self._scale: Scale | None = None
        self._anchors: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})
        self._top = math.nan
        self.evaluations = 0
        self._forget()

    def __getitem__(self, trial_id: str) -> Path:
        return self._paths[trial_id]

    # --- what it is told ----------------------------------------------------------------------------------------------

    def scale(self, worst: Mapping[str, float], best: Mapping[str, float]) -> bool:
        """The anchors of the objectives; no scale if one lacks them. Whether they are others than before."""
        if (worst, best) == self._anchors:
            return False
        self._anchors = (dict(worst), dict(best))
        self._scale, names = None, tuple(self._objectives)
        top, moved = best.get("val_accuracy", math.nan), best.get("val_accuracy", math.nan) != self._top
        self._top = top
        ends = [(worst.get(name, math.nan), best.get(name, math.nan)) for name in names]
        if all(math.isfinite(low) and math.isfinite(high) and low != high for low, high in ends):
            low, high = np.array(ends, dtype=float).T
            reach = np.array([DEEPER if name in ACCURACIES else 1.0 for name in names])
            self._scale = Scale(names, high + (low - high) * reach, high)
        if moved and "accuracy_drop" in self._names:
            self._learn_anew()
        return True

    def started(self, trial_id: str, config: TrialConfig) -> None:
        """A path runs: a new one, or one that was paused."""
        self.turns(trial_id, "running")
        path = self._paths[trial_id]
        if path.config is not None:
            _take_out(self._ranked, (path.rank, trial_id))
        whole = tuple(islice(steps_ahead(config), FARTHEST))
        path.config, path.rank = (
            config,
            (foreseen_cost(config), *((step.removed, step.cost) for step in whole)),
        )
        insort(self._ranked, (path.rank, trial_id))
        self._learn(trial_id, path)

    def snapshot(self, trial_id: str, level: int, snapshot: Snapshot) -> bool:
        """A path has finished a model; whether that was news."""
        path = self._paths.setdefault(trial_id, Path())
        known = path.snapshots.get(level)
        path.snapshots[level] = snapshot
        if known is None:
            self._learn(trial_id, path)
        elif known != snapshot:
            self._learn_anew()
        return known != snapshot

    def turns(self, trial_id: str, state: str) -> None:
        """A path is ``running`` or ``paused``, or has ``ended``."""
        path = self._paths.setdefault(trial_id, Path())
        if path.state == state:
            return
        names = {"running": self._running, "paused": self._paused}
        if path.state in names:
            _take_out(names[path.state], trial_id)
        if state in names:
            insort(names[state], trial_id)
        path.state = state

    def _forget(self) -> None:
        self._outlook = Outlook(self._names)
        self._best = np.empty((0, len(self._objectives)))
        self._bounds: dict[str, tuple[tuple[str, int], Bound]] = {}

    def _learn_anew(self) -> None:
        self._forget()
        for trial_id, path in self._paths.items():
            self._learn(trial_id, path)

    def _learn(self, trial_id: str, path: Path) -> None:
        """Take in all that is known of a path; before its config is known nothing can be said of it."""
        if path.config is None:
            return
        share = f"{path.config.pruning.of}_removed"
        taken = [(level, path.snapshots[level]) for level in sorted(path.snapshots)]
        path.seen = tuple(
            Seen(one.finals[share], one.epoch, self._complete(one.finals))
            for _, one in taken
            if math.isfinite(one.finals.get(share, math.nan))
        )
        path.look_ahead(trial_id)
        if path.seen:
            self._outlook.tell(trial_id, path.seen)
        rows = [
            [self._complete(one.finals).get(name, math.nan) for name in self._objectives]
            for _, one in taken
            if one.standing
        ]
        values = np.array(rows, dtype=float).reshape(-1, len(self._objectives))
        values = np.vstack([self._best, values[np.isfinite(values).all(axis=1)]])
        self._best = np.unique(values[nondominated(values * self._signs)], axis=0)
        for level, one in taken:
            self._learn_bounds((trial_id, level), one)

    def _learn_bounds(self, where: tuple[str, int], one: Snapshot) -> None:
        """The number of a relative limit is known from values that were judged by it."""
        for limit in self.limits:
            excess = one.violations.get(limit.text, math.nan)
            value = self._complete(one.finals).get(limit.name, math.nan)
            if math.isfinite(excess) and math.isfinite(value):
                known = self._bounds.get(limit.text)
                if known is None or known[0] <= where:
                    bound = Bound(limit.name, limit.op == "<=", limit.of(value, excess))
                    self._bounds[limit.text] = (where, bound)

    def _complete(self, finals: Mapping[str, float]) -> Mapping[str, float]:
        drop = self._top - finals.get("val_accuracy", math.nan)
        return finals if "accuracy_drop" in finals or math.isnan(drop) else {**finals, "accuracy_drop": drop}

    # --- what it says -------------------------------------------------------------------------------------------------

    def comparable(self) -> bool:
        """Whether there is a scale, and a path that shows the way down."""
        return self._scale is not None and any(
            path.state == "ended" and len(path.seen) > 1 for path in self._paths.values()
        )

    def paused(self) -> list[str]:
        """Paused paths that have something left to do, by name."""
        return [name for name in self._paused if self._paths[name].steps]

    @property
    def standing(self) -> bool:
        """Whether there is a model that may be on the front."""
        return len(self._best) > 0

    def front(self, without: str = "") -> Front:
        """Of the models there are, and of those that running paths are expected to finish next."""
        scale = required(self._scale, "the scale")
        asks = [self._paths[name].ask for name in self._running if name != without]
        going = [ask for ask in asks if ask is not None and ask.steps]
        there = scale.losses(self._best)
        if not going:
            return Front(there)
        return Front(np.vstack([there, to_points(self._outlook.next(going), scale, self._limits_in_numbers)]))

    def promise(self, trial_id: str, front: Front) -> Promise | None:
        """What a begun path promises; None where its last model has no values."""
        path = self._paths[trial_id]
        last = path.seen[-1].finals if path.seen else {}
        if path.ask is None or not all(math.isfinite(last.get(name, math.nan)) for name in self._objectives):
            return None
        return self._worked_out(path.ask, front)

    def promise_of_new(self, front: Front) -> Promise | None:
        """What a new path promises, taken for one of median cost among those started; None if nothing is known."""
        if not self._ranked or not all(map(self._outlook.known, self._objectives)):
            return None
        typical = Path(self._paths[self._ranked[(len(self._ranked) - 1) // 2][1]].config)
        typical.look_ahead()
        return self._worked_out(required(typical.ask, "its steps"), front)

    def _worked_out(self, ask: Ask, front: Front) -> Promise:
        self.evaluations += 1
        foreseen = cases(self._outlook.ahead(ask), self._names)
        points = to_points(foreseen, required(self._scale, "the scale"), self._limits_in_numbers)
        return promise(front, points, [step.cost for step in ask.steps])

    @property
    def _limits_in_numbers(self) -> list[Bound]:
        return [bound for _, bound in self._bounds.values()]


def _take_out(ordered: list[Any], one: Any) -> None:
    """Remove what is there from an ordered list."""
    del ordered[bisect_left(ordered, one)]


def _accuracy(finals: Mapping[str, float]) -> float:
    value = finals.get("val_accuracy", -finals.get("accuracy_drop", math.inf))
    return value if math.isfinite(value) else -math.inf
