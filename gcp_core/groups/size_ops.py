"""Sizes that are read from activations, and whether what they are given to stays as wide as they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcp_core.groups.counted import Counted, counted_in, fall
from gcp_core.groups.labels import Label
from gcp_core.groups.trace import Handler, Tracer

#: Why channels stay whose number is given to an operation that something else does not follow.
TAKES = "{} takes their number as a size of something else"


def places(ids: Tensor, dim: int) -> np.ndarray:
    """Atoms at each index of a dimension, ``(size, atoms per index)``."""
    return ids.movedim(dim, 0).reshape(ids.shape[dim], -1).numpy()


def follows(tracer: Tracer, own: np.ndarray, size: Any) -> bool:
    """Whether ``size`` falls by as much as a dimension with the atoms ``own`` (see :func:`places`), whatever goes."""
    atoms = np.concatenate([own.ravel(), *(label.atoms() for label in counted_in(size))])
    living = sorted(c for c in tracer.atoms.classes(atoms) if c and tracer.atoms.reason(c) is None)
    falls = fall(size, lambda label, dim: _gone(tracer, places(label.ids, dim), living))
    return falls is not None and bool((_gone(tracer, own, living) == falls).all())


def _gone(tracer: Tracer, own: np.ndarray, classes: list[int]) -> np.ndarray:
    """How many indices go with each class: those whose atoms all belong to it."""
    atoms, inverse = np.unique(own, return_inverse=True)
    roots = np.array([tracer.atoms.find(atom) for atom in atoms.tolist()], dtype=np.int64)
    rows = roots[inverse.reshape(own.shape)]
    whole = rows[(rows == rows[:, :1]).all(axis=1), 0]
    return np.array([np.count_nonzero(whole == root) for root in classes], dtype=np.int64)


def stays_as_wide(tracer: Tracer, own: np.ndarray, size: Any, name: str) -> bool:
    """Whether ``size`` will fit a dimension with the atoms ``own`` (see :func:`places`) after any cut.

    It does if it falls with them. Where it counts as many channels of another activation, the two are tied one by one;
    where that cannot be, what it counts is never removed.
    """
    if isinstance(size, int) and size == -1:
        return True
    if follows(tracer, own, size):
        return True
    counted = counted_in(size)
    if own.shape[1] == 1 and len(counted) == 1 and len(counted[0].varying()) == 1:
        other, each = counted[0].atoms(), fall(size, lambda label, dim: np.ones(1, dtype=np.int64))
        if len(other) == len(own) == size and each is not None and bool((each == 1).all()):
            reason = f"{name} gives it as many channels as some that are never removed"
            tracer.atoms.merge(other, own.ravel(), reason)
            return True
    tracer.freeze_counted(size, TAKES.format(name))
    return False


def keeps_order(operation: str, args: tuple[Any, ...], out: Any) -> list[Counted] | None:
    """Whether a vector among sizes of 1 is the same one afterwards, and would be if it were shorter.

    Returns:
        The sizes that would have to be shorter too; None if it is another vector.
    """
    if operation in ("view", "reshape"):
        sizes = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        if len(sizes) != out.dim():
            return None
        long = [sizes[d] for d, size in enumerate(out.shape) if size != 1]
        read = [size for size in long if isinstance(size, Counted)]
        return read if all(isinstance(size, Counted) or size == -1 for size in long) else None
    if operation == "getitem":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        kept = all(
            part is None or part is Ellipsis or (isinstance(part, slice) and part == slice(None))
            for part in index
        )
        return [] if kept else None
    same = ("unsqueeze", "squeeze", "flatten", "permute", "transpose", "swapaxes", "movedim")
    return [] if operation in same else None


def _size(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``x.shape`` and ``x.size()`` of a labelled value give sizes that are known to follow it."""
    out = func(*args, **kwargs)
    label = tracer.label(args[0] if args else kwargs.get("input"))
    if label is None:
        return out
    if isinstance(out, int):
        return _followed(label, out, args[1] if len(args) > 1 else kwargs["dim"])
    return torch.Size([_followed(label, size, dim) for dim, size in enumerate(out)])


def _followed(label: Label, size: int, dim: int) -> Counted:
    dim %= label.ids.dim()
    return Counted(size, (label,) if dim in label.varying() else (), dim)


def _numel(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The number of values is the product of the sizes."""
    out = func(*args, **kwargs)
    tensor: Tensor = args[0] if args else kwargs["input"]
    label = tracer.label(tensor)
    if label is None:
        return out
    sizes: list[int] = [_followed(label, size, dim) for dim, size in enumerate(tensor.shape)]
    return math.prod(sizes)


def _length(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``len(x)``: a plain number, which nobody can follow where it counts channels."""
    label = tracer.label(args[0])
    if label is not None and 0 in label.varying():
        tracer.consume(label)
        tracer.freeze(label, "len counts them")
    return func(*args, **kwargs)


SIZE_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("size", "get:shape"), _size),
    **dict.fromkeys(("numel", "nelement"), _numel),
    "__len__": _length,
}
