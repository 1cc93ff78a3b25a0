"""Trace ratio: the set of channels whose maps separate the classes best.

For a layer's feature maps f (flattened, at the output of the norm that follows it), per channel c over n images:
``s_b(c) = sum over classes k of n_k ||m_k^c - m^c||^2`` and ``s_w(c) = sum over images i of ||f_i^c - m_{y_i}^c||^2``,
m = means. The set I of d channels to keep maximises ``J(I) = sum_I s_b / sum_I s_w`` (Dinkelbach: ``lambda <- J(I)``,
``I <- top d of s_b - lambda s_w``, until I repeats). The best sets of different sizes need not be nested, so this is a
ranking of sets and not of channels.

A reading of Hu et al., "CATRO: Channel Pruning via Class-Aware Trace Ratio Optimization", arXiv 2110.10921, TNNLS 2023,
of which only the abstract was seen: it says that sets are scored by class separation and found greedily, within layers
and then across them. The two diagonals are a reconstruction. Across layers ours is: one lambda for the network, and a
unit is worth ``s_b - lambda s_w`` after both diagonals of a layer are divided by its total s_b (the best J of a layer
rises as d falls, so J itself cannot say which layer should lose channels).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, GroupsLike, Needs
from gcp_core.criteria.feature_maps import Maps, first_image, observed
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups

_log = logging.getLogger(__name__)

#: Scatter below this share of the layer's largest is rounding.
_NOTHING = 1e-14


@dataclass(frozen=True, eq=False)
class Separation:
    """Class scatter of each channel (or unit): ``between`` = s_b and ``within`` = s_w, ``(C,)`` float64, not negative."""

    between: Tensor
    within: Tensor

    @property
    def dead(self) -> Tensor:
        """``(C,)`` channels that are constant over images: 0 / 0, which counts as the worst ratio of all."""
        size = self.between + self.within
        return size <= _NOTHING * (float(size.max()) if len(size) else 0.0)

    def ratio(self, kept: Tensor | None = None) -> float:
        """J of a set of channels (all by default): infinite where nothing is scattered within classes, -inf for 0 / 0."""
        between = float((self.between if kept is None else self.between[kept]).sum())
        within = float((self.within if kept is None else self.within[kept]).sum())
        if within > 0:
            return between / within
        return math.inf if between > 0 else -math.inf

    def worth(self, rate: float) -> Tensor:
        """``(C,)`` ``s_b - rate * s_w``; -inf for dead channels."""
        worth = self.between - rate * self.within if math.isfinite(rate) else -self.within
        return worth.masked_fill(self.dead, -math.inf)

    def normalised(self) -> Separation:
        """Both divided by the total s_b, so that layers of unlike size and scale can be compared."""
        total = float(self.between.sum())
        return self if total <= 0 else Separation(self.between / total, self.within / total)


@dataclass(frozen=True)
class BestSet:
    """A maximiser of J.

    Attributes:
        kept: channel indices, ascending.
        rates: lambda as it went, from 0; never falling.
    """

    kept: tuple[int, ...]
    rates: tuple[float, ...]


def best_set(separation: Separation, number: int) -> BestSet:
    """The ``number`` channels with the largest J; dead channels only where there are no others; ties: first index.

    Each step solves its problem exactly and lambda rises until the set repeats, so the result is the optimum.
    """
    kept: tuple[int, ...] = ()
    rates = [0.0]
    while True:
        order = separation.worth(rates[-1]).argsort(descending=True, stable=True)
        chosen = tuple(sorted(order[:number].tolist()))
        if chosen == kept or not chosen:
            return BestSet(chosen, tuple(rates))
        kept = chosen
        # A last step may fall short of the rate by rounding: then nothing is left to gain.
        rate = separation.ratio(torch.tensor(kept))
        if rate <= rates[-1]:
            return BestSet(kept, tuple(rates))
        rates.append(rate)


@dataclass(frozen=True, eq=False)
class TraceRatioRanking:
    """The ranking of one group's units; ``rate`` is the network's lambda.

    ``worth`` is ``(units,)``, the value of the k-th unit that is kept, by place; falling. Dead units: below all others.
    """

    separation: Separation
    rate: float

    def keep(self, k: int) -> list[int]:
        """The units that stay when ``k`` do, ascending: the best set of that size, nested or not."""
        return list(best_set(self.separation, k).kept)

    @property
    def worth(self) -> Tensor:
        return finite(self.separation.worth(self.rate)).sort(descending=True).values


@dataclass(frozen=True)
class Catro:
    """See :func:`catro` for the option."""

    max_positions: int
    needs: Needs = "data"
    comparable: bool = True
    set_valued: bool = True

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """``s_b - lambda s_w`` with the network's lambda; sets of a given size are found by :meth:`ranking`."""
        found = {
            layer: s.normalised()
            for layer, s in class_separation(model, groups, batches, self.max_positions).items()
        }
        rate = network_rate(found)
        worth = finite(torch.cat([s.worth(rate) for s in found.values()]))
        parts = worth.split([len(s.between) for s in found.values()])
        return dict(zip(found, parts, strict=True))

    def ranking(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, TraceRatioRanking]:
        """Group name -> its ranking. A unit's diagonals are the sum over its channels, the mean over scored members."""
        layers = class_separation(model, groups, batches, self.max_positions)
        units = unit_separation(layers, groups)
        rate = network_rate(units)
        return {name: TraceRatioRanking(separation, rate) for name, separation in units.items()}


