"""The relevance rules as autograd functions: forward computes the layer, backward carries relevance.

Method: Aketi et al., "Gradual Channel Pruning while Training using Feature Relevance Scores", IEEE Access 8 (2020),
section III; layer-wise relevance propagation with alpha = 2, beta = 1. x = input, y = output, R = relevance at the
output; every ``backward`` returns the relevance at the input. Where a tensor has several consumers, autograd adds
their relevances, which is what the method asks for. Weights and biases never get a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from gcp_core.errors import RelevanceError
from gcp_core.relevance.linear_maps import LinearMap, SplitWeight
from gcp_core.relevance.stabiliser import EPSILON, Stabiliser

Record = Callable[[Tensor], None]


class LinearSite(NamedTuple):
    """One use of a convolution or linear layer."""

    map: LinearMap
    weight: Tensor
    bias: Tensor | None
    split: SplitWeight
    stabiliser: Stabiliser
    non_negative: bool
    record: Record | None


class LinearRule(Function):
    """``R_in = x * (W+^T (2 R / Z+) - W-^T (R / Z-))``, without bias; split by the input's sign where that varies.

    ``root`` gives the lowest layers a graph although images need none: there only R is recorded.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, root: Tensor, site: LinearSite) -> Tensor:
        z = site.map.forward(x, site.weight, site.bias)
        ctx.site = site
        ctx.set_materialize_grads(False)
        if ctx.needs_input_grad[0]:
            ctx.x, ctx.z = x.detach(), z.detach()
        return z

    @staticmethod
    def backward(ctx: Any, r: Tensor | None) -> tuple[Tensor | None, None, None]:
        if r is None:
            return None, None, None
        if ctx.site.record is not None:
            ctx.site.record(r)
        if not ctx.needs_input_grad[0]:
            return None, None, None
        x, z = ctx.x, ctx.z
        del ctx.x, ctx.z  # each rule runs once: its memory serves the next
        return _propagate(ctx.site, x, z, r), None, None


def _propagate(site: LinearSite, x: Tensor, z: Tensor, r: Tensor) -> Tensor:
    """The linear rule: one more convolution for Z+, then one transposed convolution with both parts stacked."""
    split, mixed = site.split, not site.non_negative and bool(x.amin() < 0)
    if mixed:
        upper, lower = _mixed_sums(site, split, x, z)
    elif site.stabiliser.sign_aware:
        # Not below e by the numbers, but kernels that transform (Winograd, FFT) round sums of nothing to either side.
        upper = site.map.forward(x, split.positive, split.epsilon).clamp_min_(EPSILON)
        lower = _lower_sum(site, z, upper, lambda: site.map.forward(x, split.negative, -split.epsilon))
    else:
        upper = site.stabiliser(site.map.forward(x, split.positive))
        lower = site.stabiliser(site.map.forward(x, split.negative))
    ratios = _ratios(r, upper, lower, site.map.groups)
    share = site.map.adjoint(ratios, split.direct, x)
    if mixed:
        share = torch.where(x > 0, share, site.map.adjoint(ratios, split.crossed, x))
    return share.mul_(x)


