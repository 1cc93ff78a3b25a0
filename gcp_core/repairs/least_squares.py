"""Compensation: the layers that read removed channels are refitted to those that stay, by least squares.

Source: Xie et al., "Pruning with Compensation: Efficient Channel Pruning for Deep Convolutional Neural Networks", arXiv
2108.13728 (abstract), and its authors' code (pseudopruner): for the kept columns K of a consumer
``W' = W S_:K S_KK^-1`` and ``b' = b + W mu - W' mu_K``, S = covariance and mu = mean of its unfolded input. Ours: where
the bias goes in layers without one, the bound on memory, and what happens to singular covariances.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches
from gcp_core.criteria.consumers.readers import CONVS
from gcp_core.criteria.consumers.statistics import MAX_COLUMNS, Moments, input_moments
from gcp_core.criteria.feature_maps import first_image
from gcp_core.errors import ConfigError, PlanError, RelevanceError, did_you_mean
from gcp_core.groups import Groups
from gcp_core.plan import Plan
from gcp_core.repairs.bias import add_bias, bias_places

_log = logging.getLogger(__name__)

#: A column whose variance is below this share of its mean square is constant: nothing can be told from it.
_CONSTANT = 1e-12
#: Directions of the kept columns' correlation matrix below this share of the largest are taken as absent.
_SINGULAR = 1e-10


@dataclass(frozen=True, eq=False)
class Fit:
    """What least squares says of one layer.

    Attributes:
        weight: in the layer's own shape, float64; columns that are not kept stay as they were.
        shift: ``(O,)`` what is added to the output so that its mean stays: ``W mu - W' mu_K``; zeros without intercept.
        residual: ``(O,)`` mean squared error of each output that is left (after ``rescale``, of the rescaled fit).
        total: ``(O,)`` variance of each output as the columns give it (its mean square without intercept).
        singular: whether the kept columns depend on each other, so that the smallest of the best fits was taken.
    """

    weight: Tensor
    shift: Tensor
    residual: Tensor
    total: Tensor
    singular: bool


@dataclass(frozen=True)
class Compensation:
    """What was done to one layer.

    Attributes:
        layer: module name.
        done: ``all`` or ``position`` (see :data:`gcp_core.criteria.consumers.statistics.Blocks`), ``means`` (the bias
            only), or why nothing was done.
        bias: where the bias went: ``bias``, ``norm`` (the following norm's running mean), ``cancelled`` (by a norm
            without running statistics) or ``none`` (there is no place: the fit has no intercept).
        lost: share of the output's variance (summed over outputs) that the kept columns cannot give, 0..1; None where it
            is not known: with ``means``, or where nothing was done.
        rows: how many vectors the fit saw.
    """

    layer: str
    done: str
    bias: str = "none"
    lost: float | None = None
    rows: int = 0

    @property
    def skipped(self) -> bool:
        """Whether nothing was done."""
        return self.rows == 0


def consumers_of(model: nn.Module, plan: Plan) -> list[tuple[str, list[int]]]:
    """The layers that lose input columns with ``plan``, each with the columns it keeps.

    Depthwise convolutions lose whole filters and are not among them; nor is anything behind a stream that keeps its width
    (residual mode ``scatter``).
    """
    found = []
    for cut in plan.cuts:
        layer, _, short = cut.tensor.rpartition(".")
        if cut.dim == 1 and short == "weight" and isinstance(model.get_submodule(layer), (*CONVS, nn.Linear)):
            gone = set(cut.removed)
            found.append((layer, [column for column in range(cut.size) if column not in gone]))
    return found


def compensate(
    model: nn.Module,
    consumers: Sequence[tuple[str, Sequence[int]]],
    batches: Batches,
    *,
    sampling_stride: int = 1,
    rescale: bool = False,
    max_columns: int = MAX_COLUMNS,
    warn: bool = True,
) -> list[Compensation]:
    """Refit layers to the input columns that they keep, in place; removing the others is left to the plan.

    Each layer gets its own fit to the inputs that it has now, before anything is removed (a group with several
    consumers: one fit each; layers behind each other: independently). All is computed before anything is written. Where
    the bias ``b' - b`` goes: into the layer's bias; else, if a batch norm and nothing else reads the output, out of its
    running mean, which is exact in eval mode, and in training mode, too, as a constant does not pass a norm; else the fit
    is made without intercept.

    Args:
        consumers: layer name -> kept input channels of a convolution, or kept features of a linear layer; see
            :func:`consumers_of`.
        batches: normalised ``(images, labels)`` on the model's device; may be read more than once (see
            :func:`gcp_core.criteria.consumers.statistics.input_moments`, also for the bound on memory).
        sampling_stride: look at every n-th output position of a convolution along each dimension.
        rescale: multiply each output's weights so that its variance is what it was (the authors' experimental mode, for
            convolutions before a norm). The squared error never gets smaller by it.
        warn: log layers for which there are fewer rows than columns; off for a search that fits many times.

    Cost: one forward pass over ``batches`` (more if memory needs turns) and, per row, ``(C P)^2`` multiply-adds a layer
    where a forward pass has ``C P O``: about ``9 / sampling_stride^2`` forward passes for a net of 3 x 3 kernels.

    Returns:
        What was done, in the order of ``consumers``. Grouped and depthwise convolutions are skipped, layers that keep
        every column, and layers that do not run in evaluation mode (auxiliary heads).

    Raises:
        PlanError: no such layer, or columns that it does not have.
        RelevanceError: no images, or an input that is not finite.
    """
    kept = {layer: _checked(model, layer, columns) for layer, columns in consumers}
    skipped = {layer: reason for layer, own in kept.items() if (reason := _reason(model, layer, own))}
    wanted = [layer for layer in kept if layer not in skipped]
    fits: dict[str, Fit] = {}
    done = {layer: Compensation(layer, reason) for layer, reason in skipped.items()}
    if not wanted:
        return [done[layer] for layer in kept]
    places = bias_places(model, wanted, first_image(batches))
    for moments in input_moments(
        model,
        dict.fromkeys(wanted),
        batches,
        sampling_stride=sampling_stride,
        max_columns=max_columns,
    ):
        layer = moments.layer
        weight, place = _weight(model.get_submodule(layer)), places[layer].kind
        fitted = fit(weight, moments, kept[layer], intercept=place != "none", rescale=rescale)
        if warn and moments.covariance is not None and moments.rows < moments.mean.shape[1]:
            hint = "more images or a smaller sampling stride would help"
            _log.warning("%s: %d rows for %d columns; %s", layer, moments.rows, moments.mean.shape[1], hint)
        if fitted.singular:
            _log.info("%s: kept inputs depend on each other; the smallest of the best fits is taken", layer)
        fits[layer] = fitted
        lost = None
        if moments.covariance is not None:
            lost = float(fitted.residual.sum() / fitted.total.sum().clamp_min(1e-300))
        kind = "means" if moments.blocks == "none" else moments.blocks
        done[layer] = Compensation(layer, kind, place, lost, moments.rows)
    for layer in wanted:
        done.setdefault(layer, Compensation(layer, "it does not run in evaluation mode"))
    for layer, fitted in fits.items():
        weight = _weight(model.get_submodule(layer))
        with torch.no_grad():
            weight.copy_(fitted.weight.to(weight.dtype))
        add_bias(model, layer, places[layer], fitted.shift)
    return [done[layer] for layer in kept]


@dataclass(frozen=True)
class LeastSquares:
    """:func:`compensate` as a repair: patches what a plan leaves, just before the event. See :func:`least_squares`."""

    sampling_stride: int
    rescale: bool
    max_columns: int
    needs: str = "data"

    @property
    def forwards(self) -> float:
        """See :func:`compensate`."""
        return 1 + 9 / self.sampling_stride**2

    def patch(
        self, model: nn.Module, groups: Groups, plan: Plan, batches: Batches, generator: torch.Generator
    ) -> None:
        """Refit every layer that loses input columns with ``plan``."""
        compensate(
            model,
            consumers_of(model, plan),
            batches,
            sampling_stride=self.sampling_stride,
            rescale=self.rescale,
            max_columns=self.max_columns,
        )


def least_squares(
    sampling_stride: int = 2, rescale: bool = False, max_columns: int = MAX_COLUMNS
) -> LeastSquares:
    """Refits the layers that read removed channels to the channels that stay; see :func:`compensate` for the options."""
    for key, value in (("sampling_stride", sampling_stride), ("max_columns", max_columns)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{value!r} is not a whole number >= 1", f"prune.repair_options.{key}")
    if not isinstance(rescale, bool):
        raise ConfigError(f"{rescale!r} is neither true nor false", "prune.repair_options.rescale")
    return LeastSquares(sampling_stride, rescale, max_columns)


def fit(
    weight: Tensor, moments: Moments, kept: Tensor, *, intercept: bool = True, rescale: bool = False
) -> Fit:
    """The least-squares fit of a layer's outputs to its kept input channels, from statistics alone.

    Written as a correction of the kept weights, ``W' = W_K + W_R S_RK S_KK^-1`` (R = the removed columns): the same as
    the formula, without the rounding. Columns that are constant keep their weights. Where ``S_KK`` is singular, the
    smallest correction among the best ones is taken.

    Args:
        weight: the layer's, any float type.
        kept: ``(K,)`` int64 input channels.
        intercept: fit with a bias; without one second moments take the covariances' place.
    """
    whole = moments.blocked(weight)
    k, r = _split(moments, kept, whole.shape[2])
    new = whole.clone()
    singular = False
    if moments.covariance is None:
        residual = total = torch.zeros_like(moments.output_variance)
    else:
        s = _second_moments(moments, intercept)
        total = _quadratic(whole, s)
        factors, singular = _solved(s, moments.mean, k, r)
        new[:, :, k] += whole[:, :, r] @ factors
        # What is left of the removed columns when the kept ones have said all they can.
        left = s[:, r][:, :, r] - factors @ s[:, k][:, :, r]
        residual = _quadratic(whole[:, :, r], (left + left.transpose(1, 2)) / 2).clamp_min(0)
        if rescale:
            factor = rescale_factor(total, _quadratic(new[:, :, k], s[:, k][:, :, k]))
            new[:, :, k] *= factor[:, None]
            # The fit's error is uncorrelated with the fit: it grows by what the fit is stretched.
            residual = residual + (factor - 1).square() * (total - residual).clamp_min(0)
    mean = moments.mean[:, None, :]
    shift = (whole * mean).sum((0, 2)) - (new[:, :, k] * mean[:, :, k]).sum((0, 2))
    shift = shift if intercept else torch.zeros_like(shift)
    return Fit(moments.unblocked(new, weight.shape), shift, residual, total, singular)


def rescale_factor(total: Tensor, explained: Tensor) -> Tensor:
    """``sqrt(total / explained)`` of each output, 1 where nothing is explained. Never below 1 for a least-squares fit."""
    return torch.where(explained > 0, (total / explained.clamp_min(1e-300)).sqrt(), 1.0)


def _second_moments(moments: Moments, intercept: bool) -> Tensor:
    if moments.covariance is None:
        raise RelevanceError("no covariance was taken", moments.layer)
    if intercept:
        return moments.covariance
    return moments.covariance + moments.mean[:, :, None] * moments.mean[:, None, :]


def _split(moments: Moments, kept: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Columns that stay and columns that go."""
    k = moments.columns(kept)
    stays = torch.zeros(size, dtype=torch.bool, device=kept.device)
    stays[k] = True
    return k, torch.nonzero(~stays).squeeze(1)


