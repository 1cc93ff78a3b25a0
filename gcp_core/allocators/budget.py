"""How much one event takes, and what of a group it may take at all: floors and whole steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gcp_core.config import NORMALISATIONS
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.groups import Group, Groups


@dataclass(frozen=True)
class Ranking:
    """How scores of different layers are made comparable, and how the count is spread over groups.

    Attributes:
        normalise: divide each layer's scores by ``none`` (1), ``unit_l2`` (their L2 norm, the paper's), ``mean``
            (mean magnitude) or ``max``.
        cost_power: divide a unit's score by (its marginal cost / the mean marginal cost) ** this; 1 = score per
            MAC (or per parameter, see ``Budget.of``), 0 = off. Meant for scores that are not negative.
        allocator: name of what spreads the count over the groups (:mod:`gcp_core.allocators`): ``global`` = one ranking
            over all groups; ``uniform`` = every group loses the same share, its lowest units first.
        allocator_options: arguments of its factory.
    """

    normalise: str = "none"
    cost_power: float = 0.0
    allocator: str = "global"
    allocator_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        allowed = tuple(n for n in NORMALISATIONS if n != "auto")
        if self.normalise not in allowed:
            hint = did_you_mean(str(self.normalise), allowed)
            raise ConfigError(f"{self.normalise!r} is unknown", "ranking.normalise", hint)
        if not self.allocator or not isinstance(self.allocator, str):
            raise ConfigError(f"{self.allocator!r} is not an allocator's name", "ranking.allocator")
        if not math.isfinite(self.cost_power) or self.cost_power < 0:
            raise ConfigError(f"{self.cost_power!r} is not a number >= 0", "ranking.cost_power")


@dataclass(frozen=True)
class Budget:
    """How much one event removes.

    Attributes:
        count: units to remove; or ``ratio``: share of the living units, rounded half up, at least one.
        hidden_count: hidden linear layers are ranked on their own and lose this many units; ``count`` and ``ratio``
            then mean the other units. None = one ranking for all.
        min_channels, min_share: a group keeps at least this many units, and this share of its original ones.
        of: ``macs`` or ``params``: what ``limit`` and cost weighting mean.
        limit: absolute cost to reach: the event is trimmed to the fewest units that bring the cost down to it.
        round_to: every layer that is cut is left with a multiple of this many channels. Units then go in whole steps:
            as many as come nearest to the count, at least one (see ``plan.meta``).
        whole: this one event is to reach the limit: what the allocator does not take of it goes by the global ranking.
        ranking: normalisation, cost weighting and allocator.
    """

    count: int | None = None
    ratio: float | None = None
    hidden_count: int | None = None
    min_channels: int = 2
    min_share: float = 0.1
    of: str = "macs"
    limit: float | None = None
    round_to: int = 1
    whole: bool = False
    ranking: Ranking = field(default_factory=Ranking)

    def __post_init__(self) -> None:
        if (self.count is None) == (self.ratio is None):
            raise ConfigError(f"give either count or ratio, not {self.count!r} and {self.ratio!r}", "budget")
        if self.count is not None and self.count < 0:
            raise ConfigError(f"{self.count!r} is negative", "budget.count")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ConfigError(f"{self.ratio!r} is not in (0, 1]", "budget.ratio")
        if self.hidden_count is not None and self.hidden_count < 0:
            raise ConfigError(f"{self.hidden_count!r} is negative", "budget.hidden_count")
        if self.min_channels < 1 or not 0 <= self.min_share <= 1:
            given = f"min_channels={self.min_channels!r}, min_share={self.min_share!r}"
            raise ConfigError(f"{given}: allowed are >= 1 and 0..1", "budget")
        if self.of not in ("macs", "params"):
            raise ConfigError(
                f"{self.of!r} is unknown", "budget.of", did_you_mean(self.of, ("macs", "params"))
            )
        if self.round_to < 1:
            raise ConfigError(f"{self.round_to!r} is not >= 1", "budget.round_to")

    def units(self, alive: int) -> int:
        """Units this event asks for when ``alive`` are left."""
        if self.count is not None:
            return self.count
        return max(1, math.floor(float(self.ratio or 0) * alive + 0.5))

    def floor(self, group: Group) -> int:
        """Units that must stay in ``group`` (never more than it has)."""
        # The share is rounded first: 0.1 * 30 is a hair above 3.
        share = math.ceil(round(self.min_share * group.original_size, 9))
        return min(group.size, max(self.min_channels, share))


def hidden_groups(groups: Groups) -> list[int]:
    """Indices of the groups that hold hidden linear layers and nothing else."""
    linear = groups.linear_layers()
    return [g for g, group in enumerate(groups.groups) if all(m.layer in linear for m in group.members)]


def rankings(groups: Groups, budget: Budget) -> list[tuple[list[int], int]]:
    """The rankings: indices of the groups that compete in each, and the units asked of it."""
    every = list(range(len(groups.groups)))
    if budget.hidden_count is None:
        return [(every, budget.units(groups.num_units))]
    hidden = hidden_groups(groups)
    others = [g for g in every if g not in hidden]
    return [
        (others, budget.units(sum(groups.groups[g].size for g in others))),
        (hidden, budget.hidden_count),
    ]


def removable(groups: Groups, budget: Budget) -> list[list[int]]:
    """Per group the numbers of units that an event may take: floors are kept, widths are multiples; 0 always.

    A layer that other groups share, too, only ever loses a multiple: what its other channels do is not known here.
    """
    owners = Counter(layer for group in groups.groups for layer in {m.layer for m in group.members})
    found = []
    for group in groups.groups:
        numbers: Sequence[int] = range(max(0, group.size - budget.floor(group)) + 1)
        for member in group.members if budget.round_to > 1 else ():
            per_unit = {len(channels) for channels in member.channels}
            # Units of unlike size: what is left depends on which of them go, so none does.
            each = per_unit.pop() if len(per_unit) == 1 else 0
            width = len(groups.layout.layers[member.layer]) if owners[member.layer] == 1 else 0
            numbers = [n for n in numbers if each and (width - n * each) % budget.round_to == 0]
        found.append(sorted({0, *numbers}))
    return found
