"""When to prune (clock) and how fast to learn (pace): pure functions of the epoch or the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from gcp_core.config import CYCLES, END_CLOCK, PruneConfig, TrainConfig
from gcp_core.errors import required
from gcp_core.schedule.paces import build_pace

#: The one-cycle schedule starts at this share of the peak.
ONE_CYCLE_START = 0.04


def last_event_epoch(prune: PruneConfig, epochs: int) -> int:
    """The epoch after which nothing is removed any more (the paper's N1, inclusive)."""
    if prune.until is None or prune.clock == END_CLOCK:
        return epochs
    if isinstance(prune.until, int):
        return min(prune.until, epochs)
    # 0.7 * 10 is 7.000000000000001 or 6.999...: the nudge keeps such shares on the whole number they mean.
    return min(math.floor(prune.until * epochs + 1e-9), epochs)


def event_epochs(prune: PruneConfig, epochs: int) -> tuple[int, ...]:
    """Epochs (1 = after the first, 0 = at initialisation) that end in an event, as long as the target is not reached.

    >>> event_epochs(PruneConfig(interval=3, until=0.75), 20)
    (3, 6, 9, 12, 15)
    >>> event_epochs(PruneConfig(start=4, interval=5, until=15), 20)
    (4, 9, 14)
    >>> event_epochs(PruneConfig(start=0, until=0), 20)
    (0,)
    >>> event_epochs(PruneConfig(clock="end"), 20)
    (20,)
    """
    if prune.clock == END_CLOCK:
        return (epochs,)
    first = prune.interval if prune.start is None else prune.start
    return tuple(range(first, last_event_epoch(prune, epochs) + 1, prune.interval))


def phase_end(prune: PruneConfig, epoch: int) -> bool:
    """Whether a path's dense phase or one of its cycles ends with this epoch (1-based).

    >>> [epoch for epoch in range(1, 13) if phase_end(PruneConfig(start=4, interval=3), epoch)]
    [4, 7, 10]
    """
    return epoch >= prune.dense_epochs and (epoch - prune.dense_epochs) % prune.interval == 0


def phase_of(prune: PruneConfig, epoch: int) -> tuple[int, int, int]:
    """(phase, its first epoch, its length in epochs) of a path's epoch; phase 0 is the dense one.

    >>> phase_of(PruneConfig(start=4, interval=3), 8)
    (2, 8, 3)
    """
    dense = prune.dense_epochs
    if epoch <= dense:
        return 0, 1, dense
    cycle = (epoch - dense - 1) // prune.interval
    return cycle + 1, dense + cycle * prune.interval + 1, prune.interval


def last_epoch(train: TrainConfig, prune: PruneConfig | None) -> int | None:
    """The last epoch that may be trained: of a path the end of its last whole cycle below the cap, None = no cap."""
    if train.schedule != CYCLES or train.epochs is None:
        return train.epochs
    prune = required(prune, "prune of a path")
    return train.epochs - (train.epochs - prune.dense_epochs) % prune.interval


def learning_pace(
    train: TrainConfig, steps_per_epoch: int, prune: PruneConfig | None = None
) -> Callable[[int], float]:
    """``pace(step) -> factor`` of the peak learning rate, for ``step`` = 0 .. epochs * steps_per_epoch - 1.

    Of a single trial it depends on the length of the training only, never on the pruning: trials that differ in their
    pruning share every step up to their first event. Of a path (``prune`` says where its phases end) it is one-cycle
    over the dense phase, then ``restart`` times the pace of each cycle.
    """
    if train.schedule == CYCLES:
        return _path_pace(train, steps_per_epoch, required(prune, "prune of a path"))
    total = train.num_epochs * steps_per_epoch
    if train.schedule == "one_cycle":
        return lambda step: _one_cycle(step / total, train.warmup)
    if train.schedule == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * step / total))
    if train.schedule == "step":
        edges = [
            m * steps_per_epoch if isinstance(m, int) else _first_step(m, total) for m in train.milestones
        ]
        return lambda step: train.gamma ** sum(step >= edge for edge in edges)
    return lambda step: 1.0


def _first_step(share: float, total: int) -> int:
    """The first of ``total`` steps that has this share of them before it."""
    # 0.55 * 100 is 55.00000000000001: the allowance keeps such shares on the whole step they mean.
    return math.ceil(share * total * (1 - 1e-12))


def _path_pace(train: TrainConfig, steps_per_epoch: int, prune: PruneConfig) -> Callable[[int], float]:
    shape = build_pace(train.pace)

    def factor(step: int) -> float:
        phase, first, epochs = phase_of(prune, step // steps_per_epoch + 1)
        here, steps = step - (first - 1) * steps_per_epoch, epochs * steps_per_epoch
        if phase == 0:
            return _one_cycle(here / steps, train.warmup)
        return train.restart * shape(phase, here, steps)

    return factor


def polish_pace(
    train: TrainConfig, steps_per_epoch: int, level: int, first: int, epochs: int
) -> Callable[[int], float]:
    """:func:`learning_pace` of a path's snapshot that is polished: one cycle, as if it were the next, of other length.

    Args:
        level: number of the snapshot.
        first: the first epoch of the polish.
        epochs: how many it has.
    """
    shape, begin, steps = build_pace(train.pace), (first - 1) * steps_per_epoch, epochs * steps_per_epoch
    return lambda step: train.restart * shape(level + 1, step - begin, steps)


def _one_cycle(where: float, warmup: float) -> float:
    """Linear from :data:`ONE_CYCLE_START` to 1 over ``warmup``, then linear to 0; ``where`` in [0, 1)."""
    if where < warmup:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * where / warmup
    return (1 - where) / (1 - warmup) if warmup < 1 else 1.0