def _quadratic(w: Tensor, s: Tensor) -> Tensor:
    """``(O,)`` diagonal of ``W S W^T``, summed over blocks."""
    return ((w @ s) * w).sum((0, 2))


def _solved(s: Tensor, mean: Tensor, k: Tensor, r: Tensor) -> tuple[Tensor, bool]:
    """``S_RK S_KK^-1`` ``(B, R, K)`` by correlations, and whether any block is singular."""
    variance = s.diagonal(dim1=1, dim2=2)[:, k]
    constant = variance <= _CONSTANT * (variance.clamp_min(0) + mean[:, k].square())
    scale = torch.where(constant, torch.ones_like(variance), variance.clamp_min(1e-300)).rsqrt()
    alive = torch.where(constant, 0.0, scale)
    correlation = s[:, k][:, :, k] * alive[:, :, None] * alive[:, None, :]
    # A constant column stands alone: its own weight stays as it is.
    correlation.diagonal(dim1=1, dim2=2).copy_(torch.ones_like(variance))
    cross = s[:, k][:, :, r] * alive[:, :, None]
    lower, info = torch.linalg.cholesky_ex(correlation)
    pivots = lower.diagonal(dim1=1, dim2=2).square()
    singular = (info > 0) | ~(pivots.amin(1) > _SINGULAR)
    solution = torch.cholesky_solve(cross, lower)
    for block in torch.nonzero(singular).flatten().tolist():
        values, vectors = torch.linalg.eigh(correlation[block])
        inverse = torch.where(values > _SINGULAR * values.amax(), 1 / values, 0.0)
        solution[block] = vectors @ (inverse[:, None] * (vectors.T @ cross[block]))
    return (solution * alive[:, :, None]).transpose(1, 2), bool(singular.any())


