"""Handlers of pools and spatial means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcp_core.relevance.marks import Mark, mark_of, marked
from gcp_core.relevance.rules import AverageRule, MaxRule
from gcp_core.relevance.state import PassState

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


def max_pool2d(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Any:
    """Relevance to the winners."""
    return _max_pool2d(state, *args, **kwargs)


def _max_pool2d(
    state: PassState,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    stride = kernel_size if stride is None or stride == [] else stride
    x = input.detach()
    with torch.no_grad():
        y, winners = F.max_pool2d_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode)

    def to_winner(v: Tensor) -> Tensor:
        sizes = [_pair(s) for s in (kernel_size, stride, padding, dilation)]
        return torch.ops.aten.max_pool2d_with_indices_backward(v, x, *sizes, ceil_mode, winners)

    out = marked(MaxRule.apply(input, y, to_winner, state.stabiliser), mark_of(input) or Mark())
    return (out, winners) if return_indices else out


def avg_pool2d(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Tensor:
    """Relevance in proportion to the averaged values."""
    return _avg_pool2d(state, *args, **kwargs)


def _avg_pool2d(
    state: PassState,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    stride = kernel_size if stride is None or stride == [] else stride
    x = input.detach()
    geometry = (kernel_size, stride, padding, ceil_mode, count_include_pad)
    with torch.no_grad():
        y = F.avg_pool2d(x, *geometry, divisor_override)

    # A divisor of one makes the pool a sum, so its gradient is the undivided spread. Overlapping pools stand beside
    # other branches (inception), where a constant factor would not vanish in the normalisation: theirs is divided.
    overlapping = any(step < size for step, size in zip(_pair(stride), _pair(kernel_size)))
    divisor = divisor_override if overlapping else 1

    def spread(v: Tensor) -> Tensor:
        return _gradient(lambda z: F.avg_pool2d(z, *geometry, divisor), x, v)

    return marked(AverageRule.apply(input, y, spread, state.stabiliser), mark_of(input) or Mark())


def adaptive_avg_pool2d(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Tensor:
    """Relevance in proportion to the averaged values; nothing happens where the size stays."""
    x, mark = args[0], mark_of(args[0]) or Mark()
    size = args[1] if len(args) > 1 else kwargs["output_size"]
    with torch.no_grad():
        y = F.adaptive_avg_pool2d(x.detach(), size)
    if y.shape == x.shape:
        return x
    if y.shape[-2:] == (1, 1):
        return marked(AverageRule.apply(x, y, lambda v: v, state.stabiliser), mark)
    counts = _window_sizes(x.shape[-2], y.shape[-2], x).unsqueeze(1) * _window_sizes(
        x.shape[-1], y.shape[-1], x
    )
    detached = x.detach()

    def spread(v: Tensor) -> Tensor:
        return _gradient(lambda z: F.adaptive_avg_pool2d(z, size), detached, v * counts)

    return marked(AverageRule.apply(x, y, spread, state.stabiliser), mark)


def mean(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Tensor:
    """A mean over some dimensions is an average pool."""
    x, mark = args[0], mark_of(args[0]) or Mark()
    with torch.no_grad():
        y = func(x.detach(), *args[1:], **kwargs)
    dim = (
        args[1]
        if len(args) > 1 and not isinstance(args[1], torch.dtype)
        else kwargs.get("dim", kwargs.get("axis"))
    )
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    kept = [1 if d in {e % x.ndim for e in dims} else n for d, n in enumerate(x.shape)]
    follows = (
        mark.layer is not None and y.ndim > mark.dim and y.shape[: mark.dim + 1] == x.shape[: mark.dim + 1]
    )
    out = AverageRule.apply(x, y, lambda v: v.reshape(kept), state.stabiliser)
    return marked(out, mark if follows else mark._replace(layer=None, placed=None))


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value) * (2 // len(value))


def _gradient(func: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """The transposed derivative of ``func`` at ``x``, applied to ``v``."""
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        return torch.autograd.grad(func(z), z, v)[0]


def _window_sizes(size: int, windows: int, like: Tensor) -> Tensor:
    """Inputs per window of an adaptive pool along one dimension: ceil of the end minus floor of the start."""
    sizes = [-(-(i + 1) * size // windows) - i * size // windows for i in range(windows)]
    return torch.tensor(sizes, dtype=like.dtype, device=like.device)


POOLS = {
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "mean": mean,
}
