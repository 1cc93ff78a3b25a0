"""What a free worker does next: a path's next cycle, a paused path again, or a new path. Free of Ray and of MLflow.

One number decides, the promised growth of the hypervolume per training cost (:mod:`.gain`). What other workers are
training counts as if it had ended as expected, so that they do not all do the same. Until a path has ended, there is
nothing to compare with, and every path continues. If numbers are equal, continuing comes before resuming, and resuming
before starting.

Promises of paused paths shrink as the front grows, so only the best ones are worked out again in a decision, and the few
for which that is longest ago.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Any

from gcp_core.config import TrialConfig
from sweeps.config.limits import Limit
from sweeps.strategy.paths.gain import Promise
from sweeps.strategy.paths.known import KnownPaths, Snapshot
from sweeps.strategy.paths.volume import Front

NEW_PATH = "a new path"
#: A running path is paused for something that promises more than this many times as much.
CLEARLY_MORE = 1.1
#: So many of the paused paths whose promises are oldest are looked at in every decision.
_REFRESHED = 3
#: And at most so many of those that promised most.
_MOST = 16


@dataclass(frozen=True)
class Verdict:
    """What is to be done.

    Attributes:
        action: ``go_on``, ``pause`` or ``end`` of a running path; ``resume``, ``start`` or ``nothing`` for a free worker.
        trial_id: the path that is meant; empty for ``start`` and ``nothing``.
        promise: of what is chosen; of a path that is paused its own, of ``nothing`` the best there is. None where
            nothing is known yet.
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


