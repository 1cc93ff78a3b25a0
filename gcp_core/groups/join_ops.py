"""What elementwise functions, sums, products and concatenations do to labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcp_core.groups.labels import Label, compressed
from gcp_core.groups.size_ops import places, stays_as_wide
from gcp_core.groups.trace import Handler, Tracer, operation_name, tensors_in

_Func = Callable[..., Any]
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]

#: f(0) = 0: a gated channel stays zero.
_ZERO_STAYS = (
    *(
        "relu",
        "relu6",
        "leaky_relu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "hardswish",
        "mish",
    ),
    *(
        "tanh",
        "tanhshrink",
        "softshrink",
        "hardshrink",
        "softsign",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
    ),
    *(
        "feature_dropout",
        "contiguous",
        "clone",
        "detach",
        "to",
        "float",
        "double",
        "type_as",
        "neg",
        "abs",
        "sqrt",
    ),
    *("square", "sin", "erf", "get:data", "requires_grad", "identity", "nan_to_num", "type"),
)
#: f(0) != 0: fine as a gate that is multiplied onto a signal, not in front of a layer.
_ZERO_MOVES = (
    "sigmoid",
    "hardsigmoid",
    "logsigmoid",
    "softplus",
    "exp",
    "cos",
    "alpha_dropout",
    "reciprocal",
)
#: Results that carry no channel values.
_NO_VALUES = (
    *("new_tensor", "dim", "stride", "get:dtype", "get:device", "is_contiguous"),
    "is_floating_point",
)
#: Ways out of the trace.
_LEAVE = ("numpy", "__array__", "tolist", "data_ptr", "__dlpack__")
#: New tensors as wide as a given one, or as wide as the arguments say.
_LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")
_NEW = ("new_zeros", "new_ones", "new_empty", "new_full")
_MIXES = {
    "layer_norm": "normalises across channels, so no channel can go alone",
    "group_norm": "normalises across channels, so no channel can go alone",
    "local_response_norm": "normalises across channels, so no channel can go alone",
    "softmax": "mixes values across channels",
    "multi_head_attention_forward": "is attention, whose heads have a fixed width",
    "scaled_dot_product_attention": "is attention, whose heads have a fixed width",
}
_CONTRACTIONS = (
    *("matmul", "bmm", "mm", "einsum", "baddbmm", "addmm", "addbmm", "tensordot", "bilinear"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("multi_head_attention_forward", "scaled_dot_product_attention"),
)
#: Why channels stay whose number is a size of a new tensor.
_COUNTS = "{} makes a tensor with their number"
#: The same of a number that is no size.
_USES = "{} uses their number as a value"


def default(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """An operation nobody described: whatever labelled values it touches are frozen."""
    out = func(*args, **kwargs)
    name, results = operation_name(func), tensors_in(out)
    if results:
        tracer.freeze_counted([args, kwargs], _COUNTS.format(name))
    if name in _CONTRACTIONS or name == "__matmul__":
        tracer.contractions.add(name)
    # A property that is no tensor (``x.ndim``) is a question: it takes no values and changes none.
    asks = name.startswith("get:") and not results
    in_place = getattr(func, "__name__", "").endswith("_") and not asks
    labelled = [label for t in tensors_in([args, kwargs]) if (label := tracer.label(t)) is not None]
    if labelled and (results or in_place):
        reason = f"{name} {_MIXES.get(name, 'is an operation the channel analysis does not follow')}"
        for label in labelled:
            tracer.consume(label)
            tracer.freeze(label, reason)
    for tensor in results:
        tracer.attach(tensor, None)
    if in_place and args and isinstance(args[0], Tensor):
        tracer.attach(args[0], None)
    return out


def _no_values(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    return func(*args, **kwargs)


def _leave(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """Values that go where no operation is seen any more: into NumPy, into a list, into a kernel of one's own."""
    label = tracer.label(_first(args, kwargs))
    if label is not None:
        tracer.consume(label)
        tracer.freeze(label, f"{operation_name(func)} takes its values away")
    return func(*args, **kwargs)