def _mixed_sums(site: LinearSite, split: SplitWeight, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """All positive and all negative contributions where inputs have both signs (W+ x+ + W- x-, W- x+ + W+ x-).

    The published rule is not defined there (its denominators may vanish or change sign), so both stabilisers use the
    sign-aware denominators.
    """
    up, down = x.clamp_min(0), x.clamp_max(0)
    upper = site.map.forward(up, split.positive, split.epsilon) + site.map.forward(down, split.negative)
    upper.clamp_min_(EPSILON)

    def direct() -> Tensor:
        return site.map.forward(up, split.negative, -split.epsilon) + site.map.forward(down, split.positive)

    return upper, _lower_sum(site, z, upper, direct)


def _lower_sum(site: LinearSite, z: Tensor, upper: Tensor, direct: Callable[[], Tensor]) -> Tensor:
    """``Z- - e`` as ``Z - bias - (Z+ + e)``, kept below zero by at least its own rounding noise.

    Where Z- is smaller than that noise, a bare difference could be anything, zero and positive numbers included.
    """
    if site.split.one_sided:
        return direct().clamp_max_(-EPSILON)
    lower = torch.sub(z, upper)
    if site.bias is not None:
        lower.sub_(site.bias.reshape(-1, *(1,) * (z.ndim - 2)))
    noise = site.split.noise
    # Mostly clear of noise everywhere, which two reads tell; the minimum itself costs three times as much.
    if bool(lower.amax() <= -noise * upper.amax()):
        return lower
    return torch.minimum(lower, upper * -noise, out=lower)


def _ratios(r: Tensor, upper: Tensor, lower: Tensor, groups: int) -> Tensor:
    """``[R / Z+, R / Z-]`` side by side within each group, in one buffer laid out like ``upper``."""
    samples, channels, *rest = upper.shape
    last = upper.ndim == 4 and upper.is_contiguous(memory_format=torch.channels_last)
    buffer = torch.empty(
        (samples, 2 * channels, *rest),
        dtype=upper.dtype,
        device=upper.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    if groups == 1:
        torch.div(r, upper, out=buffer[:, :channels])
        torch.div(r, lower, out=buffer[:, channels:])
        return buffer
    halves = buffer.view(samples, groups, 2, channels // groups, *rest)
    grouped = (samples, groups, channels // groups, *rest)
    torch.div(r.reshape(grouped), upper.reshape(grouped), out=halves[:, :, 0])
    torch.div(r.reshape(grouped), lower.reshape(grouped), out=halves[:, :, 1])
    return buffer


class PassRule(Function):
    """Relevance unchanged: batch norm, activations, multiplication by something that is not a signal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, r: Tensor) -> tuple[Tensor, None]:
        return r, None


class SumRule(Function):
    """Residual sum: ``a R / s`` to one operand, ``b R / s`` to the other."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, stabiliser: Stabiliser, record: Record | None) -> Tensor:
        s = a + b
        ctx.a, ctx.b, ctx.s = a.detach(), b.detach(), s.detach()
        ctx.stabiliser, ctx.record = stabiliser, record
        return s

    @staticmethod
    def backward(ctx: Any, r: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if ctx.record is not None:
            ctx.record(r)
        a, b, s = ctx.a, ctx.b, ctx.stabiliser(ctx.s)
        del ctx.a, ctx.b, ctx.s
        q = torch.div(r, s, out=s)
        return a * q, q.mul_(b), None, None


class AverageRule(Function):
    """Average pool: ``x R / y`` spread over the window and, as published, not divided by its size.

    ``spread(v)`` is the sum over all windows that hold a position.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, spread: Callable[[Tensor], Tensor], stabiliser: Stabiliser
    ) -> Tensor:
        ctx.x, ctx.y, ctx.spread, ctx.stabiliser = x.detach(), y.detach(), spread, stabiliser
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, r: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.x * ctx.spread(r / ctx.stabiliser(ctx.y)), None, None, None


class MaxRule(Function):
    """Max pool: ``y R / y`` at the winner; ``to_winner(v)`` puts v there and adds up where windows overlap."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, to_winner: Callable[[Tensor], Tensor], stabiliser: Stabiliser
    ) -> Tensor:
        ctx.y, ctx.to_winner, ctx.stabiliser = y.detach(), to_winner, stabiliser
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, r: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.to_winner(r * ctx.y / ctx.stabiliser(ctx.y)), None, None, None


class HalvesRule(Function):
    """A product of two signals of one shape: half of the relevance to each."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    def backward(ctx: Any, r: Tensor) -> tuple[Tensor, Tensor]:
        return r / 2, r / 2


class ProportionalRule(Function):
    """Any other differentiable operation: ``x_j * d(y)/d(x_j) * R / y``; conserves where y is homogeneous in x."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        call: Callable[[list[Tensor]], Tensor],
        name: str,
        stabiliser: Stabiliser,
        *xs: Tensor,
    ) -> Tensor:
        ctx.y, ctx.call, ctx.name, ctx.stabiliser = y.detach(), call, name, stabiliser
        ctx.xs = [x.detach() for x in xs]
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, r: Tensor) -> tuple[Tensor | None, ...]:
        q = r / ctx.stabiliser(ctx.y)
        with torch.enable_grad():
            xs = [x.requires_grad_() for x in ctx.xs]
            y = ctx.call(xs)
            if not y.requires_grad:
                raise RelevanceError(
                    f"there is no relevance rule for {ctx.name}, which has no derivative", "model"
                )
            grads = torch.autograd.grad(y, xs, q, allow_unused=True)
        return None, None, None, None, *(None if g is None else g * x.detach() for g, x in zip(grads, xs))
