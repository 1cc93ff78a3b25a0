"""What pooling, reductions, views and other changes of shape do to labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gcp_core.groups.labels import Dynamic, Label, compressed, counted_in
from gcp_core.groups.trace import Handler, Tracer, operation_name

_TAKES = "{} takes their number as a size of something else"


class _Call(NamedTuple):
    """One operation on a labelled value, after it ran; ``shape`` is the value's before."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    label: Label
    shape: torch.Size
    out: Any

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def sizes(self) -> tuple[Any, ...]:
        """The sizes that view or expand is given: one by one, or as one tuple or list."""
        sizes = self.args[1:] if len(self.args) > 1 else tuple(self.kwargs.values())[-1:]
        return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes

    def on_labels(self) -> Any:
        """The same operation on the label's ids at full size (they live on the CPU)."""
        rest = {name: _on_cpu(value) for name, value in self.kwargs.items() if name not in ("input", "self")}
        return self.func(self.label.ids.expand(self.shape), *(_on_cpu(v) for v in self.args[1:]), **rest)


def _on_cpu(value: Any) -> Any:
    """Index tensors inside an argument, moved to where the labels are."""
    if isinstance(value, Tensor):
        return value.cpu()
    if type(value) in (tuple, list):
        return type(value)(_on_cpu(item) for item in value)
    return value


