"""Which targets a schedule can reach: cheap answers for many points of one space (a model is traced once)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from gcp_core.config import TrialConfig
from gcp_core.groups import Groups, find_groups
from gcp_core.pruning.selection import Budget, reachable_share, select_within
from gcp_core.schedule.clock import event_epochs
from gcp_core.training.setup import budget_for, build_setup, cost_left, event_budgets, out_of_reach

_KINDS = ("macs", "params")
#: Criteria of ours seldom remove more than this share beyond what chance does; most remove less.
SLACK = 0.02
_PLAYS = 2
#: So many schedules are remembered as they go without a target.
_REMEMBERED = 200


@dataclass(frozen=True)
class Projection:
    """What a trial will cost, foreseen before it is run; every mapping has ``macs`` and ``params``.

    Attributes:
        dense: the unpruned model.
        final: at the end, if its criterion had no preference (real ones land on either side of it).
        least: what is left at least, whatever the criterion prefers; 0 where that is not known.
        limit: no more events at or below this cost, in the unit of ``prune.of``; 0 = no target.
    """

    dense: dict[str, float]
    final: dict[str, float]
    least: dict[str, float]
    limit: float = 0.0


@dataclass(frozen=True)
class _Step:
    """One event of a play: the groups ``before`` and ``after`` it, and the state of the generator before its scores."""

    before: Groups
    state: torch.Tensor
    after: Groups


def _after_event(groups: Groups, budget: Budget, generator: torch.Generator) -> Groups:
    """What an event with random scores leaves."""
    scores = {
        layer: torch.rand(channels, generator=generator, dtype=torch.float64)
        for layer, channels in groups.scored_layers().items()
    }
    return groups.after(select_within(scores, groups, budget))


class Feasibility:
    """Remembers the groups of every model it has seen, and what every schedule can reach there.

    ``usual=False``: what some criterion could reach counts as possible; for tables, of which every cell counts.
    """

    def __init__(self, *, usual: bool = True) -> None:
        self._only_usual = usual
        self._groups: dict[str, Groups] = {}
        self._reach: dict[str, float] = {}
        self._free: dict[str, list[_Step]] = {}

    def groups(self, trial: TrialConfig) -> Groups:
        """The groups of the trial's unpruned model."""
        model = self._model_key(trial)
        if model not in self._groups:
            setup = build_setup(trial.baseline())
            self._groups[model] = find_groups(
                setup.new_model(),
                setup.example,
                residual=trial.pruning.residual,
                exclude=trial.pruning.exclude,
            )
        return self._groups[model]

    def impossible(self, trial: TrialConfig) -> bool:
        """Whether the target is out of reach: of every criterion (such a trial is refused), or of any usual one.

        Usual is what random scores reach at their best of some plays, and :data:`SLACK` more: a criterion that prefers
        dear units gets further than chance, but seldom by that much. A trial that misses its target ends as the model of
        every other target beyond its reach, so that training it for each of them is for nothing.
        """
        prune = trial.pruning
        if trial.is_path:
            return False  # it ends where the floors end it
        events = len(event_epochs(prune, trial.train.num_epochs))
        if not events:
            return True
        if prune.target is None:
            return False
        budgets = event_budgets(prune, events)
        key = f"{self._model_key(trial)} {budgets[0]} {budgets[-1]} {events}"
        if key not in self._reach:
            most = reachable_share(self.groups(trial), budgets)
            self._reach[key] = min(most, self._usual(trial) + SLACK) if self._only_usual else most
        return out_of_reach(self._reach[key], prune.target)

    def _usual(self, trial: TrialConfig) -> float:
        """The share that a schedule removes in all if no target ends it, with random scores."""
        free = replace(trial, prune=replace(trial.pruning, target=None, finish=False))
        if trial.pruning.finish:
            return 1.0
        kind, dense = _KINDS.index(trial.pruning.of), self.groups(trial).cost()
        ends = [[self.groups(trial), *self._played(free, seed)][-1].cost()[kind] for seed in range(_PLAYS)]
        return 1 - min(ends) / dense[kind]

    def play(self, trial: TrialConfig, seed: int = 0) -> tuple[bool, int]:
        """(whether the target is reached, after how many events), with random scores; without a target: all events.

        That is what a criterion without preference would remove; real criteria land on either side of it.
        """
        prune, played = trial.pruning, list(self._played(trial, seed))
        if prune.target is None:
            return True, len(played)
        last = played[-1] if played else None
        return last is not None and last.cost()[_KINDS.index(prune.of)] <= self._limit(trial), len(played)

    def project(self, trial: TrialConfig) -> Projection:
        """What the trial (not a baseline) will cost at its end."""
        prune, groups = trial.pruning, self.groups(trial)
        dense = _by_kind(groups)
        final = self._final(trial)
        limit = self._limit(trial)
        least = dict.fromkeys(_KINDS, 0.0)
        if limit and prune.multiple == 1:
            # The event that passes the limit is trimmed to the fewest units, so at most one unit passes it.
            least[prune.of] = max(0.0, limit - float(groups.marginal_cost(prune.of).max()))
        return Projection(dense, _by_kind(final), least, limit)

    def _final(self, trial: TrialConfig) -> Groups:
        """The last of :meth:`_played` with seed 0.

        A target changes nothing about an event until one would pass it: all but that one are remembered of the schedule.
        """
        prune, dense = trial.pruning, self.groups(trial)
        if prune.finish:  # its last event is the target's
            return [dense, *self._played(trial, 0)][-1]
        free = replace(trial, prune=replace(prune, target=None))
        epochs = event_epochs(prune, trial.train.num_epochs)
        key = f"{self._model_key(trial)} {budget_for(free.pruning, None)} {len(epochs)}"
        if key not in self._free:
            if len(self._free) == _REMEMBERED:
                del self._free[next(iter(self._free))]
            self._free[key] = list(self._steps(free, 0))
        steps, kind, limit = self._free[key], _KINDS.index(prune.of), self._limit(trial)
        passing = next((step for step in steps if step.after.cost()[kind] <= limit), None)
        if passing is None:
            return steps[-1].after if steps else dense
        generator = torch.Generator()
        generator.set_state(passing.state)
        return _after_event(passing.before, budget_for(prune, limit), generator)

    def _played(self, trial: TrialConfig, seed: int) -> Iterator[Groups]:
        """The groups after every event until the target is reached; the same ones again after one that cannot be."""
        return (step.after for step in self._steps(trial, seed))

    def _steps(self, trial: TrialConfig, seed: int) -> Iterator[_Step]:
        prune, groups, limit = trial.pruning, self.groups(trial), self._limit(trial)
        generator = torch.Generator().manual_seed(seed)
        events = event_epochs(prune, trial.train.num_epochs)
        for epoch in events:
            budget = budget_for(prune, limit, last=epoch == events[-1])
            before, state = groups, generator.get_state()
            groups = _after_event(groups, budget, generator)
            yield _Step(before, state, groups)
            if groups.cost()[_KINDS.index(prune.of)] <= limit:
                return

    def _limit(self, trial: TrialConfig) -> float:
        """What the target leaves of the cost, 0 = there is no target."""
        prune = trial.pruning
        dense = self.groups(trial).cost()[_KINDS.index(prune.of)]
        return 0.0 if prune.target is None else cost_left(prune.target, dense)

    def _model_key(self, trial: TrialConfig) -> str:
        described = trial.to_dict()
        prune = described["prune"]
        return json.dumps(
            [described["data"], described["model"], prune["residual"], prune["exclude"]], sort_keys=True
        )


def _by_kind(groups: Groups) -> dict[str, float]:
    return dict(zip(_KINDS, map(float, groups.cost()), strict=True))