class Choice:
    """The rule. What it is told comes in any order; told again it changes nothing.

    Args:
        objectives: short name of a final value -> ``max`` or ``min``.
        min_gain: nothing is done that promises less, in per cent of hypervolume per dense epoch; None = never end for it.
        limits: the constraints.
    """

    def __init__(
        self, objectives: Mapping[str, str], min_gain: float | None, limits: Sequence[Limit] = ()
    ) -> None:
        self._known = KnownPaths(objectives, limits)
        self._min_gain, self._given = min_gain, 0
        self._promises: dict[str, tuple[int, Promise]] = {}
        self._clock = 0

    @property
    def evaluations(self) -> int:
        """How many promises have been worked out so far."""
        return self._known.evaluations

    # --- what it is told ----------------------------------------------------------------------------------------------

    def scale(self, worst: Mapping[str, float], best: Mapping[str, float]) -> None:
        """The usable anchors of the objectives; they may move.

        Snapshots without ``accuracy_drop``, where it is needed, have ``best["val_accuracy"]`` minus their accuracy.
        """
        if self._known.scale(worst, best):
            self._promises.clear()

    def started(self, trial_id: str, config: TrialConfig) -> None:
        """A path runs: a new one, or one that was paused."""
        self._known.started(trial_id, config)
        self._promises.pop(trial_id, None)

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
        if self._known.snapshot(trial_id, level, Snapshot(epoch, dict(finals), standing, dict(violations))):
            self._promises.pop(trial_id, None)

    def paused(self, trial_id: str) -> None:
        """A path waits."""
        self._known.turns(trial_id, "paused")

    def ended(self, trial_id: str) -> None:
        """A path never continues."""
        self._known.turns(trial_id, "ended")
        self._promises.pop(trial_id, None)

    def given(self, number: int) -> None:
        """So many paths are still to be started whatever they promise: the user's own points, the sampler's warm-up."""
        self._given = number

    # --- what it says -------------------------------------------------------------------------------------------------

    def goes_on(self, trial_id: str, may_start: bool, waiting: int = 0) -> Verdict:
        """What a running path does that has just finished a model: ``go_on``, ``pause`` or ``end``.

        ``may_start``: a new path may be drawn; ``waiting``: so many have been drawn and not begun.
        """
        path, name = self._known[trial_id], self._at(trial_id)
        broken = path.broken_for_good(self._known.limits)
        if broken:
            return Verdict("end", trial_id, reason=f"{name} breaks {broken}, as the model before it did")
        if not path.steps:
            return Verdict("end", trial_id, reason=f"{name} is its last model")
        if not self._known.comparable():
            return Verdict("go_on", trial_id, reason=f"{name}: no path has come to its end yet")
        front = self._known.front(without=trial_id)
        own = self._promise(trial_id, front)
        if own is None:
            return Verdict("go_on", trial_id, reason=f"{name}: it has no values to judge it by")
        other_name, other = self._best_paused(front)
        another = may_start or waiting > 0 or self._given > 0
        if another:
            new = self._known.promise_of_new(front)
            if new is not None and (other is None or new.rate > other.rate):
                other_name, other = NEW_PATH, new
        going = Verdict("go_on", trial_id, own, other, other_name, _compared(name, own, other_name, other))
        if not self._enough(own) and (self._known.standing or another):
            better = other is not None and self._enough(other)
            return replace(
                going, action="pause", reason=going.reason + ("" if better else self._too_little())
            )
        if len(path.seen) < 2:
            return going  # its dense phase is paid, and says nothing about it
        if other is not None and other.rate > CLEARLY_MORE * own.rate:
            return replace(going, action="pause")
        return going

    def next(self, may_start: bool) -> Verdict:
        """What a free worker does: ``resume`` a path, ``start`` a new one, or ``nothing`` as nothing promises enough."""
        may_start = may_start or self._given > 0
        paused = self._known.paused()
        if not paused and not may_start:
            return Verdict("nothing", reason="no path is paused, and no new one may start")
        if not self._known.comparable():
            why = "no path has come to its end yet"
            if paused:
                return Verdict("resume", paused[0], reason=f"{self._at(paused[0])}: {why}")
            return Verdict("start", reason=f"{NEW_PATH}: {why}")
        front = self._known.front()
        name, old = self._best_paused(front)
        new = self._known.promise_of_new(front) if may_start else None
        if may_start and (new is None or old is None or new.rate > old.rate):
            verdict = Verdict("start", "", new, old, name)
        else:
            verdict = Verdict("resume", name or paused[0], old, new, NEW_PATH if new is not None else "")
        return self._worth_it(verdict, may_start)

    def _worth_it(self, verdict: Verdict, may_start: bool) -> Verdict:
        """The verdict with its reason, or another one if it promises too little."""
        name = self._at(verdict.trial_id) if verdict.trial_id else NEW_PATH
        if verdict.promise is None:
            return replace(verdict, reason=f"{name}: there are no values yet to judge it by")
        reason = _compared(name, verdict.promise, verdict.other_name, verdict.other)
        if self._enough(verdict.promise):
            return replace(verdict, reason=reason)
        if self._given or not self._known.standing:
            why = "no model keeps all limits yet"
            if self._known.standing:
                why = "the first paths are started whatever they promise"
            why = f"{reason}; {why}"
            if verdict.action == "start" or not may_start:
                return replace(verdict, reason=why)
            return Verdict("start", "", verdict.other, verdict.promise, verdict.trial_id, why)
        return replace(verdict, action="nothing", trial_id="", reason=reason + self._too_little())

    def _enough(self, promised: Promise) -> bool:
        return self._min_gain is None or promised.rate >= self._min_gain

    def _too_little(self) -> str:
        return f"; less than {self._min_gain:g} is not worth it"

    def _at(self, trial_id: str) -> str:
        """``t0007@3``: the path and its last model."""
        levels = self._known[trial_id].snapshots
        return f"{trial_id}@{max(levels)}" if levels else trial_id

    # --- paused paths -------------------------------------------------------------------------------------------------

    def _promise(self, trial_id: str, front: Front) -> Promise | None:
        promised = self._known.promise(trial_id, front)
        if promised is not None:
            self._clock += 1
            self._promises[trial_id] = (self._clock, promised)
        return promised

    def _best_paused(self, front: Front) -> tuple[str, Promise | None]:
        """The paused path that promises most, the first by name on equal numbers.

        Worked out from the top of the promises as they were until one that was less than the best is now.
        """
        paused, begun = self._known.paused(), self._clock
        unknown = [name for name in paused if name not in self._promises]
        known_ones = (name for name in paused if name in self._promises)
        oldest = nsmallest(_REFRESHED, known_ones, key=lambda name: self._promises[name][0])
        for name in [*unknown, *oldest]:
            self._promise(name, front)
        best_name, best = "", None
        for name in nsmallest(_MOST, paused, key=lambda name: -self._last_rate(name)):
            if best is not None and self._last_rate(name) < best.rate:
                break
            known = self._promises.get(name)
            promised = known[1] if known is not None and known[0] > begun else self._promise(name, front)
            if promised is not None and (best is None or (-promised.rate, name) < (-best.rate, best_name)):
                best_name, best = name, promised
        return best_name, best

    def _last_rate(self, trial_id: str) -> float:
        known = self._promises.get(trial_id)
        return math.inf if known is None else known[1].rate


def _compared(name: str, promised: Promise, other_name: str, other: Promise | None) -> str:
    said = f"{name} promises {promised.rate:.2g} % of hypervolume per dense epoch"
    return said if other is None else f"{said}, {other_name} {other.rate:.2g}"