def _labelled(rule: Callable[[Tracer, _Call], Any]) -> Handler:
    """A handler that runs the operation and, if its first argument has a label, lets ``rule`` label the result."""

    def handler(
        tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        x = args[0] if args else kwargs.get("input")
        label = tracer.label(x)
        if x is None or label is None:
            out = func(*args, **kwargs)
            if isinstance(x, Tensor) and _keeps_order(operation_name(func), args, out):
                tracer.derive(out, x)
            if not tracer.sources(out):
                tracer.freeze_counted([args[1:], kwargs], _TAKES.format(operation_name(func)))
            return out
        shape = x.shape
        call = _Call(func, args, kwargs, label, shape, func(*args, **kwargs))
        tracer.note_use(label)
        return rule(tracer, call)

    return handler


def _keeps_order(operation: str, args: tuple[Any, ...], out: Any) -> bool:
    """Whether a vector among sizes of 1 is the same one afterwards, and would be if it were shorter."""
    if operation in ("view", "reshape"):
        sizes = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        long = [d for d, size in enumerate(out.shape) if size != 1]
        return len(sizes) == out.dim() and all(_follows(sizes[d]) for d in long)
    if operation == "getitem":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return all(
            part is None or part is Ellipsis or (isinstance(part, slice) and part == slice(None))
            for part in index
        )
    return operation in ("unsqueeze", "squeeze", "flatten", "permute", "transpose", "swapaxes", "movedim")


def _follows(size: Any) -> bool:
    return isinstance(size, Dynamic) or (isinstance(size, int) and size == -1)


def _counts(tracer: Tracer, label: Label, size: Any) -> bool:
    """Whether ``size`` counts channels of ``label``, and no others: it follows when they go."""
    counted = [other.atoms() for other in counted_in(size)]
    if not isinstance(size, Dynamic) or not counted:
        return False
    return tracer.atoms.classes(np.concatenate(counted)) == tracer.atoms.classes(label.atoms())


def _stays_as_wide(tracer: Tracer, label: Label, own: np.ndarray | None, size: Any, name: str) -> bool:
    """Whether ``size`` will fit a dimension with the atoms ``own`` (a vector) after any cut; None = more than a vector.

    It does if it counts the channels of ``label`` themselves. Where it counts as many channels of another activation, the
    two are tied one by one; where that cannot be, what it counts is never removed.
    """
    if isinstance(size, int) and int(size) == -1:
        return True
    if _counts(tracer, label, size):
        return True
    counted = counted_in(size)
    if own is not None and isinstance(size, Dynamic) and len(counted) == 1:
        other = counted[0].atoms()
        if len(other) == len(own) == int(size):
            reason = f"{name} gives it as many channels as some that are never removed"
            tracer.atoms.merge(other, own, reason)
            return True
    tracer.freeze_counted(size, _TAKES.format(name))
    return False


def _lost(tracer: Tracer, call: _Call, reason: str) -> Any:
    """Freeze what the operation read; its result carries no label."""
    tracer.consume(call.label)
    tracer.freeze(call.label, reason)
    return tracer.attach(call.out, None) if isinstance(call.out, Tensor) else call.out


def _size(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``x.shape`` and ``x.size()`` of a labelled value give sizes that are known to follow it."""
    out = func(*args, **kwargs)
    label = tracer.label(args[0] if args else kwargs.get("input"))
    if label is None:
        return out
    rank, varying = label.ids.dim(), label.varying()

    def followed(size: int, dim: int) -> Dynamic:
        return Dynamic(size, (label,) if dim % rank in varying else ())

    if isinstance(out, int):
        return followed(out, args[1] if len(args) > 1 else kwargs["dim"])
    return torch.Size([followed(size, dim) for dim, size in enumerate(out)])


def _length(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``len(x)``: a plain number, which nobody can follow where it counts channels."""
    label = tracer.label(args[0])
    if label is not None and 0 in label.varying():
        tracer.consume(label)
        tracer.freeze(label, "len counts them")
    return func(*args, **kwargs)


@_labelled
def _spatial(tracer: Tracer, call: _Call) -> Any:
    """Pools and resampling work inside each channel, as long as dimension 1 is the only one with labels."""
    if any(dim > 1 for dim in call.label.varying()) or not isinstance(call.out, Tensor):
        return _lost(
            tracer, call, f"{call.func.__name__} over a dimension that holds channels, or with indices"
        )
    return tracer.attach(call.out, replace(call.label, norm=None))


@_labelled
def _reduce(tracer: Tracer, call: _Call) -> Any:
    """mean, sum or amax over dimensions that hold no channels."""
    rank = len(call.shape)
    given = call.argument(1, "dim", call.kwargs.get("axis"))
    if given is None or isinstance(given, torch.dtype):
        dims = set(range(rank))
    else:
        dims = {d % rank for d in (given if isinstance(given, (tuple, list)) else (given,))}
    if dims & set(call.label.varying()):
        return _lost(tracer, call, f"{call.func.__name__} over the channels")
    ids = call.label.ids
    if call.out.dim() != rank:
        ids = ids.reshape([size for d, size in enumerate(ids.shape) if d not in dims])
    return tracer.attach(call.out, call.label.with_ids(ids))


@_labelled
def _move(tracer: Tracer, call: _Call) -> Any:
    """permute, flatten, squeeze, chunked selections: the operation itself, done to the labels."""
    out, label = call.out, call.label
    moved = call.on_labels()
    results = list(zip(out, moved, strict=True)) if isinstance(out, (tuple, list)) else [(out, moved)]
    before = np.unique(label.atoms())
    for tensor, ids in results:
        tracer.attach(tensor, label.with_ids(ids))
    fewer = any(len(np.unique(compressed(ids).numpy())) < len(before) for _, ids in results)
    if fewer or _numbered(tracer, call) & set(label.varying()):
        tracer.consume(label)
        tracer.freeze(label, f"{operation_name(call.func)} picks channels at fixed positions")
    return out


def _numbered(tracer: Tracer, call: _Call) -> set[int]:
    """Dimensions whose elements the operation names by number: after a cut these would be others."""
    rank, name = len(call.shape), operation_name(call.func)
    if name == "getitem":
        return _indexed(call.args[1], rank)
    if name == "index_select":
        return {call.argument(1, "dim") % rank}
    if name == "narrow":
        dim = call.argument(1, "dim") % rank
        whole = call.out.shape[dim] == call.shape[dim]
        return set() if whole and _counts(tracer, call.label, call.argument(3, "length")) else {dim}
    if name == "roll":
        dims = call.argument(2, "dims", ())
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        return {dim % rank for dim in dims} or set(range(rank))
    return set()


def _indexed(index: Any, rank: int) -> set[int]:
    """Dimensions that an index has a tensor or a list for."""
    parts = index if isinstance(index, tuple) else (index,)
    taken = [_dims_taken(part) for part in parts]
    found: set[int] = set()
    dim = 0
    for place, part in enumerate(parts):
        if part is Ellipsis:
            dim = rank - sum(taken[place + 1 :])
        elif isinstance(part, (Tensor, list, np.ndarray)):
            found |= set(range(dim, dim + taken[place]))
        dim += taken[place]
    return found


def _dims_taken(part: Any) -> int:
    """How many dimensions one part of an index stands for."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.ndim if isinstance(part, (Tensor, np.ndarray)) and str(part.dtype).endswith("bool") else 1


@_labelled
def _view(tracer: Tracer, call: _Call) -> Any:
    """view and reshape: a size that is written as a literal must not change, one read from a shape may."""
    sizes = call.sizes()
    if any(isinstance(size, torch.dtype) for size in sizes):
        return _lost(tracer, call, "its bytes are viewed as another type")
    ids = call.label.ids.expand(call.shape).reshape(call.out.shape)
    return tracer.attach(call.out, _viewed(tracer, call.label, ids, sizes))


def _viewed(tracer: Tracer, label: Label, ids: Tensor, sizes: tuple[Any, ...]) -> Label:
    new = label.with_ids(ids)
    varying = new.varying()
    fixed = [d for d in varying if not counted_in(sizes[d]) and int(sizes[d]) != -1]
    free = [d for d in varying if d not in fixed]
    for d, size in enumerate(sizes):
        if d not in varying and not _counts(tracer, label, size):
            tracer.freeze_counted(size, _TAKES.format("view"))
    if len(free) == 1:
        # Rows of fixed number, columns that may shrink: a column goes in every row at once (channel shuffle).
        row = new.ids
        for dim in fixed:
            first = new.ids.narrow(dim, 0, 1).expand_as(new.ids)
            tracer.atoms.merge(
                first.numpy(), new.ids.numpy(), "it is viewed beside channels that are never removed"
            )
            row = row.narrow(dim, 0, 1)
        if _stays_as_wide(tracer, label, row.reshape(-1).numpy(), sizes[free[0]], "view"):
            return new
    elif not varying:
        return new
    tracer.consume(new)
    for d in free:
        _stays_as_wide(tracer, label, None, sizes[d], "view")
    fixed_sizes = " x ".join(str(int(sizes[d])) for d in fixed) or "several sizes"
    tracer.freeze(new, f"it is reshaped to the fixed size {fixed_sizes}")
    return new


@_labelled
def _chunk(tracer: Tracer, call: _Call) -> Any:
    """Equal parts along the channels stay equal if the same position goes in each of them."""
    out, label = call.out, call.label
    given = call.args[1] if len(call.args) > 1 else _number_of_parts(call.kwargs)
    dim = call.argument(2, "dim", 0) % len(call.shape)
    parts = call.on_labels()
    for tensor, ids in zip(out, parts, strict=True):
        tracer.attach(tensor, label.with_ids(ids))
    if dim not in label.varying() or len(out) == 1:
        return out
    equal = len({tuple(p.shape) for p in parts}) == 1
    follows = call.func.__name__ == "chunk" or (equal and _part_follows(tracer, label, parts[0], given))
    if not follows or not equal:
        tracer.freeze_counted(given, _TAKES.format(call.func.__name__))
        return _lost(tracer, call, f"{call.func.__name__} cuts its channels at fixed positions")
    for part in parts[1:]:
        first, other = torch.broadcast_tensors(compressed(parts[0]), compressed(part))
        tracer.atoms.merge(
            first.numpy(), other.numpy(), "its other half holds channels that are never removed"
        )
    return out


def _part_follows(tracer: Tracer, label: Label, part: Tensor, size: Any) -> bool:
    """Whether the size of a part shrinks as the parts do."""
    own = compressed(part)
    vector = own.reshape(-1).numpy() if own.numel() == max(own.shape) else None
    return isinstance(size, Dynamic) and _stays_as_wide(tracer, label, vector, size, "split")


def _number_of_parts(kwargs: dict[str, Any]) -> Any:
    """``chunks``, ``split_size`` or ``split_size_or_sections``."""
    return next(value for name, value in kwargs.items() if name not in ("input", "dim"))


@_labelled
def _pad(tracer: Tracer, call: _Call) -> Any:
    """Padding inside channels keeps labels; zero channels padded on are never removed."""
    label, rank = call.label, len(call.shape)
    pad = list(call.argument(1, "pad"))
    touched = {rank - 1 - i // 2 for i, amount in enumerate(pad) if amount}
    if counted_in(pad):
        tracer.freeze_counted(pad, "pad fills up what is left beside them")
        return _lost(tracer, call, "pad fills up what is left beside channels")
    if not touched & set(label.varying()):
        zero = label.zero and (
            call.argument(2, "mode", "constant") != "constant" or not call.argument(3, "value")
        )
        return tracer.attach(call.out, replace(label, zero=zero, norm=None))
    keep = [0 if rank - 1 - i // 2 not in label.varying() else amount for i, amount in enumerate(pad)]
    if any(amount < 0 for amount in keep):
        return _lost(tracer, call, "pad cuts its channels at fixed positions")
    return tracer.attach(call.out, label.with_ids(F.pad(label.ids, keep)))


def _expand(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """expand and expand_as; what has no channels and is made as wide as some would not follow them."""
    if args and tracer.label(args[0]) is None:
        reason = f"{operation_name(func)} makes a tensor with their number"
        tracer.freeze_counted([args[1:], kwargs], reason)
        like: Any = args[1] if len(args) > 1 else kwargs.get("other")
        label = tracer.label(like)
        if label is not None and any(_size_at(args[0], d - like.dim()) == 1 for d in label.varying()):
            tracer.freeze(label, reason)
    return _expanded(tracer, func, args, kwargs)


def _size_at(x: Tensor, dim: int) -> int:
    """Size along a dimension that is counted from the end; 1 where there is none."""
    return x.shape[dim] if -dim <= x.dim() else 1


@_labelled
def _expanded(tracer: Tracer, call: _Call) -> Any:
    """Unless one channel becomes several."""
    out, label = call.out, call.label
    if out.dim() < 2 or (label.varying() == [] and out.shape[1:2] != call.shape[1:2]):
        return _lost(tracer, call, "its one channel is broadcast over several")
    new_dims = [1] * (out.dim() - len(call.shape))
    new = label.with_ids(label.ids.reshape(new_dims + list(label.ids.shape)))
    if not _fits(tracer, call, new):
        tracer.consume(new)
        tracer.freeze(new, f"{operation_name(call.func)} makes it as wide as something else")
    return tracer.attach(out, new)


def _fits(tracer: Tracer, call: _Call, new: Label) -> bool:
    """Whether what is expanded to stays as wide as the channels of ``new``, whichever go."""
    varying = new.varying()
    if operation_name(call.func) == "expand_as":
        like = tracer.label(call.argument(1, "other"))
        if like is None or any(like.ids.shape[d] == 1 for d in varying):
            return not varying
        left, right = torch.broadcast_tensors(new.ids, like.ids)
        reason = "it is expanded beside channels that are never removed"
        tracer.atoms.merge(left.numpy(), right.numpy(), reason)
        return True
    sizes = call.sizes()
    own = new.atoms() if len(varying) == 1 else None
    kept = [_stays_as_wide(tracer, call.label, own, sizes[d], "expand") for d in varying]
    return all(kept)


_POOLS = [
    f"{kind}{n}d" for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "lp_pool") for n in (1, 2, 3)
]
_POOLS += [f"adaptive_max_pool{n}d" for n in (1, 2, 3)]

SHAPE_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys((*_POOLS, "interpolate", "upsample"), _spatial),
    **dict.fromkeys(("mean", "sum", "amax"), _reduce),
    **dict.fromkeys(
        ("permute", "transpose", "swapaxes", "movedim", "flatten", "squeeze", "unsqueeze"), _move
    ),
    **dict.fromkeys(("getitem", "narrow", "select", "unbind", "index_select", "roll", "flip"), _move),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("chunk", "split"), _chunk),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("size", "get:shape"), _size),
    "__len__": _length,
    "pad": _pad,
}
