"""Trials that end in one and the same model: a schedule that misses its target ends alike for every target beyond."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gcp_core.config import TrialConfig

#: Final values that two trials of one model have in common, whatever machine they ran on.
_SAME = ("val_accuracy", "macs", "params")


class Twins:
    """What is known of the single trials of a sweep; paths leave their models on the way and have no twins."""

    def __init__(self) -> None:
        self._models: dict[str, str] = {}
        self._reached: dict[tuple[str, bool], float] = {}

    def ended(self, trial_id: str, config: TrialConfig, finals: Mapping[str, float], weights: str) -> str:
        """A trial is complete; return the earlier trial that has the same model ("" if there is none)."""
        if config.is_path or config.prune is None:
            return ""
        removed = finals.get(f"{config.prune.of}_removed")
        if finals.get("target_reached") == 0 and removed is not None:
            self._reached[_without_target(config)] = removed
        model = model_of(weights, config.seed, finals)
        if not model:
            return ""
        earlier = self._models.setdefault(model, trial_id)
        return "" if earlier == trial_id else earlier

    def would_repeat(self, config: TrialConfig) -> bool:
        """Whether the trial is known to end as an earlier one did: its target is beyond what its schedule reaches."""
        if config.is_path or config.prune is None or config.prune.target is None:
            return False
        reached = self._reached.get(_without_target(config))
        return reached is not None and config.prune.target > reached


def model_of(weights: str, seed: int, finals: Mapping[str, float]) -> str:
    """What two trials of one model have in common; empty if it is not known what their weights are."""
    return str((weights, seed, *(finals.get(name) for name in _SAME))) if weights else ""


def _without_target(config: TrialConfig) -> tuple[str, bool]:
    """Names the schedule, and whether its last event takes what is missing: then it reaches what others do not."""
    prune = dataclasses.replace(config.pruning, target=None, finish=False)
    return dataclasses.replace(config, prune=prune).key(), config.pruning.finish