def _checked(model: nn.Module, layer: str, columns: Sequence[int]) -> Tensor:
    modules = dict(model.named_modules())
    module = modules.get(layer)
    if not isinstance(module, (*CONVS, nn.Linear)):
        known = [name for name, m in modules.items() if isinstance(m, (*CONVS, nn.Linear))]
        raise PlanError("no conv or linear layer of this name", layer, did_you_mean(layer, known))
    size = _weight(module).shape[1]
    own = sorted({int(column) for column in columns})
    if not own or own[0] < 0 or own[-1] >= size or len(own) != len(columns):
        raise PlanError(f"kept input columns must be distinct, at least one, and in 0..{size - 1}", layer)
    return torch.tensor(own, device=_weight(module).device)


def _reason(model: nn.Module, layer: str, kept: Tensor) -> str:
    """Why a layer is left as it is; empty if it is not."""
    module = model.get_submodule(layer)
    if isinstance(module, CONVS) and module.groups > 1:
        kind = "depthwise" if module.groups == module.in_channels else "grouped"
        return f"a {kind} convolution has no columns that all filters read"
    return "it keeps every column" if len(kept) == _weight(module).shape[1] else ""


def _weight(module: nn.Module) -> Tensor:
    if not isinstance(module.weight, Tensor):
        raise PlanError("the layer has no weight", type(module).__name__)
    return module.weight
