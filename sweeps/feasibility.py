"""Which targets a schedule can reach: cheap answers for many points of one space (a model is traced once)."""

from __future__ import annotations

import json

import torch

from gcp_core.config import TrialConfig
from gcp_core.errors import InfeasibleTarget
from gcp_core.groups import Groups, find_groups
from gcp_core.schedule import event_epochs
from gcp_core.selection import reachable_share, select_channels
from gcp_core.setup import budget_for, build_setup


class Feasibility:
    """Remembers the groups of every model it has seen, and what every schedule can reach there."""

    def __init__(self) -> None:
        self._groups: dict[str, Groups] = {}
        self._reach: dict[str, float] = {}

    def groups(self, trial: TrialConfig) -> Groups:
        """The groups of the trial's unpruned model."""
        model = self._model_key(trial)
        if model not in self._groups:
            setup = build_setup(trial.baseline())
            self._groups[model] = find_groups(
                setup.new_model(), setup.example, residual=trial.prune.residual, exclude=trial.prune.exclude
            )
        return self._groups[model]

    def impossible(self, trial: TrialConfig) -> bool:
        """Whether the target is out of reach even when the costliest units go first (such a trial is refused)."""
        prune = trial.prune
        events = len(event_epochs(prune, trial.train.epochs))
        if not events:
            return True
        if prune.target is None:
            return False
        budget = budget_for(prune, None)
        key = f"{self._model_key(trial)} {budget} {events}"
        if key not in self._reach:
            self._reach[key] = reachable_share(self.groups(trial), [budget] * events)
        return self._reach[key] < prune.target

    def play(self, trial: TrialConfig, seed: int = 0) -> tuple[bool, int]:
        """(whether the target is reached, after how many events), with random scores; without a target: all events.

        That is what a criterion without preference would remove; real criteria land on either side of it.
        """
        prune, groups = trial.prune, self.groups(trial)
        kind = ("macs", "params").index(prune.of)
        limit = 0.0 if prune.target is None else (1 - prune.target) * groups.cost()[kind]
        budget = budget_for(prune, limit)
        generator = torch.Generator().manual_seed(seed)
        events = event_epochs(prune, trial.train.epochs)
        for number, _ in enumerate(events, start=1):
            scores = {
                layer: torch.rand(channels, generator=generator, dtype=torch.float64)
                for layer, channels in groups.scored_layers().items()
            }
            try:
                groups = groups.after(select_channels(scores, groups, budget))
            except InfeasibleTarget:
                return False, number
            if groups.cost()[kind] <= limit:
                return True, number
        return prune.target is None, len(events)

    def _model_key(self, trial: TrialConfig) -> str:
        described = trial.to_dict()
        prune = described["prune"]
        return json.dumps(
            [described["data"], described["model"], prune["residual"], prune["exclude"]], sort_keys=True
        )
