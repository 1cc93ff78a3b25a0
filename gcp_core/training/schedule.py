"""When to prune (clock) and how fast to learn (pace): pure functions of the epoch or the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from gcp_core.config import PruneConfig, TrainConfig

#: The one-cycle schedule starts at this share of the peak.
ONE_CYCLE_START = 0.04


def last_event_epoch(prune: PruneConfig, epochs: int) -> int:
    """The epoch after which nothing is removed any more (the paper's N1, inclusive)."""
    if isinstance(prune.until, int):
        return min(prune.until, epochs)
    # 0.7 * 10 is 7.000000000000001 or 6.999...: the nudge keeps such shares on the whole number they mean.
    return min(math.floor(prune.until * epochs + 1e-9), epochs)


def event_epochs(prune: PruneConfig, epochs: int) -> tuple[int, ...]:
    """Epochs (1 = after the first) that end in an event, as long as the target is not reached.

    >>> event_epochs(PruneConfig(interval=3, until=0.75), 20)
    (3, 6, 9, 12, 15)
    >>> event_epochs(PruneConfig(start=4, interval=5, until=15), 20)
    (4, 9, 14)
    """
    first = prune.interval if prune.start is None else prune.start
    return tuple(range(first, last_event_epoch(prune, epochs) + 1, prune.interval))


def prune_clock(prune: PruneConfig | None, epochs: int) -> Callable[[int], bool]:
    """``clock(epoch) -> bool``: whether an event is due after this epoch (1-based)."""
    due = frozenset() if prune is None else frozenset(event_epochs(prune, epochs))
    return lambda epoch: epoch in due


def learning_pace(train: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """``pace(step) -> factor`` of the peak learning rate, for ``step`` = 0 .. epochs * steps_per_epoch - 1.

    It depends on the length of the training only, never on the pruning: trials that differ in their pruning share
    every step up to their first event.
    """
    total = train.epochs * steps_per_epoch
    if train.schedule == "one_cycle":
        return lambda step: _one_cycle(step / total, train.warmup)
    if train.schedule == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * step / total))
    if train.schedule == "step":
        edges = [m * steps_per_epoch if isinstance(m, int) else m * total for m in train.milestones]
        return lambda step: train.gamma ** sum(step >= edge for edge in edges)
    return lambda step: 1.0


def _one_cycle(where: float, warmup: float) -> float:
    """Linear from :data:`ONE_CYCLE_START` to 1 over ``warmup``, then linear to 0; ``where`` in [0, 1)."""
    if where < warmup:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * where / warmup
    return (1 - where) / (1 - warmup) if warmup < 1 else 1.0
