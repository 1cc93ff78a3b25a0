"""Who holds back whom, asked of every pair of a queued and a running trial by their whole configs."""

from __future__ import annotations

import dataclasses

from gcp_core.config import PruneConfig, TrialConfig
from gcp_core.schedule.clock import event_epochs
from sweeps.strategy.trunk import PATIENCE_EPOCHS, PATIENCE_S, Trunk


def slow_shared_epochs(one: TrialConfig, other: TrialConfig) -> int:
    """Epochs that two trials certainly or possibly train alike: up to the first event that one has and the other has
    not, or has by another rule. Where a target is met sooner, they part sooner."""
    if one.is_path or other.is_path:
        return _shared_by_paths(one, other)
    if one.baseline() != other.baseline():
        return 0
    epochs = one.train.num_epochs
    same_rule = _rule(one.prune) == _rule(other.prune)
    events, others = _events(one), _events(other)
    for event in sorted(events | others):
        if event not in events or event not in others or not same_rule:
            return event[0]
    return epochs


def _shared_by_paths(one: TrialConfig, other: TrialConfig) -> int:
    """Paths of equal start share the dense phase; so does an unpruned trial of as many epochs. Events part them."""
    if one.dense_phase() != other.dense_phase():
        return 0
    return min(
        t.pruning.dense_epochs if t.is_path else t.train.num_epochs if t.prune is None else 0
        for t in (one, other)
    )


def _rule(prune: PruneConfig | None) -> PruneConfig | None:
    """Everything that decides what an event removes, without when events are and when they end."""
    if prune is None:
        return None
    return dataclasses.replace(
        prune, start=None, interval=1, until=1.0, target=None, finish=False, method=None
    )


def _events(trial: TrialConfig) -> frozenset[tuple[int, float]]:
    """Epochs with an event, each with the share that it finishes at, 0 where it takes what the rule says."""
    if trial.prune is None:
        return frozenset()
    epochs = event_epochs(trial.prune, trial.train.num_epochs)
    last = epochs[-1] if epochs and trial.prune.finish else None
    return frozenset((epoch, trial.prune.target if epoch == last else 0.0) for epoch in epochs)


def slow_free(trunk: Trunk, queue: list) -> int | None:
    """As ``trunk.free``, from what the trunk knows of the running trials alone."""
    for position, job in enumerate(queue):
        if not any(_holds_back(trunk, running, job) for running in trunk._running.values()):
            return position
    return None


def _holds_back(trunk: Trunk, running: object, job: object) -> bool:
    if not trunk._shared:
        return False
    if trunk._now() - running.last_sign > max(PATIENCE_S, PATIENCE_EPOCHS * running.slowest_s):
        return False
    shared = slow_shared_epochs(running.job.config, job.config)
    one, other = running.job.config.prune, job.config.prune
    if one is not None and other is not None and not job.config.is_path:
        if one.target == other.target:
            if running.met is not None and running.met < shared:
                shared = job.config.train.num_epochs
        else:
            smaller = min(target for target in (one.target, other.target) if target is not None)
            if running.removed >= smaller - 1e-9:
                return False
    return running.epoch < shared
