"""What the pass knows about a tensor on the way from the image to the logits.

A mark says that a tensor takes its share of relevance; a graph (``requires_grad``), that a layer which is read lies
below it. So the rules do not depend on which layers are read, and nothing is computed that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

# Read through ``__dict__``: a miss on an attribute of a tensor costs more than the rest of the bookkeeping.
_MARK = "_relevance_mark"
_SUCCESSOR = "_relevance_successor"


class Mark(NamedTuple):
    """Attached to the image and every tensor made of it.

    Attributes:
        layer: the convolution or linear layer whose output channels these are, if they still are.
        dim: the dimension the channels lie in.
        placed: where the layer's channels sit in that dimension (None = all, in order).
        depth: convolutions and linear layers on the longest way from the image (0 = the image, or made of it alone).
        non_negative: known to hold no negative value.
        gate: values made to scale something else (a sigmoid's output).
    """

    layer: str | None = None
    dim: int = 1
    placed: Tensor | None = None
    depth: int = 0
    non_negative: bool = False
    gate: bool = False


def mark_of(value: Any) -> Mark | None:
    """The mark of a tensor, None for anything that carries no relevance."""
    return value.__dict__.get(_MARK) if isinstance(value, Tensor) else None


def is_image(value: Any) -> bool:
    """Whether no layer lies between the image and ``value``."""
    mark = mark_of(value)
    return mark is not None and mark.depth == 0


def marked(tensor: Tensor, mark: Mark) -> Tensor:
    """``tensor``, marked."""
    tensor.__dict__[_MARK] = mark
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
        old.__dict__[_SUCCESSOR] = new
    return new


def current(value: Any) -> Any:
    """``value`` with every superseded tensor in it (also in lists and tuples) replaced."""
    if isinstance(value, Tensor):
        while (new := value.__dict__.get(_SUCCESSOR)) is not None:
            value = new
        return value
    if type(value) in (list, tuple):
        return type(value)([current(v) for v in value])
    return value


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """All tensors among arguments, lists and tuples included, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):  # also the named tuples that torch returns
            found.extend(tensors_in(value))
    return found


def floating_in(value: Any) -> list[Tensor]:
    """The floating-point tensors in what an operation returns: those that can carry relevance."""
    return [t for t in tensors_in((value,)) if t.is_floating_point()]


def carriers(args: Iterable[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Those tensors among a call's arguments that carry relevance."""
    return [t for t in tensors_in((*args, *kwargs.values())) if _MARK in t.__dict__]