def _like(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """No values of the channels, but a place for each: it goes when the channel goes."""
    label = tracer.label(_first(args, kwargs))
    out = func(*args, **kwargs)
    tracer.freeze_counted([args[1:], kwargs], _USES.format(operation_name(func)))
    if label is None:
        return out
    return tracer.attach(out, Label(label.ids, zero=operation_name(func) == "zeros_like"))


def _new(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """A tensor of its own: a size that counts channels must not change."""
    tracer.freeze_counted([args, kwargs], _COUNTS.format(operation_name(func)))
    return func(*args, **kwargs)


def _zero_stays(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    x = _first(args, kwargs)
    label = tracer.label(x)
    out = func(*args, **kwargs)
    tracer.freeze_counted([args[1:], kwargs], _USES.format(operation_name(func)))
    if label is None:
        tracer.derive(out, x)
    return tracer.attach(out, label) if isinstance(out, Tensor) else out


def _zero_moves(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    x = _first(args, kwargs)
    label = tracer.label(x)
    out = func(*args, **kwargs)
    tracer.freeze_counted([args[1:], kwargs], _USES.format(operation_name(func)))
    if label is None:
        tracer.derive(out, x)
    else:
        tracer.note_use(label)
        label = replace(label, zero=False, norm=None)
    return tracer.attach(out, label)


def _clamp(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """Zero stays if the bounds are numbers on both sides of it."""
    low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val"))
    high = args[2] if len(args) > 2 else kwargs.get("max", kwargs.get("max_val"))
    if any(isinstance(bound, Tensor) for bound in (low, high)):
        return default(tracer, func, args, kwargs)
    stays = (low is None or low <= 0) and (high is None or high >= 0)
    return (_zero_stays if stays else _zero_moves)(tracer, func, args, kwargs)


def _first(args: _Args, kwargs: _Kwargs) -> Any:
    return args[0] if args else kwargs.get("input")


def _binary(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    """Sum, difference, product or quotient of two values."""
    name = operation_name(func)
    left, right = _first(args, kwargs), args[1] if len(args) > 1 else kwargs.get("other")
    a, b = tracer.label(left), tracer.label(right)
    shapes = [tuple(v.shape) if isinstance(v, Tensor) else () for v in (left, right)]
    out = func(*args, **kwargs)
    tracer.freeze_counted([args, kwargs], _USES.format(name))
    if a is not None:
        a = _aligned(tracer, a, shapes[0], out.shape)
    if b is not None:
        b = _aligned(tracer, b, shapes[1], out.shape)
    product = name in ("mul", "multiply")
    if a is not None and b is not None:
        if name not in ("add", "sub", "mul", "multiply"):
            # Before the sum: where a stream keeps its width, the sum's label knows no channels any more.
            for part in (a, b):
                tracer.freeze(part, f"{name} of two activations")
        label = _product(tracer, a, b, shapes) if product else _sum(tracer, a, b)
        return tracer.attach(out, label)
    if a is not None:
        return tracer.attach(out, _with_constant(tracer, a, right, name, out.dim()))
    if b is not None:
        divides = name in ("div", "divide", "true_divide")
        return tracer.attach(out, _with_constant(tracer, b, left, "rdiv" if divides else name, out.dim()))
    tracer.derive(out, *(v for v in (left, right) if isinstance(v, Tensor) and v.numel() > 1))
    return tracer.attach(out, None)


def _aligned(
    tracer: Tracer, label: Label, shape: tuple[int, ...], out_shape: tuple[int, ...]
) -> Label | None:
    """The label at the result's rank; None (frozen) if one channel is broadcast over several."""
    ids = label.ids.reshape([1] * (len(out_shape) - len(shape)) + list(label.ids.shape))
    if len(shape) > 1 and shape[1] == 1 and len(out_shape) > 1 and out_shape[1] > 1:
        tracer.consume(label)
        tracer.freeze(label, "its one channel is broadcast over all channels of another activation")
        return None
    return replace(label, ids=ids)


def _merged(tracer: Tracer, a: Label, b: Label) -> Label:
    """Tie two labels elementwise; what both have in common."""
    left, right = torch.broadcast_tensors(a.ids, b.ids)
    reason = "it is joined with channels that are never removed"
    tracer.atoms.merge(left.numpy(), right.numpy(), reason)
    ids = torch.where(left == 0, left, right) if bool((left == 0).any()) else left
    return Label(ids, False, a.pending | b.pending, a.sources | b.sources, max(a.depth, b.depth))


def _product(tracer: Tracer, a: Label, b: Label, shapes: list[tuple[int, ...]]) -> Label:
    """A gate times a signal (squeeze-excite): zero where either is; only the signal's layers are scored."""
    tracer.note_use(a)
    tracer.note_use(b)
    gate = _gate_of(a, b, shapes)
    merged = replace(_merged(tracer, a, b), zero=a.zero or b.zero)
    if gate is None:
        return merged
    signal = b if gate is a else a
    # A layer that gates itself (``x * sigmoid(x)``) makes the signal too.
    tracer.gate |= gate.sources - signal.sources
    return replace(merged, sources=signal.sources, depth=signal.depth)


def _gate_of(a: Label, b: Label, shapes: list[tuple[int, ...]]) -> Label | None:
    if a.zero != b.zero:
        return b if a.zero else a
    spatial = [int(np.prod(shape[2:])) if len(shape) > 2 else 0 for shape in shapes]
    return None if spatial[0] == spatial[1] else (a if spatial[0] < spatial[1] else b)


def _sum(tracer: Tracer, a: Label, b: Label) -> Label:
    """A residual sum: the deeper operand is the branch, the other the skip."""
    deep, shallow = (a, b) if a.depth >= b.depth else (b, a)
    if deep.depth != shallow.depth:
        tracer.branch |= deep.sources
        tracer.skip |= shallow.sources
    if tracer.residual == "coupled":
        tracer.note_use(a)
        tracer.note_use(b)
        return replace(_merged(tracer, a, b), zero=a.zero and b.zero)
    reason = f"residual={tracer.residual!r} keeps the residual stream at full width"
    tracer.freeze(shallow, reason)
    if tracer.residual == "scatter" and deep.depth != shallow.depth and (deep.norm or deep.scattered):
        if deep.norm:
            tracer.scatter[deep.norm] = deep.atoms()
    else:
        tracer.freeze(deep, reason)
    ids = torch.zeros([1] * a.ids.dim(), dtype=torch.int64)
    return Label(ids, a.zero and b.zero, a.pending | b.pending, a.sources | b.sources, deep.depth)


def _with_constant(tracer: Tracer, label: Label, other: Any, name: str, rank: int) -> Label | None:
    """A labelled value and a number, a parameter or another tensor without labels."""
    if name == "rdiv":
        tracer.freeze(label, "it is a divisor")
        return None
    product = name in ("mul", "multiply", "div", "divide", "true_divide")
    if isinstance(other, Tensor) and other.dim() > 0:
        for dim in label.varying():
            own = dim - (rank - other.dim())
            if own < 0 or other.shape[own] == 1:
                continue
            axes = tracer.source_axes(other, own)
            wide = [stays_as_wide(tracer, places(label.ids, dim), n, "view") for n in tracer.settle(other)]
            if not axes or not all(wide) or len(label.varying()) > 1:
                tracer.consume(label)
                tracer.freeze(label, f"{name} joins it with channels that are never removed")
                return None
            for tensor, axis in axes:
                tracer.axis(tensor, axis, label.atoms().copy())
            # Its values follow the channels, so a scattering norm in front of it would be too wide for them.
            tracer.note_use(label)
            label = replace(label, norm=None)
    keeps = product or (isinstance(other, (int, float)) and other == 0)
    return label if keeps else replace(label, zero=False)


def _cat(tracer: Tracer, func: _Func, args: _Args, kwargs: _Kwargs) -> Any:
    # An empty vector may stand before the first operand: torch takes it for nothing.
    tensors = [t for t in (args[0] if args else kwargs["tensors"]) if t.shape != (0,)]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    labels = [tracer.label(t) for t in tensors]
    out = func(*args, **kwargs)
    known = [label for label in labels if label is not None]
    if not known:
        return tracer.attach(out, None)
    dim = dim % out.dim()
    for operand in known:
        tracer.note_use(operand)
    parts = []
    for tensor, label in zip(tensors, labels, strict=True):
        ids = torch.zeros([1] * out.dim(), dtype=torch.int64) if label is None else label.ids
        size = list(ids.shape)
        size[dim] = tensor.shape[dim]
        parts.append(ids.expand(size))
    others = [max(p.shape[d] for p in parts) for d in range(out.dim())]
    parts = [p.expand([p.shape[d] if d == dim else others[d] for d in range(out.dim())]) for p in parts]
    joined = Label(
        compressed(torch.cat(parts, dim)),
        all(label.zero for label in known),
        frozenset().union(*(label.pending for label in known)),
        frozenset().union(*(label.sources for label in known)),
        max(label.depth for label in known),
    )
    if len(joined.varying()) > 1:
        tracer.consume(joined)
        tracer.freeze(joined, "it is concatenated along another axis than its channels")
    return tracer.attach(out, joined)


JOIN_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_ZERO_STAYS, _zero_stays),
    **dict.fromkeys(_ZERO_MOVES, _zero_moves),
    **dict.fromkeys(_NO_VALUES, _no_values),
    **dict.fromkeys(_LEAVE, _leave),
    **dict.fromkeys(_LIKE, _like),
    **dict.fromkeys(_NEW, _new),
    **dict.fromkeys(
        ("add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "rdiv"), _binary
    ),
    **dict.fromkeys(("clamp", "clip", "hardtanh"), _clamp),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
}
