"""Simulate a sweep without training: which epochs its trials share, how cost falls, and which ones end early.

Scores are drawn at random, but equal histories under an equal rule get equal scores, as in a real sweep: trials agree
here exactly as long as they would agree there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from gcp_core.allocators import build_allocator
from gcp_core.config import PruneConfig, TrialConfig, digest
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups
from gcp_core.plan import Plan
from gcp_core.pruning.selection import select_within
from gcp_core.records.stages import repair_of
from gcp_core.schedule.clock import event_epochs
from gcp_core.training.levels import cost_of, level_plan, why_over
from gcp_core.training.setup import budget_for, cost_left
from sweeps.records.job import Job, Outcome
from sweeps.strategy.feasibility import Feasibility

if TYPE_CHECKING:
    from sweeps.config.search import SearchConfig

#: Accuracy in per cent of an imagined trial: what a share r of the MACs costs, and the spread between trials.
_TOP, _DROP, _SPREAD = 90.0, 20.0, 0.5


@dataclass(frozen=True)
class Played:
    """One trial, foreseen.

    Attributes:
        states: names of the states after each epoch's training: equal names are trained once where training is shared.
        macs, params: of the model during each epoch; ``final`` has both at the end.
        events: epochs that end in an event; ``plans`` is what these remove, in order, as far as they remove anything.
        reached: whether the target is reached.
    """

    config: TrialConfig
    states: tuple[str, ...]
    macs: tuple[float, ...]
    params: tuple[float, ...]
    final: tuple[float, float]
    events: tuple[int, ...]
    reached: bool
    plans: tuple[Plan, ...] = ()

    @property
    def epochs(self) -> int:
        return len(self.states)

    def until(self, epoch: int) -> Played:
        """The same trial, stopped after ``epoch``."""
        return replace(
            self,
            states=self.states[:epoch],
            macs=self.macs[:epoch],
            params=self.params[:epoch],
            events=tuple(e for e in self.events if e <= epoch),
            plans=tuple(plan for plan in self.plans if plan.meta["epoch"] <= epoch),
        )


class Rehearsal:
    """Plays trials; every event that several trials have in common is computed once."""

    def __init__(self, feasibility: Feasibility) -> None:
        self._feasibility = feasibility
        self._plans: dict[str, Plan | None] = {}

    def play(self, trial: TrialConfig) -> Played:
        """The trial from its first to its last epoch."""
        if trial.is_path:
            return self._play_path(trial)
        prune, epochs = trial.prune, trial.train.num_epochs
        groups = self._feasibility.groups(trial if prune else replace(trial, prune=PruneConfig()))
        kind = 0 if prune is None or prune.of == "macs" else 1
        limit = 0.0 if prune is None or prune.target is None else cost_left(prune.target, groups.cost()[kind])
        due = () if prune is None else event_epochs(prune, epochs)
        history: list[object] = [trial.dense_phase().key()]
        states, costs, events = [], [], []
        plans: list[Plan] = []
        reached = False
        for epoch in range(epochs + 1):
            if epoch:  # 0 = at initialisation
                states.append(digest([history, epoch]))
                costs.append(groups.cost())
            if epoch not in due or reached:
                continue
            plan = self._event(trial, groups, history, epoch, limit, last=epoch == due[-1])
            events.append(epoch)
            if plan is not None:
                groups = groups.after(plan)
                plans.append(plan.with_meta(epoch=epoch))
                history = [*history, epoch, plan.effect(), repair_of(trial)]
            reached = limit > 0 and groups.cost()[kind] <= limit
        macs, params = zip(*costs, strict=True)
        final = (float(groups.cost()[0]), float(groups.cost()[1]))
        ended = reached or prune is None or prune.target is None
        return Played(trial, tuple(states), macs, params, final, tuple(events), ended, tuple(plans))

    def _play_path(self, trial: TrialConfig) -> Played:
        """Phase after phase, as ``gcp_core.training.path`` goes; the events are those before which a phase ended."""
        train, prune = trial.train, trial.pruning
        groups = self._feasibility.groups(trial)
        dense = cost_of(groups, prune)
        history: list[object] = [trial.dense_phase().key()]
        states: list[str] = []
        costs: list[tuple[int, int]] = []
        plans: list[Plan] = []
        phase, ended = prune.dense_epochs, ""
        while not ended:
            for _ in range(phase):
                states.append(digest([history, len(states) + 1]))
                costs.append(groups.cost())
            epoch, phase = len(states), prune.interval
            removed = 1 - cost_of(groups, prune) / dense
            ended = why_over(train, prune, removed, epoch, plans[-1] if plans else None)
            plan = None if ended else level_plan(self._scores(groups, [history, epoch]), groups, prune, dense)
            if plan is None:
                ended = ended or "floors"
                continue
            groups = groups.after(plan)
            plans.append(plan.with_meta(epoch=epoch))
            course = [prune.interval, train.restart, train.pace]
            history = [*history, epoch, plan.effect(), course, repair_of(trial)]
        macs, params = zip(*costs, strict=True)
        final = (float(groups.cost()[0]), float(groups.cost()[1]))
        events = tuple(plan.meta["epoch"] for plan in plans)
        return Played(trial, tuple(states), macs, params, final, events, ended == "target", tuple(plans))

    def _scores(self, groups: Groups, rule: list[object]) -> dict[str, torch.Tensor]:
        """Random, but the same for the same rule."""
        generator = torch.Generator().manual_seed(int(digest(rule), 16))
        return {
            layer: torch.rand(channels, generator=generator, dtype=torch.float64)
            for layer, channels in groups.scored_layers().items()
        }

    def _event(
        self,
        trial: TrialConfig,
        groups: Groups,
        history: list[object],
        epoch: int,
        limit: float,
        last: bool,
    ) -> Plan | None:
        """The plan of one event, None if nothing can be removed any more."""
        prune = trial.pruning
        rule, budget = [history, epoch, prune.criterion, prune.options], budget_for(prune, limit, last=last)
        key = digest([rule, repr(budget)])
        if key not in self._plans:
            plan = select_within(self._scores(groups, rule), groups, budget)
            self._plans[key] = plan if plan.num_units else None
        return self._plans[key]


def stopped_early(search: SearchConfig, played: Sequence[Played], feasibility: Feasibility) -> list[Played]:
    """The trials as ``sweeps.strategy.stopping`` would let them run, one after the other, with imagined accuracies."""
    if search.stopping == "none":
        return list(played)
    from sweeps.strategy.stopping import Rungs

    rungs, rng = Rungs(search, feasibility.project), random.Random(0)
    for number, trial in enumerate({run.config.baseline().key(): run for run in played}.values()):
        dense = {"macs": trial.macs[0], "params": trial.params[0]}
        rows = _rows(_TOP, [dense["macs"]] * trial.epochs, [dense["params"]] * trial.epochs)
        job = Job(f"b{number:04d}", "baseline", number, trial.config.baseline(), {}, "")
        rungs.ended(job, Outcome("complete", {"val_accuracy": _TOP, **dense}, rows))
    kept: list[Played] = []
    for number, trial in enumerate(played):
        job = Job(f"t{number:04d}", "trial", number, trial.config, {}, "")
        top = _TOP - _DROP * (1 - trial.final[0] / trial.macs[0]) ** 3 + rng.gauss(0.0, _SPREAD)
        rows = _rows(top, trial.macs, trial.params)
        end = next((int(row["epoch"]) for row in rows if rungs.epoch(job, row) is not None), None)
        if end is None:
            finals = {"val_accuracy": top, "macs": trial.final[0], "params": trial.final[1]}
            rungs.ended(job, Outcome("complete", finals, rows))
        kept.append(trial if end is None else trial.until(end))
    return kept


def _rows(top: float, macs: Sequence[float], params: Sequence[float]) -> tuple[dict[str, float], ...]:
    """The epochs of a trial whose accuracy rises towards ``top``."""
    return tuple(
        {"epoch": e, "val/accuracy": top * e / (e + 1), "cost/macs": m, "cost/params": p}
        for e, (m, p) in enumerate(zip(macs, params, strict=True), start=1)
    )


def distinct_states(played: Iterable[Played]) -> int:
    """Epochs to be trained if nothing is trained twice."""
    return len({state for trial in played for state in trial.states})


def could_be_path(trial: TrialConfig) -> bool:
    """Whether paths take the settings of a single trial: not those that say what goes, or when, in their own way."""
    prune = trial.pruning
    try:
        replace(
            trial,
            train=replace(trial.train, schedule="cycles", epochs=None),
            prune=replace(prune, start=4, until=None),
        )
    except ConfigError:
        return False
    return not getattr(build_allocator(prune.allocator, prune.allocator_options), "exact", False)
