"""What pooling, reductions, views and other changes of shape do to labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gcp_core.groups.counted import counted_in
from gcp_core.groups.labels import Label, compressed
from gcp_core.groups.size_ops import TAKES, follows, keeps_order, places, stays_as_wide
from gcp_core.groups.trace import Handler, Tracer, operation_name


class _Call(NamedTuple):
    """One operation on a labelled value, after it ran; ``shape`` is the value's before."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    label: Label
    shape: torch.Size
    out: Any

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name; ``dim`` may be called ``axis``, as in NumPy."""
        if name == "dim":
            default = self.kwargs.get("axis", default)
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
            read = keeps_order(operation_name(func), args, out) if isinstance(x, Tensor) else None
            if isinstance(x, Tensor) and read is not None:
                tracer.derive(out, x, sizes=read)
            if not tracer.sources(out):
                tracer.freeze_counted([args[1:], kwargs], TAKES.format(operation_name(func)))
            return out
        shape = x.shape
        call = _Call(func, args, kwargs, label, shape, func(*args, **kwargs))
        tracer.note_use(label)
        return rule(tracer, call)

    return handler


def _lost(tracer: Tracer, call: _Call, reason: str) -> Any:
    """Freeze what the operation read; its result carries no label."""
    tracer.consume(call.label)
    tracer.freeze(call.label, reason)
    return tracer.attach(call.out, None) if isinstance(call.out, Tensor) else call.out


@_labelled
def _spatial(tracer: Tracer, call: _Call) -> Any:
    """Pools and resampling work inside each channel, as long as dimension 1 is the only one with labels."""
    name = operation_name(call.func)
    tracer.freeze_counted([call.args[1:], call.kwargs], TAKES.format(name))
    # A pool over one dimension takes (N, C) for channels of one image, and pools over them.
    pooled = int(name[-2]) if name.endswith("d") else 1
    over = any(dim > 1 for dim in call.label.varying()) or len(call.shape) < pooled + 2
    if over or not isinstance(call.out, Tensor):
        return _lost(
            tracer, call, f"{call.func.__name__} over a dimension that holds channels, or with indices"
        )
    return tracer.attach(call.out, replace(call.label, norm=None))


@_labelled
def _reduce(tracer: Tracer, call: _Call) -> Any:
    """mean, sum or amax over dimensions that hold no channels."""
    rank = len(call.shape)
    given = call.argument(1, "dim")
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
    _tie_bounds(tracer, call)
    if fewer or _numbered(tracer, call) & set(label.varying()):
        tracer.consume(label)
        tracer.freeze(label, f"{operation_name(call.func)} picks channels at fixed positions")
    return out


def _parts(call: _Call) -> list[tuple[int, Any]]:
    """What the operation takes of each dimension; ``narrow`` is a slice."""
    name, rank = operation_name(call.func), len(call.shape)
    if name == "getitem":
        return _indexed(call.args[1], rank)
    if name == "narrow":
        start = call.argument(2, "start")
        return [(call.argument(1, "dim") % rank, slice(start, start + call.argument(3, "length")))]
    return [(0, [call.args[1:], call.kwargs])]


def _tie_bounds(tracer: Tracer, call: _Call) -> None:
    """Channels that a bound counts go with those up to it, or they stay."""
    name, label = operation_name(call.func), call.label
    for dim, part in _parts(call):
        first = isinstance(part, slice) and part.start in (None, 0) and part.step in (None, 1)
        counted = counted_in(part.stop) if first and not counted_in([part.start, part.step]) else []
        if counted and part.stop >= 0 and dim in label.varying():
            stays_as_wide(tracer, places(label.ids, dim)[: part.stop], part.stop, name)
        else:
            tracer.freeze_counted(part, TAKES.format(name))


def _numbered(tracer: Tracer, call: _Call) -> set[int]:
    """Dimensions whose elements the operation names by number: after a cut these would be others."""
    rank, name = len(call.shape), operation_name(call.func)
    if name in ("getitem", "narrow"):
        return {dim for dim, part in _parts(call) if _at_number(tracer, call, dim, part)}
    if name == "index_select":
        return {call.argument(1, "dim") % rank}
    if name == "roll":
        dims = call.argument(2, "dims", ())
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        return {dim % rank for dim in dims} or set(range(rank))
    return set()


def _at_number(tracer: Tracer, call: _Call, dim: int, part: Any) -> bool:
    """Whether a part of an index is a tensor or a list, or a slice whose bounds stand elsewhere after a cut."""
    if not isinstance(part, slice) or dim not in call.label.varying():
        return isinstance(part, (Tensor, list, np.ndarray))
    own = places(call.label.ids, dim)
    for bound in (bound for bound in (part.start, part.stop) if bound is not None):
        number = bound if isinstance(bound, int) else int(bound)
        # A slice may end behind the last channel, narrow may not.
        inside = abs(number) < len(own) or operation_name(call.func) == "narrow"
        if inside and not follows(tracer, own[:number] if number >= 0 else own[number:], max(number, 0)):
            return True
    return False


def _indexed(index: Any, rank: int) -> list[tuple[int, Any]]:
    """(dimension, part of the index) for each dimension that a part stands for."""
    parts = index if isinstance(index, tuple) else (index,)
    taken = [_dims_taken(part) for part in parts]
    found: list[tuple[int, Any]] = []
    dim = 0
    for place, part in enumerate(parts):
        if part is Ellipsis:
            dim = rank - sum(taken[place + 1 :])
        found += [(d, part) for d in range(dim, dim + taken[place])]
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
        if d not in varying:
            tracer.freeze_counted(size, TAKES.format("view"))
    if len(free) == 1:
        # Rows of fixed number, columns that may shrink: a column goes in every row at once (channel shuffle).
        row = new.ids
        for dim in fixed:
            first = new.ids.narrow(dim, 0, 1).expand_as(new.ids)
            tracer.atoms.merge(
                first.numpy(), new.ids.numpy(), "it is viewed beside channels that are never removed"
            )
            row = row.narrow(dim, 0, 1)
        if stays_as_wide(tracer, places(row, free[0]), sizes[free[0]], "view"):
            return new
    elif not varying:
        return new
    tracer.consume(new)
    fixed_sizes = " x ".join(str(int(sizes[d])) for d in fixed) or "several sizes"
    tracer.freeze(new, f"it is reshaped to the fixed size {fixed_sizes}")
    tracer.freeze_counted([sizes[d] for d in free], TAKES.format("view"))
    return new


@_labelled
def _chunk(tracer: Tracer, call: _Call) -> Any:
    """Equal parts along the channels stay equal if the same position goes in each of them."""
    out, label, name = call.out, call.label, operation_name(call.func)
    given = call.args[1] if len(call.args) > 1 else _number_of_parts(call.kwargs)
    dim = call.argument(2, "dim", 0) % len(call.shape)
    parts = call.on_labels()
    for tensor, ids in zip(out, parts, strict=True):
        tracer.attach(tensor, label.with_ids(ids))
    if isinstance(given, (tuple, list)) and len(given) == 1 and counted_in(given):
        given = given[0]
    sized = name == "split" and isinstance(given, int) and bool(counted_in(given))
    if name == "chunk" or dim not in label.varying():
        tracer.freeze_counted(given, TAKES.format(name))
    if dim not in label.varying() or (len(out) == 1 and isinstance(given, int) and not sized):
        return out
    if (sized or name == "chunk") and len({tuple(p.shape) for p in parts}) == 1:
        for part in parts[1:]:
            first, other = torch.broadcast_tensors(compressed(parts[0]), compressed(part))
            reason = "its other half holds channels that are never removed"
            tracer.atoms.merge(first.numpy(), other.numpy(), reason)
        if not sized or stays_as_wide(tracer, places(compressed(parts[0]), dim), given, name):
            return out
    tracer.freeze_counted(given, TAKES.format(name))
    return _lost(tracer, call, f"{name} cuts its channels at fixed positions")


def _number_of_parts(kwargs: dict[str, Any]) -> Any:
    """``chunks``, ``split_size`` or ``split_size_or_sections``."""
    return next(value for name, value in kwargs.items() if name not in ("input", "dim", "axis"))


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
    kept = [stays_as_wide(tracer, places(new.ids, d), sizes[d], "expand") for d in varying]
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
    "pad": _pad,
}
