"""What the pass knows about a tensor on the way from the scored layers to the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

_ATTRIBUTE = "_relevance_mark"
_SUCCESSOR = "_relevance_successor"


@dataclass(frozen=True)
class Mark:
    """Attached to every tensor that carries relevance.

    Attributes:
        layer: the convolution or linear layer whose output channels these are, if they still are.
        dim: the dimension the channels lie in.
        index: where the layer's channels sit in that dimension (None = all, in order).
        depth: convolutions and linear layers on the longest way from the image.
        non_negative: known to hold no negative value.
        gate: values made to scale something else (a sigmoid's output).
    """

    layer: str | None = None
    dim: int = 1
    index: Tensor | None = None
    depth: int = 0
    non_negative: bool = False
    gate: bool = False


def mark_of(value: Any) -> Mark | None:
    """The mark of a tensor, None for anything that carries no relevance."""
    return getattr(value, _ATTRIBUTE, None) if isinstance(value, Tensor) else None


def marked(tensor: Tensor, mark: Mark) -> Tensor:
    """``tensor``, marked."""
    setattr(tensor, _ATTRIBUTE, mark)
    return tensor


def merged(marks: list[Mark]) -> Mark:
    """Of a tensor made of several: no single layer, the largest depth, non-negative if all are."""
    return Mark(
        depth=max(m.depth for m in marks),
        non_negative=all(m.non_negative for m in marks),
        gate=all(m.gate for m in marks),
    )


def supersede(old: Tensor, new: Tensor) -> Tensor:
    """Make later uses of ``old`` mean ``new``: an in-place operation without touching saved activations."""
    if old is not new:
        setattr(old, _SUCCESSOR, new)
    return new


def current(value: Any) -> Any:
    """``value`` with every superseded tensor in it (also in lists and tuples) replaced."""
    if isinstance(value, Tensor):
        while (new := getattr(value, _SUCCESSOR, None)) is not None:
            value = new
        return value
    if type(value) in (list, tuple):
        return type(value)(current(v) for v in value)
    return value


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors among arguments, lists and tuples included, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [t for v in values for t in tensors_in(v)]
    return []


def carriers(args: Any, kwargs: Any) -> list[Tensor]:
    """Those tensors among a call's arguments that carry relevance."""
    found = [t for t in tensors_in(args) if mark_of(t) is not None]
    return found + [t for t in tensors_in(kwargs) if mark_of(t) is not None] if kwargs else found
