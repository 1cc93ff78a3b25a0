"""Handlers of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcp_core.errors import RelevanceError
from gcp_core.relevance.linear_maps import ConvMap, DenseMap, LinearMap
from gcp_core.relevance.marks import Mark, mark_of, marked
from gcp_core.relevance.rules import LinearRule, LinearSite
from gcp_core.relevance.state import PassState


def conv(
    state: PassState, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The linear rule on a convolution."""
    return _conv(state, *args, **kwargs)


def linear(
    state: PassState, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The linear rule on the last dimension."""
    return _linear(state, *args, **kwargs)


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
        raise RelevanceError(
            f"a convolution got {input.ndim} dimensions, expected a batch of {weight.ndim}", "model"
        )
    dilation = _tuple(dilation, spatial)
    if isinstance(padding, str):
        input, padding = _padded(input, weight, dilation if padding == "same" else (0,) * spatial), 0
    conv_map = ConvMap(_tuple(stride, spatial), _tuple(padding, spatial), dilation, groups)
    name = state.names.get(id(weight))
    mark = mark_of(input)
    if mark is None and name not in state.wanted:
        return _plain(conv_map.forward, input, weight, bias)
    record = None
    if name in state.wanted:
        record = _own_reading(state, name, lambda r: r.mean(tuple(range(2, r.ndim))))
    y = LinearRule.apply(input, state.root, _site(state, conv_map, weight, bias, name, mark, record))
    return marked(y, _mark(name, mark, 1, record is not None))


def _linear(state: PassState, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    name = state.names.get(id(weight))
    mark, leading = mark_of(input), input.shape[:-1]
    if mark is None and name not in state.wanted:
        return _plain(F.linear, input, weight, bias)
    record = None
    if name in state.wanted:
        record = _own_reading(state, name, lambda r: r.reshape(leading[0], -1, r.shape[-1]).mean(1))
    rows = input if input.ndim == 2 else input.reshape(-1, input.shape[-1])
    y = LinearRule.apply(rows, state.root, _site(state, DenseMap(), weight, bias, name, mark, record))
    y = y if input.ndim == 2 else y.reshape(*leading, -1)
    return marked(y, _mark(name, mark, y.ndim - 1, record is not None))


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    """A size for each dimension."""
    values = (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
    return values * (length // len(values))


def _padded(x: Tensor, weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """``x`` padded for ``padding="same"``; zero dilations mean no padding."""
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
    padded = F.pad(x, [n for total in reversed(totals) for n in (total // 2, total - total // 2)])
    mark = mark_of(x)
    return padded if mark is None else marked(padded, mark)


def _plain(func: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Below the lowest layer that is read: no graph."""
    with torch.no_grad():
        return func(x, weight, bias)


def _site(
    state: PassState,
    linear_map: LinearMap,
    weight: Tensor,
    bias: Tensor | None,
    name: str | None,
    mark: Mark | None,
    record: Callable[[Tensor], None] | None,
) -> LinearSite:
    if name is not None and name not in state.order:
        state.order.append(name)
    weight = weight.detach()
    return LinearSite(
        map=linear_map,
        weight=weight,
        bias=None if bias is None else bias.detach(),
        split=state.split(name, weight, linear_map),
        stabiliser=state.stabiliser,
        non_negative=mark is not None and mark.non_negative,
        record=record,
    )


def _mark(name: str | None, mark: Mark | None, dim: int, read: bool) -> Mark:
    return Mark(layer=name if read else None, dim=dim, depth=1 if mark is None else mark.depth + 1)


def _own_reading(state: PassState, layer: str, mean: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Records a layer's relevance at its own output, unless it is read at a residual sum."""

    def record(r: Tensor) -> None:
        if layer not in state.at_sum:
            state.record(layer, mean(r))

    return record
