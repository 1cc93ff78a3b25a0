"""Handler of functions without a rule of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gcp_core.errors import RelevanceError
from gcp_core.relevance.marks import Mark, carriers, floating_in, mark_of, marked, merged, supersede
from gcp_core.relevance.rules import ProportionalRule
from gcp_core.relevance.state import PassState


def describe(func: Callable[..., Any]) -> str:
    """The dotted name of a torch function."""
    return torch.overrides.resolve_name(func) or getattr(func, "__name__", repr(func))


def any_other(
    state: PassState, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Questions (shapes, comparisons) are answered; floating-point results get the proportional rule, each by itself.

    Indices beside a result (``torch.max`` over a dimension, ``topk``) stay as they are.

    Raises:
        RelevanceError: above a layer that is read, an in-place operation; the message names it.
    """
    name, sources = describe(func), carriers(args, kwargs)
    in_place = name.endswith("__setitem__") or (name.endswith("_") and not name.endswith("__"))
    if not any(t.requires_grad for t in sources):
        return _below(func, args, kwargs, in_place)
    if in_place:
        hint = "use its out-of-place form in the model"
        raise RelevanceError(f"there is no relevance rule for the in-place operation {name}", "model", hint)
    with torch.no_grad():
        y = func(*args, **kwargs)
    values = floating_in(y)
    made: dict[int, Tensor] = {}
    for place, value in enumerate(values):

        def call(xs: list[Tensor], place: int = place) -> Tensor:
            new = {id(old): x for old, x in zip(sources, xs)}
            named = {k: _swapped(v, new) for k, v in kwargs.items()}
            return floating_in(func(*_swapped(args, new), **named))[place]

        out = ProportionalRule.apply(value.detach(), call, name, state.stabiliser, *sources)
        made[id(value)] = marked(out, _mark(sources))
    if isinstance(y, Tensor) or not values:
        return _swapped(y, made)
    return type(y)([_swapped(part, made) for part in y])


def _mark(sources: list[Tensor]) -> Mark:
    """Of values made of these by an operation of which nothing is known."""
    mark = merged([m for t in sources if (m := mark_of(t)) is not None])
    return mark._replace(non_negative=False, gate=False)


def _below(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool) -> Any:
    """Below all layers that are read no rule is needed: plain numbers, still a signal."""
    mark = _mark(carriers(args, kwargs))
    with torch.no_grad():
        written = args[0].clone() if in_place else None  # a sum may still hold what is overwritten
        out = func(*args, **kwargs) if written is None else func(written, *args[1:], **kwargs)
    for tensor in floating_in((out, written)):
        marked(tensor, mark)
    if written is not None:
        supersede(args[0], written)
    return out


def _swapped(value: Any, new: dict[int, Tensor]) -> Any:
    """``value`` with tensors replaced by ``id``, in lists and tuples too."""
    if isinstance(value, Tensor):
        return new.get(id(value), value)
    return type(value)(_swapped(v, new) for v in value) if type(value) in (list, tuple) else value
