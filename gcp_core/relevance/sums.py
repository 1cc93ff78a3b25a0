"""Handlers of sums, products and scattered sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gcp_core.relevance.any_other import any_other
from gcp_core.relevance.marks import Mark, mark_of, marked, merged
from gcp_core.relevance.rules import HalvesRule, PassRule, SumRule
from gcp_core.relevance.state import PassState

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


def add(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Any:
    """Residual sum; a constant added to a signal leaves its relevance as it is."""
    a, b = _operands(args, kwargs)
    marks = [m for m in (mark_of(a), mark_of(b)) if m is not None]
    if kwargs.get("alpha", 1) != 1 or (len(marks) == 2 and a.shape != b.shape):
        return any_other(state, func, args, kwargs)
    if len(marks) < 2:
        return _with_constant(torch.add, a, b)
    return marked(SumRule.apply(a, b, state.stabiliser, _sum_reading(state, marks)), merged(marks))


def subtract(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Any:
    """A constant taken off leaves relevance as it is; a difference of signals is split in proportion."""
    a, b = _operands(args, kwargs)
    if kwargs.get("alpha", 1) != 1 or (mark_of(a) and mark_of(b)):
        return any_other(state, func, args, kwargs)
    return _with_constant(torch.sub, a, b)


def multiply(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Any:
    """Relevance goes to the signal: not to constants, parameters or gates (squeeze-excite)."""
    a, b = _operands(args, kwargs)
    mark_a, mark_b = mark_of(a), mark_of(b)
    if mark_a is None or mark_b is None:
        return _with_constant(torch.mul, a, b)
    if mark_a.gate == mark_b.gate and a.shape == b.shape:
        return marked(HalvesRule.apply(a, b), merged([mark_a, mark_b]))
    signal_first = mark_b.gate if mark_a.gate != mark_b.gate else a.numel() > b.numel()
    out = _with_constant(torch.mul, *((a, b.detach()) if signal_first else (a.detach(), b)))
    return marked(out, _mark(out)._replace(non_negative=mark_a.non_negative and mark_b.non_negative))


def divide(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Any:
    """Relevance goes to the numerator."""
    a, b = _operands(args, kwargs)
    if kwargs or mark_of(a) is None:
        return any_other(state, func, args, kwargs)
    return _with_constant(torch.div, a, b.detach() if isinstance(b, Tensor) else b)


def index_copy(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Tensor:
    """``base.index_copy(dim, index, x)``: a pruned layer's channels at their registered places in a wider tensor.

    The ordinary gradient moves relevance to the right places; the mark remembers where the layer's channels went.
    """
    base, dim, index, x = _indexed(args, kwargs)
    out = torch.index_copy(base, dim, index, x)
    old, mark = mark_of(base), mark_of(x)
    if old is None and mark is not None and mark.layer is not None and mark.dim == dim % base.ndim:
        placed = index if mark.placed is None else index[mark.placed]
        return marked(out, mark._replace(placed=placed, non_negative=False, gate=False))
    known = merged([m for m in (old, mark) if m is not None])
    return marked(out, known._replace(non_negative=False, gate=False))


def index_add(state: PassState, func: Any, args: _Args, kwargs: _Kwargs) -> Any:
    """``base.index_add(dim, index, x)`` with distinct indices: a residual sum with the scattered ``x``."""
    base, dim, index, x = _indexed(args, kwargs)
    if kwargs.get("alpha", 1) != 1 or mark_of(x) is None or index.unique().numel() != index.numel():
        return any_other(state, func, args, kwargs)
    wide = index_copy(state, torch.index_copy, (torch.zeros_like(base.detach()), dim, index, x), {})
    return add(state, torch.add, (base, wide), {})


def _operands(args: _Args, kwargs: _Kwargs) -> tuple[Any, Any]:
    return (args[0], args[1]) if len(args) > 1 else (args[0], kwargs["other"])


def _indexed(args: _Args, kwargs: _Kwargs) -> tuple[Tensor, int, Tensor, Tensor]:
    named = dict(zip(("base", "dim", "index", "x"), args))
    named.update({"x" if k in ("source", "tensor") else k: v for k, v in kwargs.items()})
    return named["base"], named["dim"], named["index"], named["x"]


def _mark(x: Tensor) -> Mark:
    return mark_of(x) or Mark()


def _with_constant(func: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
    """One signal and one constant: relevance unchanged (summed up where the constant made the signal wider)."""
    x, constant = (a, b) if mark_of(a) is not None else (b, a)
    with torch.no_grad():
        y = func(*(v.detach() if isinstance(v, Tensor) else v for v in (a, b)))
    keeps = (
        _mark(x).non_negative and not isinstance(constant, Tensor) and constant >= 0 and func is not torch.sub
    )
    wide = x if y.shape == x.shape else x.expand(y.shape)
    return marked(PassRule.apply(wide, y), _mark(x)._replace(non_negative=keeps))


def _sum_reading(state: PassState, marks: list[Mark]) -> Callable[[Tensor], None] | None:
    """Moves the read point of a block's last layer to the whole sum.

    The last layer is the deepest operand; a shortcut's convolution is read at its own output.
    """
    deepest = max(mark.depth for mark in marks)
    last = {mark.layer: mark for mark in marks if mark.layer is not None and mark.depth == deepest}
    if not state.read_sum or not last:
        return None
    state.at_sum.update(last)

    def record(r: Tensor) -> None:
        for layer, mark in last.items():
            others = [d for d in range(1, r.ndim) if d != mark.dim]
            mean = r.mean(others) if others else r
            state.record(layer, mean if mark.placed is None else mean.index_select(1, mark.placed))

    return record
