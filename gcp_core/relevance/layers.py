"""Handlers of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcp_core.errors import RelevanceError
from gcp_core.relevance.linear_maps import ConvMap, DenseMap, LinearMap, SplitWeight
from gcp_core.relevance.marks import Mark, mark_of, marked
from gcp_core.relevance.rules import LinearRule, LinearSite
from gcp_core.relevance.state import PassState

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


def conv(state: PassState, func: Callable[..., Tensor], args: _Args, kwargs: _Kwargs) -> Tensor:
    """The linear rule on a convolution; no graph below the lowest layer that is read."""
    if _takes_part(state, args, kwargs):
        return _conv(state, *args, **kwargs)
    return _plain(state, func, args, kwargs, lambda y: 1)


def linear(state: PassState, func: Callable[..., Tensor], args: _Args, kwargs: _Kwargs) -> Tensor:
    """The linear rule on the last dimension; no graph below the lowest layer that is read."""
    if _takes_part(state, args, kwargs):
        return _linear(state, *args, **kwargs)
    return _plain(state, func, args, kwargs, lambda y: y.ndim - 1)


def _weight(args: _Args, kwargs: _Kwargs) -> Tensor:
    return args[1] if len(args) > 1 else kwargs["weight"]


def _takes_part(state: PassState, args: _Args, kwargs: _Kwargs) -> bool:
    """Whether this layer is read, or one below it."""
    read_below = mark_of(args[0]) is not None and args[0].requires_grad
    return read_below or state.names.get(id(_weight(args, kwargs))) in state.wanted


def _plain(
    state: PassState, func: Callable[..., Tensor], args: _Args, kwargs: _Kwargs, dim: Callable[[Tensor], int]
) -> Tensor:
    """A layer below all that are read. Its output is a signal all the same: a sum has to split relevance with it."""
    weight = _weight(args, kwargs)
    with torch.no_grad():
        y = func(*args, **kwargs)
    if mark_of(args[0]) is None and id(weight) not in state.names:
        return y
    return marked(y, _mark(state, args[0], weight, dim(y)))


def _conv(
    state: PassState,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    spatial = weight.ndim - 2
    if input.ndim != weight.ndim:
        found = f"{input.ndim} dimensions, expected a batch of {weight.ndim}"
        raise RelevanceError(f"a convolution got {found}", state.names.get(id(weight), "model"))
    if isinstance(padding, str):
        input, padding = _padded(input, weight, _tuple(dilation, spatial), padding), 0

    def geometry() -> ConvMap:
        return ConvMap(_tuple(stride, spatial), _tuple(padding, spatial), _tuple(dilation, spatial), groups)

    site = _site(state, input, weight, bias, (stride, padding, dilation, groups), geometry, _spatial_mean)
    return marked(LinearRule.apply(input, state.root, site), _mark(state, input, weight, 1))


def _linear(state: PassState, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    leading = input.shape[:-1]

    def mean(r: Tensor) -> Tensor:
        return r if len(leading) == 1 else r.reshape(leading[0], -1, r.shape[-1]).mean(1)

    site = _site(state, input, weight, bias, (), DenseMap, mean)
    rows = input if input.ndim == 2 else input.reshape(-1, input.shape[-1])
    y = LinearRule.apply(rows, state.root, site)
    y = y if input.ndim == 2 else y.reshape(*leading, -1)
    return marked(y, _mark(state, input, weight, y.ndim - 1))


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    """A size for each dimension."""
    values = (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
    return values * (length // len(values))


def _padded(x: Tensor, weight: Tensor, dilation: tuple[int, ...], padding: str) -> Tensor:
    """``x`` padded by hand for ``padding="same"``, which may be uneven; as it is for ``"valid"``."""
    if padding == "valid":
        return x
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
    padded = F.pad(x, [n for total in reversed(totals) for n in (total // 2, total - total // 2)])
    mark = mark_of(x)
    return padded if mark is None else marked(padded, mark)


def _site(
    state: PassState,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Hashable,
    make_map: Callable[[], LinearMap],
    mean: Callable[[Tensor], Tensor],
) -> LinearSite:
    """This use of a layer; ``mean`` turns relevance at its output into a reading ``(N, C)``."""
    layer, mark = state.names.get(id(weight)), mark_of(x)
    weight = weight.detach()

    def prepare() -> tuple[LinearMap, SplitWeight]:
        linear_map = make_map()
        return linear_map, SplitWeight(weight, linear_map, state.stabiliser)

    linear_map, split = state.prepared(layer, geometry, prepare)
    record = None
    if layer is not None and layer in state.wanted:
        state.order.setdefault(layer)
        record = _own_reading(state, layer, mean)
    non_negative = mark is not None and mark.non_negative
    bias = None if bias is None else bias.detach()
    return LinearSite(linear_map, weight, bias, split, state.stabiliser, non_negative, record)


def _mark(state: PassState, x: Tensor, weight: Tensor, dim: int) -> Mark:
    layer, mark = state.names.get(id(weight)), mark_of(x)
    depth = 1 if mark is None else mark.depth + 1
    return Mark(layer=layer if layer in state.wanted else None, dim=dim, depth=depth)


def _spatial_mean(r: Tensor) -> Tensor:
    return r.mean(tuple(range(2, r.ndim)))


def _own_reading(state: PassState, layer: str, mean: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Records a layer's relevance at its own output, unless it is read at a residual sum."""

    def record(r: Tensor) -> None:
        if layer not in state.at_sum:
            state.record(layer, mean(r))

    return record
