"""What a free worker does next: a path's next cycle, a paused path again, or a new path. Free of Ray and of MLflow.

One number decides, the promised growth of the hypervolume per training cost (:mod:`sweeps.strategy.gain`). What other
workers are training counts as if it had ended as expected, so that they do not all do the same. While no path has come
to its end there is nothing to compare with, and every path goes on. On equal numbers going on comes before resuming, and
resuming before starting.

Promises of paused paths shrink as the front grows, so only the best ones are looked at anew in a decision, and the few
that were not looked at for longest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from analysis.front.pareto import nondominated
from gcp_core.config import TrialConfig
from sweeps.config.limits import Limit
from sweeps.config.paths import Step, foreseen_cost, steps_ahead
from sweeps.strategy.gain import FARTHEST, Bound, Promise, Scale, cases, promise, to_points
from sweeps.strategy.outlook import Outlook, Seen

NEW_PATH = "a new path"
#: A running path is paused for something that promises more than this many times as much.
CLEARLY_MORE = 1.1
#: So many of the paused paths that were not looked at for longest are looked at in every decision.
_REFRESHED = 3


@dataclass(frozen=True)
class Verdict:
    """What is to be done.

    Attributes:
        action: ``go_on``, ``pause`` or ``end`` of a running path; ``resume``, ``start`` or ``nothing`` for a free worker.
        trial_id: the path that is meant; empty for ``start`` and ``nothing``.
        promise: of what is chosen; of a path that is paused, its own. None where nothing is known yet.
        other: the best alternative that was looked at, None = there was none.
        other_name: a trial id, or :data:`NEW_PATH`.
        reason: one sentence for people.
    """

    action: str
    trial_id: str = ""
    promise: Promise | None = None
    other: Promise | None = None
    other_name: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "action": self.action,
            "trial_id": self.trial_id,
            "promise": None if self.promise is None else self.promise.to_dict(),
            "other": None if self.other is None else self.other.to_dict(),
            "other_name": self.other_name,
            "reason": self.reason,
        }


@dataclass
class _Path:
    """What is known of a path. ``state``: running, paused or ended; empty = only its snapshots are known."""

    config: TrialConfig | None = None
    state: str = ""
    finals: dict[int, Mapping[str, float]] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    standing: dict[int, bool] = field(default_factory=dict)
    violations: dict[int, Mapping[str, float]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    steps: tuple[Step, ...] = ()
    rank: tuple[float, str] = (0.0, "")

    @property
    def deepest(self) -> int:
        return max(self.finals, default=-1)

    @property
    def last(self) -> Seen | None:
        return self.seen[-1] if self.seen else None

    def look_ahead(self) -> None:
        """Note what it still does, as far ahead as anybody looks."""
        done = () if self.last is None else (self.last.removed, self.last.epoch)
        self.steps = tuple(islice(steps_ahead(self.config, *done), FARTHEST))


class Choice:
    """The rule, and what it knows of all paths of a sweep. It is told in any order; told again it does not change.

    Args:
        objectives: short name of a final value -> ``max`` or ``min``.
        min_gain: nothing is done that promises less, in per cent of hypervolume per dense epoch; None = never end for it.
        limits: the constraints.
    """

    def __init__(
        self, objectives: Mapping[str, str], min_gain: float | None, limits: Sequence[Limit] = ()
    ) -> None:
        self._objectives, self._min_gain, self._limits = dict(objectives), min_gain, tuple(limits)
        self._paths: dict[str, _Path] = {}
        self._scale: Scale | None = None
        self._top = math.nan
        self._given = 0
        self._forget()

    def _forget(self) -> None:
        """Back to nothing but what was told."""
        names = dict.fromkeys([*self._objectives, *(limit.name for limit in self._limits)])
        self._outlook = Outlook(names)
        self._names = tuple(names)
        self._best = np.empty((0, len(self._objectives)))
        self._bounds: dict[str, tuple[tuple[str, int], Bound]] = {}
        self._promises: dict[str, tuple[int, Promise]] = {}
        self._clock = 0

    # --- what it is told ----------------------------------------------------------------------------------------------

    def scale(self, worst: Mapping[str, float], best: Mapping[str, float]) -> None:
        """The anchors of the objectives; they may move.

        Snapshots without ``accuracy_drop``, where it is needed, have ``best["val_accuracy"]`` minus their accuracy.
        """
        names = tuple(self._objectives)
        known = [
            name for name in names if math.isfinite(worst.get(name, math.nan) - best.get(name, math.nan))
        ]
        scale, top = None, best.get("val_accuracy", math.nan)
        if len(known) == len(names) and all(worst[name] != best[name] for name in names):
            scale = Scale(
                names, *(np.array([side[name] for name in names], dtype=float) for side in (worst, best))
            )
        self._scale, moved, self._top = scale, top != self._top, top
        self._promises.clear()
        if moved and "accuracy_drop" in self._names:
            self._learn_anew()

    def started(self, trial_id: str, config: TrialConfig) -> None:
        """A path runs: a new one, or one that was paused."""
        path = self._paths.setdefault(trial_id, _Path())
        path.config, path.state = config, "running"
        path.rank = (foreseen_cost(config), config.key())
        self._promises.pop(trial_id, None)
        self._learn(trial_id, path)

    def snapshot(
        self,
        trial_id: str,
        level: int,
        epoch: int,
        finals: Mapping[str, float],
        standing: bool,
        violations: Mapping[str, float],
    ) -> None:
        """A path has finished a model. ``standing``: it may be on the front; ``violations``: limit -> by how much."""
        path = self._paths.setdefault(trial_id, _Path())
        again = level in path.finals
        told = (dict(finals), epoch, standing, dict(violations))
        if again and told == tuple(
            part[level] for part in (path.finals, path.epochs, path.standing, path.violations)
        ):
            return
        path.finals[level], path.epochs[level], path.standing[level], path.violations[level] = told
        self._promises.pop(trial_id, None)
        if again:
            self._learn_anew()
        elif path.config is not None:
            self._learn(trial_id, path)

    def paused(self, trial_id: str) -> None:
        """A path waits."""
        self._paths.setdefault(trial_id, _Path()).state = "paused"

    def ended(self, trial_id: str) -> None:
        """A path never goes on."""
        self._paths.setdefault(trial_id, _Path()).state = "ended"
        self._promises.pop(trial_id, None)

    def given(self, number: int) -> None:
        """So many of the user's own points are still to be started: they are, whatever they promise."""
        self._given = number

    def _learn_anew(self) -> None:
        self._forget()
        for trial_id, path in self._paths.items():
            if path.config is not None:
                self._learn(trial_id, path)

    def _learn(self, trial_id: str, path: _Path) -> None:
        share = f"{path.config.prune.of}_removed"
        path.seen = [
            Seen(path.finals[level][share], path.epochs[level], self._complete(path.finals[level]))
            for level in sorted(path.finals)
            if math.isfinite(path.finals[level].get(share, math.nan))
        ]
        path.look_ahead()
        if not path.seen:
            return
        self._outlook.tell(trial_id, path.seen)
        rows = [
            [self._complete(path.finals[level]).get(name, math.nan) for name in self._objectives]
            for level in sorted(path.finals)
            if path.standing[level]
        ]
        values = np.array(rows, dtype=float).reshape(-1, len(self._objectives))
        values = np.vstack([self._best, values[np.isfinite(values).all(axis=1)]])
        signs = np.array([-1.0 if direction == "max" else 1.0 for direction in self._objectives.values()])
        self._best = np.unique(values[nondominated(values * signs)], axis=0)
        for level in sorted(path.finals):
            self._learn_bounds(trial_id, level, path)

    def _learn_bounds(self, trial_id: str, level: int, path: _Path) -> None:
        """A relative limit's number is what is left of a value when its excess is taken away."""
        for limit in self._limits:
            excess = path.violations[level].get(limit.text, math.nan)
            value = self._complete(path.finals[level]).get(limit.name, math.nan)
            upper = limit.op == "<="
            if math.isfinite(excess) and math.isfinite(value):
                bound = Bound(limit.name, upper, value - excess if upper else value + excess)
                known = self._bounds.get(limit.text)
                if known is None or known[0] <= (trial_id, level):
                    self._bounds[limit.text] = ((trial_id, level), bound)

    def _complete(self, finals: Mapping[str, float]) -> Mapping[str, float]:
        drop = self._top - finals.get("val_accuracy", math.nan)
        return finals if "accuracy_drop" in finals or math.isnan(drop) else {**finals, "accuracy_drop": drop}

    # --- what it says -------------------------------------------------------------------------------------------------

    def goes_on(self, trial_id: str, may_start: bool, waiting: int = 0) -> Verdict:
        """What a running path does that has just finished a model: ``go_on``, ``pause`` or ``end``.

        ``may_start``: a new path may be drawn; ``waiting``: so many have been drawn and not begun.
        """
        path = self._paths[trial_id]
        name = f"{trial_id}@{path.deepest}" if path.finals else trial_id
        broken = self._broken_for_good(path)
        if broken:
            return Verdict("end", trial_id, reason=f"{name} breaks {broken}, as the model before it did")
        if not path.steps:
            return Verdict("end", trial_id, reason=f"{name} is its last model")
        if not self._comparable():
            return Verdict("go_on", trial_id, reason=f"{name} goes on: no path has come to its end yet")
        front = self._front(without=trial_id)
        own = self._promise(trial_id, front)
        if own is None:
            return Verdict("go_on", trial_id, reason=f"{name} goes on: it has no values to judge it by")
        other_name, other = self._best_other(front, may_start or waiting > 0 or self._given > 0)
        compared = f"{name} promises {_said(own)}"
        if other is not None:
            compared += f", {other_name} {_rate(other)}"
        if other is not None and other.rate > CLEARLY_MORE * own.rate and self._enough(other):
            return Verdict("pause", trial_id, own, other, other_name, compared)
        if not self._enough(own):
            least = f"{compared}; less than {self._min_gain:g} is not worth it"
            return Verdict("pause", trial_id, own, other, other_name, least)
        return Verdict("go_on", trial_id, own, other, other_name, compared)

    def next(self, may_start: bool) -> Verdict:
        """What a free worker does: ``resume`` a path, ``start`` a new one, or ``nothing`` as nothing promises enough."""
        may_start = may_start or self._given > 0
        paused = self._paused()
        if not paused and not may_start:
            return Verdict("nothing", reason="no path is paused, and no new one may start")
        if not self._comparable():
            why = "no path has come to its end yet"
            if paused:
                return Verdict("resume", paused[0], reason=f"{paused[0]} goes on: {why}")
            return Verdict("start", reason=f"{NEW_PATH}: {why}")
        front = self._front()
        new = self._promise_of_new(front) if may_start else None
        best, old = self._best_paused(front)
        if may_start and (new is None or old is None or new.rate > old.rate):
            verdict = Verdict("start", "", new, old, best)
        else:
            other = "" if new is None else NEW_PATH
            verdict = Verdict("resume", best or paused[0], old, new, other)
        return self._worth_it(verdict)

    def _worth_it(self, verdict: Verdict) -> Verdict:
        name = self._said_of(verdict.trial_id) if verdict.trial_id else NEW_PATH
        if verdict.promise is None:
            reason = f"{name}: there are no values yet to judge it by"
            return Verdict(verdict.action, verdict.trial_id, None, verdict.other, verdict.other_name, reason)
        said = f"{name} promises {_said(verdict.promise)}"
        if verdict.other is not None:
            said += f", {verdict.other_name} {_rate(verdict.other)}"
        if self._enough(verdict.promise):
            return Verdict(
                verdict.action, verdict.trial_id, verdict.promise, verdict.other, verdict.other_name, said
            )
        if self._given:
            new = verdict.promise if verdict.action == "start" else verdict.other
            said += "; a point of search.points is started whatever it promises"
            return Verdict("start", "", new, reason=said)
        said += f"; less than {self._min_gain:g} is not worth it"
        return Verdict("nothing", "", verdict.promise, verdict.other, verdict.other_name, said)

    def _enough(self, promised: Promise) -> bool:
        return self._min_gain is None or promised.rate >= self._min_gain

    def _said_of(self, trial_id: str) -> str:
        deepest = self._paths[trial_id].deepest
        return trial_id if deepest < 0 else f"{trial_id}@{deepest}"

    def _comparable(self) -> bool:
        """Whether there is a scale, and a path that shows the way down."""
        return self._scale is not None and any(
            path.state == "ended" and len(path.seen) > 1 for path in self._paths.values()
        )

    def _broken_for_good(self, path: _Path) -> str:
        """The limit on accuracy that the last two models break, both deeper than the path's best one; empty = none."""
        levels = sorted(path.finals)
        accuracy = [_accuracy(path.finals[level]) for level in levels]
        if len(levels) < 3 or accuracy.index(max(accuracy)) >= len(levels) - 2:
            return ""
        for limit in self._limits:
            mendless = (limit.name, limit.op) in (("val_accuracy", ">="), ("accuracy_drop", "<="))
            if mendless and all(path.violations[level].get(limit.text, 0.0) > 0 for level in levels[-2:]):
                return limit.text
        return ""

    # --- promises -----------------------------------------------------------------------------------------------------

    def _paused(self) -> list[str]:
        """Paused paths that have something left to do."""
        return [name for name, path in sorted(self._paths.items()) if path.state == "paused" and path.steps]

    def _front(self, without: str = "") -> np.ndarray:
        """(n, m) losses of the models there are, and of those that running paths are expected to finish next."""
        ahead = [
            self._points(name, path, path.steps[:1], at=0.0)[0]
            for name, path in self._paths.items()
            if path.state == "running" and name != without
        ]
        return np.vstack([self._scale.losses(self._best), *ahead])

    def _points(self, name: str, path: _Path, steps: Sequence[Step], at: float | None = None) -> np.ndarray:
        if not steps:
            return np.empty((1, 0, len(self._objectives)))
        foreseen = self._outlook.ahead(name, path.last, steps, path.config.prune.interval)
        bounds = [bound for _, bound in self._bounds.values()]
        return to_points(cases(foreseen, self._names, at), self._scale, bounds)

    def _promise(self, name: str, front: np.ndarray) -> Promise | None:
        """What a begun path promises; None where its last model has no values."""
        path = self._paths[name]
        if path.last is None or not math.isfinite(
            sum(path.last.finals.get(o, math.nan) for o in self._objectives)
        ):
            return None
        self._clock += 1
        made = promise(front, self._points(name, path, path.steps), [step.cost for step in path.steps])
        self._promises[name] = (self._clock, made)
        return made

    def _promise_of_new(self, front: np.ndarray) -> Promise | None:
        """What a new path promises, taken for one of median cost among those started; None if nothing is known."""
        started = [path for path in self._paths.values() if path.config is not None]
        if not started or not self._outlook.known(next(iter(self._objectives))):
            return None
        ranked = sorted(started, key=lambda path: path.rank)
        typical = _Path(ranked[(len(ranked) - 1) // 2].config)
        typical.look_ahead()
        return promise(front, self._points("", typical, typical.steps), [step.cost for step in typical.steps])

    def _best_other(self, front: np.ndarray, may_start: bool) -> tuple[str, Promise | None]:
        name, best = self._best_paused(front)
        new = self._promise_of_new(front) if may_start else None
        if new is not None and (best is None or new.rate > best.rate):
            return NEW_PATH, new
        return name, best

    def _best_paused(self, front: np.ndarray) -> tuple[str, Promise | None]:
        """The paused path that promises most, the first by name on equal numbers."""
        paused = self._paused()
        never = (0, None)
        for name in sorted(paused, key=lambda name: self._promises.get(name, never)[0])[:_REFRESHED]:
            self._promise(name, front)
        best_name, best = "", None
        for name in sorted(paused, key=lambda name: -_rate_or_most(self._promises.get(name, never)[1])):
            known = self._promises.get(name, never)[1]
            if best is not None and _rate_or_most(known) < best.rate:
                break
            made = self._promise(name, front)
            if made is not None and (best is None or (made.rate, best_name) > (best.rate, name)):
                best_name, best = name, made
        return best_name, best


def _accuracy(finals: Mapping[str, float]) -> float:
    value = finals.get("val_accuracy", -finals.get("accuracy_drop", math.inf))
    return value if math.isfinite(value) else -math.inf


def _rate_or_most(promised: Promise | None) -> float:
    return math.inf if promised is None else promised.rate


def _rate(promised: Promise) -> str:
    return f"{promised.rate:.2g}"


def _said(promised: Promise) -> str:
    return f"{_rate(promised)} % of hypervolume per dense epoch"
