"""Functions without a rule of their own: torch's, and a model's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def pass_own_functions(logits: Tensor) -> None:
    """Relevance unchanged through a model's own autograd functions (an activation that saves memory, a quantiser).

    No operation is seen where they are called, and what they do on the way back is a derivative, no rule. The way back
    raises a :class:`RelevanceError` at one that is more than a function of one signal, element by element.
    """
    seen, waiting = set(), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        own = getattr(node, "_forward_cls", None)
        if own is not None and own.__module__ != ProportionalRule.__module__:
            node.register_hook(partial(_unchanged, own.__name__))
        waiting += [below for below, _ in node.next_functions]


def _unchanged(name: str, grads: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> Any:
    """What a function's inputs get instead of a derivative; numbers of its own (a learned bound) get nothing."""
    relevance, taken = ([t for t in side if t is not None] for side in (given, grads))
    if not relevance or not taken:
        return None
    signals = [g for g in taken if g.shape == relevance[0].shape]
    others = [g for g in taken if g.shape != relevance[0].shape and g.numel() > max(g.shape, default=1)]
    if len(relevance) > 1 or len(signals) != 1 or others:
        hint = "write it with torch's operations in evaluation mode"
        raise RelevanceError(f"there is no relevance rule for the autograd function {name}", "model", hint)
    return tuple(relevance[0] if g is signals[0] else None for g in grads)
