"""When an event of a single trial is due: clocks that know, and clocks that look at the network.

A clock decides within the frame that ``start``, ``interval`` and ``until`` set. ``interval`` is due whenever it can be:
at ``start`` and every ``interval`` epochs. ``end`` is due once, after the last epoch, whatever they say. Any other is
asked after every epoch from ``start`` to ``until`` that is at least ``interval`` epochs after the last event, as long as
the target is not reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from gcp_core.config import END_CLOCK, INTERVAL_CLOCK, PruneConfig
from gcp_core.criteria import Batches
from gcp_core.groups import Groups
from gcp_core.schedule.clock import event_epochs, last_event_epoch
from gcp_core.schedule.saturation import density_saturated
from gcp_core.slots import Registry


class Clock(Protocol):
    """Says when an event is due.

    May also have:
        needs: ``data`` if it looks at images, ``nothing`` otherwise (the default).
        forwards: what being asked costs per image, in forward passes (1 where data is needed, else 0).
        state_dict, load_state_dict: what it remembers from one epoch to the next, a flat mapping from names to tensors
            and plain numbers; kept in checkpoints. Tensors come back on the device that is trained on.
    """

    def due(
        self, epoch: int, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> bool:
        """Whether an event is due after this epoch (1 = the first). Asked once per epoch, in their order.

        The model is left exactly as found, as by a criterion; ``batches`` are the images that criteria see.
        """
        ...


@dataclass(frozen=True)
class Interval:
    """Due whenever it can be."""

    needs: str = "nothing"

    def due(
        self, epoch: int, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> bool:
        """Always."""
        return True


def interval() -> Interval:
    """An event at ``prune.start`` and every ``prune.interval`` epochs."""
    return Interval()


def end() -> Interval:
    """One event, after the last epoch: nothing is trained after it."""
    return Interval()


CLOCKS = Registry(
    slot="clock",
    where="prune.clock",
    group="gcp_core.clocks",
    options="prune.clock_options",
    verbs=("due",),
    built_in={INTERVAL_CLOCK: interval, END_CLOCK: end, "density_saturated": density_saturated},
)


def clock_names() -> list[str]:
    """All registered names, sorted; ``package.module:factory`` comes on top."""
    return CLOCKS.names()


def build_clock(name: str, options: Mapping[str, Any] | None = None) -> Clock:
    """The clock of that name, as it is before the first epoch.

    Raises:
        ConfigError: unknown name or option, or a value that the clock refuses.
    """
    clock: Clock = CLOCKS.build(name, options)
    return clock


def may_ask(prune: PruneConfig | None, epochs: int, epoch: int, events: Sequence[int]) -> bool:
    """Whether a trial's clock is asked after this epoch, with events behind it at the epochs ``events``.

    >>> lazy = PruneConfig(start=3, interval=2, until=8, clock="my_package.clocks:mine")
    >>> [epoch for epoch in range(1, 11) if may_ask(lazy, 10, epoch, [4])]
    [6, 7, 8]
    """
    if prune is None:
        return False
    planned = event_epochs(prune, epochs)
    if prune.clock in (INTERVAL_CLOCK, END_CLOCK):
        return epoch in planned
    earliest = max(
        (event + prune.interval for event in events), default=planned[0] if planned else epochs + 1
    )
    return earliest <= epoch <= last_event_epoch(prune, epochs)


def asked_epochs(
    prune: PruneConfig, epochs: int, events: Sequence[int], costs: Sequence[float], limit: float
) -> Iterator[int]:
    """The epochs after which a clock was asked: those where it may be, until the target is reached.

    Args:
        costs: ``prune.of`` of the model that each epoch so far trained.
        limit: no event at or below this cost; 0 = no target.
    """
    for epoch, cost in enumerate(costs, start=1):
        if cost > limit and may_ask(prune, epochs, epoch, [event for event in events if event < epoch]):
            yield epoch