def catro(max_positions: int = 1024) -> Catro:
    """``max_positions``: larger maps are average-pooled to at most so many positions; 1 = spatial means.

    Memory: classes x channels x positions float64 numbers a layer.
    """
    if isinstance(max_positions, bool) or not isinstance(max_positions, int) or max_positions < 1:
        raise ConfigError(f"{max_positions!r} is not a whole number >= 1", "prune.options.max_positions")
    return Catro(max_positions)


def network_rate(separations: Mapping[str, Separation], number: int | None = None) -> float:
    """One lambda for all layers: J of the best ``number`` units of the network (all of them by default).

    Args:
        separations: by layer or group; each is normalised here.
    """
    parts = [separation.normalised() for separation in separations.values()]
    # What is dead in its layer is zero here, too: it must not come back by the scale of another layer.
    between = torch.cat([part.between.masked_fill(part.dead, 0.0) for part in parts])
    within = torch.cat([part.within.masked_fill(part.dead, 0.0) for part in parts])
    whole = Separation(between, within)
    if number is None:
        rate = whole.ratio()
    else:
        rate = whole.ratio(torch.tensor(best_set(whole, number).kept, dtype=torch.int64))
    return max(rate, 0.0)


def unit_separation(layers: Mapping[str, Separation], groups: Groups) -> dict[str, Separation]:
    """Group name -> diagonals of its units: sums over a unit's channels, means over scored members, each normalised."""
    found = {}
    for group in groups.groups:
        members = [member for member in group.members if member.scored]
        between = torch.zeros(group.size, dtype=torch.float64)
        within = torch.zeros(group.size, dtype=torch.float64)
        for member in members:
            own = layers[member.layer].normalised()
            for unit, channels in enumerate(member.channels):
                between[unit] += own.between[list(channels)].sum() / len(members)
                within[unit] += own.within[list(channels)].sum() / len(members)
        found[group.name] = Separation(between, within)
    return found


def class_separation(
    model: nn.Module, groups: GroupsLike, batches: Batches, max_positions: int = 1024
) -> dict[str, Separation]:
    """Layer -> class scatter of its channels, in one forward pass over ``batches`` (evaluation mode).

    A class without images has no part in it; it is logged.
    """
    layers = groups.scored_layers()
    image = first_image(batches)
    sums = {layer: _Sums(max_positions) for layer in layers}
    current: list[Tensor] = []
    seen: set[int] = set()

    def observe(layer: str, maps: Maps) -> None:
        sums[layer].add(maps.channels_first().detach(), current[0])

    with observed(model, layers, image, observe), torch.no_grad():
        for images, labels in batches:
            current[:] = [labels.long()]
            seen.update(current[0].unique().tolist())
            model(images)
    if len(seen) <= max(seen):
        _log.warning("%d of %d classes have no images", max(seen) + 1 - len(seen), max(seen) + 1)
    return {layer: own.separation(layer) for layer, own in sums.items()}


def finite(worth: Tensor) -> Tensor:
    """-inf replaced by a number below all others."""
    living = worth[torch.isfinite(worth)]
    if len(living) == len(worth):
        return worth
    if not len(living):
        return torch.zeros_like(worth)
    lowest = float(living.min())
    return worth.masked_fill(
        ~torch.isfinite(worth), lowest - max(abs(lowest), float(living.abs().max()), 1e-12)
    )


class _Sums:
    """Class sums of one layer's maps, around the first batch's mean map: constant channels give exact zeros."""

    def __init__(self, max_positions: int) -> None:
        self._max_positions = max_positions
        self._shift: Tensor | None = None
        self._classes: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}
        self._squares: Tensor | None = None

    def add(self, maps: Tensor, labels: Tensor) -> None:
        """``(N, C, ...)`` maps and ``(N,)`` labels."""
        flat = pooled(maps, self._max_positions).double()
        if self._shift is None:
            self._shift = flat.mean(0)
        flat = flat - self._shift
        squares = flat.square().sum((0, 2))
        self._squares = squares if self._squares is None else self._squares + squares
        for label in labels.unique().tolist():
            own = flat[labels == label]
            total = own.sum(0)
            self._classes[label] = total if label not in self._classes else self._classes[label] + total
            self._counts[label] = self._counts.get(label, 0) + len(own)

    def separation(self, layer: str) -> Separation:
        """What the images so far give."""
        if self._squares is None:
            raise RuntimeError(f"{layer} was not called")
        labels = sorted(self._classes)
        counts = torch.tensor([self._counts[k] for k in labels], dtype=torch.float64)
        sums = torch.stack([self._classes[k] for k in labels]).cpu()
        means = sums / counts[:, None, None]
        grand = sums.sum(0) / counts.sum()
        between = (counts[:, None] * (means - grand).square().sum(2)).sum(0)
        within = self._squares.cpu() - (counts[:, None] * means.square().sum(2)).sum(0)
        noise = _NOTHING * self._squares.cpu() * len(labels)
        return Separation(between, torch.where(within > noise, within, 0.0))


def pooled(maps: Tensor, max_positions: int) -> Tensor:
    """``(N, C, ...)`` -> ``(N, C, P)``, average-pooled if there are more than ``max_positions``."""
    if maps.ndim == 2:
        return maps[:, :, None]
    if maps[0, 0].numel() <= max_positions:
        return maps.flatten(2)
    if maps.ndim == 4:
        side = math.isqrt(max_positions)
        height, width = (min(side, size) for size in maps.shape[2:])
        return F.adaptive_avg_pool2d(maps, (height, width)).flatten(2)
    return F.adaptive_avg_pool1d(maps.flatten(2), max_positions)
