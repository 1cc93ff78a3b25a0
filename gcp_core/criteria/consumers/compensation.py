"""Compensation-aware ranking: units in the order in which they help to rebuild what their consumers compute.

Greedy forward: of the units not yet kept the one comes next that takes most off the error that the best least-squares
fit to the kept ones leaves, ``gain(t|K) = loss(K) - loss(K + t)``. Source: Xie et al., "Pruning with Compensation:
Efficient Channel Pruning for Deep Convolutional Neural Networks", arXiv 2108.13728 (abstract), and its authors' code
(pseudopruner): ``gain(t|K) = || (W S_:t - W S_:K S_KK^-1 S_Kt) A^T ||^2``, A = inverse Cholesky factor of
``S_tt - S_tK S_KK^-1 S_Kt``. Our readings: gains of several consumers add up; what a consumer reads of other groups
counts as kept; as a score a unit has its share of the consumers' variance.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, Needs, by_layer
from gcp_core.criteria.consumers.readers import Reader, readers_by_group
from gcp_core.criteria.consumers.statistics import (
    MAX_COLUMNS,
    MAX_NUMBERS,
    Moments,
    blocks_for,
    input_moments,
    packed,
    row_scales,
)
from gcp_core.criteria.feature_maps import first_image
from gcp_core.errors import ConfigError, RelevanceError, did_you_mean
from gcp_core.groups import Group, Groups

_log = logging.getLogger(__name__)
ROWS = ("raw", "norm")

#: What is left of a column's variance below this share of it is rounding: the kept columns say all of it.
_EXPLAINED = 1e-12
#: Pivots (of a correlation matrix) below this are taken as absent.
_SINGULAR = 1e-10


@dataclass(frozen=True, eq=False)
class KeepOrder:
    """The units of one group, first to keep first: a ranking of sets, as the order does not depend on how many stay.

    Attributes:
        order: unit numbers within the group.
        gains: ``(units,)`` float64: what the unit at this place takes off the loss; not always falling.
        total: the loss with none of them kept, summed over consumers.
    """

    order: tuple[int, ...]
    gains: Tensor
    total: float

    def keep(self, k: int) -> list[int]:
        """The units that stay when ``k`` do, ascending."""
        return sorted(self.order[:k])

    @property
    def worth(self) -> Tensor:
        """``(units,)`` the marginal gain by place, as a share of ``total``; never rising.

        A place is worth what it or the best place after it gains: a unit that only pays together with a later one is not
        given away before that one.
        """
        share = self.gains / self.total if self.total > 0 else torch.zeros_like(self.gains)
        return share.flip(0).cummax(0).values.flip(0)

    def scores(self) -> Tensor:
        """``(units,)`` by unit number: :attr:`worth`, with ties broken so that the scores have this order."""
        number = len(self.order)
        steps = torch.arange(number, 0, -1, dtype=torch.float64) * (1e-12 / number)
        scores = torch.empty(number, dtype=torch.float64)
        scores[torch.tensor(self.order)] = self.worth.cpu() + steps
        return scores


@dataclass(frozen=True)
class Compensation:
    """See :func:`compensation` for the options."""

    rows: str
    sampling_stride: int
    max_columns: int
    needs: Needs = "data"
    comparable: bool = True

    @property
    def forwards(self) -> float:
        """One forward pass, and the sums of products: columns over outputs, about 9 more for a net of 3 x 3 kernels."""
        return 1 + 9 / self.sampling_stride**2

    def score(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A unit's score goes to all its channels; channels of no unit get 0.

        Units that no layer reads through columns of its own (residual mode ``scatter``, or depthwise convolutions only)
        get an average share, one over their number.
        """
        found = self.orders(model, groups, batches)
        units = torch.zeros(groups.num_units, dtype=torch.float64)
        for group in groups.groups:
            own = slice(group.first_unit, group.first_unit + group.size)
            units[own] = found[group.name].scores() if group.name in found else 1 / group.size
        return by_layer(units, groups)

    def orders(self, model: nn.Module, groups: Groups, batches: Batches) -> dict[str, KeepOrder]:
        """Group name -> the order of its units, for every group that something reads."""
        image = first_image(batches)
        reading = {name: own for name, own in readers_by_group(model, groups).items() if own}
        layers = {reader.layer: reader for own in reading.values() for reader in own}
        scales = row_scales(model, layers, image) if self.rows == "norm" else {}
        orders: dict[str, KeepOrder] = {}
        for turn in packed(reading, lambda name: sum(map(self._numbers, reading[name])), MAX_NUMBERS):
            wanted = {reader.layer: reader.positions for name in turn for reader in reading[name]}
            moments = {
                found.layer: found
                for found in input_moments(
                    model,
                    wanted,
                    batches,
                    sampling_stride=self.sampling_stride,
                    max_columns=self.max_columns,
                )
            }
            for name in turn:
                known = [
                    reader
                    for reader in reading[name]
                    if reader.layer in moments and moments[reader.layer].covariance is not None
                ]
                if known:
                    orders[name] = self._order(model, groups.group(name), known, moments, scales)
                else:
                    _log.info("%s is not ranked: its readers are not called, or have too many columns", name)
        return orders

    def _order(
        self,
        model: nn.Module,
        group: Group,
        reading: Sequence[Reader],
        moments: Mapping[str, Moments],
        scales: Mapping[str, Tensor],
    ) -> KeepOrder:
        remainders = []
        for reader in reading:
            weight = moments[reader.layer].blocked(_weight(model, reader.layer))
            if reader.layer in scales:
                weight = weight * scales[reader.layer][:, None]
            own = _own_units(reader, group)
            remainders.append(Remainder(weight, moments[reader.layer], own))
        return keep_order(remainders, group.size, group.name)

    def _numbers(self, reader: Reader) -> int:
        """What a reader's covariance and its copy hold."""
        channels, positions = len(reader.units), reader.positions
        whole = blocks_for((channels, positions), self.max_columns) == "all"
        return 2 * channels * positions * (channels * positions if whole else channels)


