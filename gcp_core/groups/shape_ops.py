"""What pooling, reductions, views and other changes of shape do to labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gcp_core.groups.labels import Dynamic, Label, compressed
from gcp_core.groups.trace import Handler, Tracer

_Func = Callable[..., Any]
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


def _apply(func: _Func, ids: Tensor, args: _Args, kwargs: _Kwargs) -> Any:
    """The same shape operation on the label ids (which live on the CPU)."""
    rest = {name: _on_cpu(value) for name, value in kwargs.items() if name not in ("input", "self")}
    return func(ids, *(_on_cpu(value) for value in args[1:]), **rest)


def _on_cpu(value: Any) -> Any:
    """Index tensors inside an argument, moved to where the labels are."""
    if isinstance(value, Tensor):
        return value.cpu()
    if type(value) in (tuple, list):
        return type(value)(_on_cpu(item) for item in value)
    return value


def _first(args: _Args, kwargs: _Kwargs) -> Any:
    return args[0] if args else kwargs.get("input")


def _size(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """``x.shape`` and ``x.size()`` of a labelled value give sizes that are known to follow it."""
    out = func(*args, **kwargs)
    if tracer.label(_first(args, kwargs)) is None:
        return out
    return Dynamic(out) if isinstance(out, int) else torch.Size([Dynamic(size) for size in out])


def _spatial(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """Pools and resampling work inside each channel, as long as dimension 1 is the only one with labels."""
    x = _first(args, kwargs)
    label = tracer.label(x)
    out = func(*args, **kwargs)
    if label is None:
        return out
    tracer.note_use(label)
    if any(dim > 1 for dim in label.varying()) or not isinstance(out, Tensor):
        tracer.consume(label)
        tracer.freeze(label, f"{func.__name__} over a dimension that holds channels, or with indices")
        return out
    return tracer.attach(out, replace(label, norm=None))


def _reduce(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """mean, sum or amax over dimensions that hold no channels."""
    x = _first(args, kwargs)
    label = tracer.label(x)
    out = func(*args, **kwargs)
    if label is None or not isinstance(out, Tensor):
        return out
    given = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    if given is None or isinstance(given, torch.dtype):
        dims = set(range(x.dim()))
    else:
        dims = {d % x.dim() for d in (given if isinstance(given, (tuple, list)) else (given,))}
    if dims & set(label.varying()):
        tracer.consume(label)
        tracer.freeze(label, f"{func.__name__} over the channels")
        return tracer.attach(out, None)
    tracer.note_use(label)
    ids = label.ids
    if out.dim() != x.dim():
        ids = ids.reshape([size for d, size in enumerate(ids.shape) if d not in dims])
    return tracer.attach(out, label.with_ids(ids))


def _move(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """permute, flatten, squeeze, chunked selections: the operation itself, done to the labels."""
    x = _first(args, kwargs)
    label = tracer.label(x)
    shape = x.shape
    out = func(*args, **kwargs)
    if label is None:
        return out
    tracer.note_use(label)
    moved = _apply(func, label.ids.expand(shape), args, kwargs)
    results = list(zip(out, moved, strict=True)) if isinstance(out, (tuple, list)) else [(out, moved)]
    before = np.unique(label.atoms())
    for tensor, ids in results:
        tracer.attach(tensor, label.with_ids(ids))
    if any(len(np.unique(compressed(ids).numpy())) < len(before) for _, ids in results):
        tracer.consume(label)
        tracer.freeze(label, f"{func.__name__} picks channels at fixed positions")
    return out


def _view(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """view and reshape: a size that is written as a literal must not change, one read from a shape may."""
    x = _first(args, kwargs)
    label = tracer.label(x)
    shape = x.shape
    out = func(*args, **kwargs)
    if label is None:
        return out
    tracer.note_use(label)
    sizes = args[1:] if len(args) > 1 else tuple(kwargs.values())[-1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    if any(isinstance(size, torch.dtype) for size in sizes):
        tracer.consume(label)
        tracer.freeze(label, "its bytes are viewed as another type")
        return tracer.attach(out, None)
    return tracer.attach(out, _viewed(tracer, label, label.ids.expand(shape).reshape(out.shape), sizes))


def _viewed(tracer: Tracer, label: Label, ids: Tensor, sizes: _Args) -> Label:
    new = label.with_ids(ids)
    fixed = [d for d in new.varying() if not isinstance(sizes[d], Dynamic) and int(sizes[d]) != -1]
    free = [d for d in new.varying() if d not in fixed]
    if not fixed and len(free) <= 1:
        return new
    if len(free) == 1:
        # Rows of fixed number, columns that may shrink: a column goes in every row at once (channel shuffle).
        for dim in fixed:
            first = new.ids.narrow(dim, 0, 1).expand_as(new.ids)
            tracer.atoms.merge(
                first.numpy(), new.ids.numpy(), "it is viewed beside channels that are never removed"
            )
        return new
    tracer.consume(new)
    fixed_sizes = " x ".join(str(int(sizes[d])) for d in fixed) or "several sizes"
    tracer.freeze(new, f"it is reshaped to the fixed size {fixed_sizes}")
    return new


def _chunk(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """Equal parts along the channels stay equal if the same position goes in each of them."""
    x = _first(args, kwargs)
    label = tracer.label(x)
    shape = x.shape
    out = func(*args, **kwargs)
    if label is None:
        return out
    tracer.note_use(label)
    given = args[1] if len(args) > 1 else next(v for k, v in kwargs.items() if k not in ("input", "dim"))
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(shape)
    parts = _apply(func, label.ids.expand(shape), args, kwargs)
    for tensor, ids in zip(out, parts, strict=True):
        tracer.attach(tensor, label.with_ids(ids))
    if dim not in label.varying() or len(out) == 1:
        return out
    follows = func.__name__ == "chunk" or isinstance(given, Dynamic)
    if not follows or len({tuple(p.shape) for p in parts}) > 1:
        tracer.consume(label)
        tracer.freeze(label, f"{func.__name__} cuts its channels at fixed positions")
        return out
    for part in parts[1:]:
        first, other = torch.broadcast_tensors(compressed(parts[0]), compressed(part))
        tracer.atoms.merge(
            first.numpy(), other.numpy(), "its other half holds channels that are never removed"
        )
    return out


def _pad(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """Padding inside channels keeps labels; zero channels padded on are never removed."""
    x = _first(args, kwargs)
    label = tracer.label(x)
    shape = x.shape
    out = func(*args, **kwargs)
    if label is None:
        return out
    tracer.note_use(label)
    pad = list(args[1] if len(args) > 1 else kwargs["pad"])
    touched = {len(shape) - 1 - i // 2 for i, amount in enumerate(pad) if amount}
    if not touched & set(label.varying()):
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        value = args[3] if len(args) > 3 else kwargs.get("value")
        zero = label.zero and (mode != "constant" or not value)
        return tracer.attach(out, replace(label, zero=zero, norm=None))
    keep = [0 if len(shape) - 1 - i // 2 not in label.varying() else amount for i, amount in enumerate(pad)]
    if any(amount < 0 for amount in keep):
        tracer.consume(label)
        tracer.freeze(label, "pad cuts its channels at fixed positions")
        return tracer.attach(out, None)
    return tracer.attach(out, label.with_ids(F.pad(label.ids, keep)))


def _expand(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    x = _first(args, kwargs)
    label = tracer.label(x)
    rank = x.dim()
    out = func(*args, **kwargs)
    if label is None:
        return out
    tracer.note_use(label)
    if out.dim() < 2 or (label.varying() == [] and out.shape[1:2] != x.shape[1:2]):
        tracer.consume(label)
        tracer.freeze(label, "its one channel is broadcast over several")
        return tracer.attach(out, None)
    return tracer.attach(
        out, label.with_ids(label.ids.reshape([1] * (out.dim() - rank) + list(label.ids.shape)))
    )


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
    "pad": _pad,
}