def compensation(rows: str = "raw", sampling_stride: int = 1, max_columns: int = MAX_COLUMNS) -> Compensation:
    """Marginal gain in greedy order, as a share of the consumers' variance.

    Args:
        rows: ``raw``, the source's: outputs count as the convolution gives them. Their scale is arbitrary before a norm;
            ``norm`` counts them as they are behind it (times gamma / sigma).
        sampling_stride: look at every n-th output position of a consumer along each dimension.
        max_columns: see :func:`gcp_core.criteria.consumers.statistics.input_moments`.
    """
    if rows not in ROWS:
        raise ConfigError(f"{rows!r} is unknown", "prune.options.rows", did_you_mean(str(rows), ROWS))
    for key, value in (("sampling_stride", sampling_stride), ("max_columns", max_columns)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{value!r} is not a whole number >= 1", f"prune.options.{key}")
    return Compensation(rows, sampling_stride, max_columns)


def keep_order(remainders: Sequence[Remainder], size: int, name: str = "") -> KeepOrder:
    """The greedy order of ``size`` units from what is left of their consumers; the remainders are used up."""
    total = sum(remainder.loss() for remainder in remainders)
    order: list[int] = []
    gains: list[float] = []
    left = torch.ones(size, dtype=torch.bool)
    for _ in range(size):
        gain = torch.zeros(size, dtype=torch.float64)
        for remainder in remainders:
            gain += remainder.gains(size).cpu()
        if not bool(torch.isfinite(gain[left]).all()):
            _log.warning("%s: %d units stay unranked: no finite gain", name, int(left.sum()))
            gain = torch.zeros_like(gain)
        best = int(gain.masked_fill(~left, -1.0).argmax())
        left[best] = False
        order.append(best)
        gains.append(float(gain[best]))
        for remainder in remainders:
            remainder.keep(best)
    return KeepOrder(tuple(order), torch.tensor(gains, dtype=torch.float64), float(total))


class Remainder:
    """What a consumer's kept columns do not explain: the covariance that is left of the others.

    Keeping columns t is one block step of Gaussian elimination, ``R - R_:t R_tt^-1 R_t:``; it is the block inversion of
    ``S_KK`` without ever holding the inverse. ``R_tt`` is the Schur complement that the gain divides by.

    Args:
        weight: ``(B, O, D)`` float64, rows scaled as they shall count.
        moments: of the consumer's input.
        units: ``(C,)`` unit within the group of each input channel, -1 for what is kept anyhow.
    """

    def __init__(self, weight: Tensor, moments: Moments, units: np.ndarray) -> None:
        if moments.covariance is None:
            raise RelevanceError("no covariance was taken", moments.layer)
        self._left = moments.covariance.clone()
        self._whole = self._left.diagonal(dim1=1, dim2=2).clone()
        self._weight = weight
        self._through = weight @ self._left
        self._columns: dict[int, Tensor] = {}
        for unit in sorted(set(units.tolist()) - {-1}):
            channels = torch.from_numpy(np.flatnonzero(units == unit)).to(weight.device)
            self._columns[unit] = moments.columns(channels)
        self._lift()
        others = torch.from_numpy(np.flatnonzero(units < 0)).to(weight.device)
        if len(others):
            self._eliminate(moments.columns(others))

    def loss(self) -> float:
        """``tr(W R W^T)``: the error that the best fit to the kept columns leaves."""
        return float((self._through * self._weight).sum())

    def gains(self, size: int) -> Tensor:
        """``(size,)`` what each unit would take off the loss; 0 for units that this consumer does not read."""
        found = torch.zeros(size, dtype=torch.float64, device=self._left.device)
        alike: dict[int, list[int]] = {}
        for unit, columns in self._columns.items():
            alike.setdefault(len(columns), []).append(unit)
        for units in alike.values():
            t = torch.stack([self._columns[unit] for unit in units])
            blocks = self._left[:, t[:, :, None], t[:, None, :]]
            sides = self._through[:, :, t].permute(0, 2, 3, 1)
            found[torch.tensor(units, device=found.device)] = (_solve(blocks, sides) * sides).sum((0, 2, 3))
        return found.clamp_min(0)

    def keep(self, unit: int) -> None:
        """Count the unit's columns as kept from now on."""
        columns = self._columns.pop(unit, None)
        if columns is not None:
            self._eliminate(columns)

    def _eliminate(self, t: Tensor) -> None:
        blocks = self._left[:, t[:, None], t[None, :]]
        factors = _solve(blocks, self._left[:, t])
        self._through = self._through - self._through[:, :, t] @ factors
        self._left = self._left - self._left[:, :, t] @ factors
        self._left[:, t], self._left[:, :, t], self._through[:, :, t] = 0, 0, 0
        self._lift()

    def _lift(self) -> None:
        """Columns of which nothing is left but rounding are set to exactly that."""
        left = self._left.diagonal(dim1=1, dim2=2)
        gone = left <= _EXPLAINED * self._whole
        self._left.masked_fill_(gone[:, :, None] | gone[:, None, :], 0.0)
        self._through.masked_fill_(gone[:, None, :], 0.0)


def _solve(blocks: Tensor, sides: Tensor) -> Tensor:
    """``blocks^-1 sides`` for (B..., n, n) and (B..., n, m); the smallest solution where a block is singular."""
    variance = blocks.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(variance > 0, variance.clamp_min(1e-300).rsqrt(), 0.0)
    correlation = blocks * scale[..., :, None] * scale[..., None, :]
    correlation = correlation + torch.diag_embed((scale == 0).to(blocks.dtype))
    scaled = sides * scale[..., :, None]
    lower, info = torch.linalg.cholesky_ex(correlation)
    singular = (info > 0) | ~(lower.diagonal(dim1=-2, dim2=-1).square().amin(-1) > _SINGULAR)
    solution = torch.cholesky_solve(scaled, lower)
    if bool(singular.any()):
        values, vectors = torch.linalg.eigh(correlation[singular])
        inverse = torch.where(values > _SINGULAR * values.amax(-1, keepdim=True), 1 / values, 0.0)
        inner = vectors.transpose(-1, -2) @ scaled[singular]
        solution[singular] = vectors @ (inverse[..., :, None] * inner)
    return solution * scale[..., :, None]


def _own_units(reader: Reader, group: Group) -> np.ndarray:
    """Unit within the group of each input channel of the reader, -1 for what is not in it."""
    own = (reader.units >= group.first_unit) & (reader.units < group.first_unit + group.size)
    return np.where(own, reader.units - group.first_unit, -1)


def _weight(model: nn.Module, layer: str) -> Tensor:
    weight = model.get_submodule(layer).weight
    if not isinstance(weight, Tensor):
        raise RelevanceError("the layer has no weight", layer)
    return weight
