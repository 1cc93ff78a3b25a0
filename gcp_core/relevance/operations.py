"""Which handler each torch function gets.

A handler has the signature ``(state, func, args, kwargs) -> result`` and sees calls with at least one tensor that
carries relevance (convolutions and linear layers: all calls). What is not listed goes to
:func:`gcp_core.relevance.any_other.any_other`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcp_core.relevance import layers, pools, sums
from gcp_core.relevance.any_other import any_other
from gcp_core.relevance.marks import Mark, carriers, mark_of, marked, merged, supersede, tensors_in
from gcp_core.relevance.rules import PassRule
from gcp_core.relevance.state import PassState

Handler = Callable[[PassState, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_NON_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "softplus", "abs", "square")
_GATES = ("sigmoid", "hardsigmoid", "softmax", "tanh")
_PASS_THROUGH = (
    *(
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "local_response_norm",
        "rms_norm",
        "normalize",
    ),
    *("silu", "gelu", "hardswish", "mish", "elu", "celu", "selu", "leaky_relu", "prelu", "rrelu", "softsign"),
    *("hardtanh", "threshold", "clamp", "clamp_min", "clamp_max", "clip", "tanh", "tanhshrink", "hardshrink"),
    *("softshrink", "log_softmax", "logsigmoid", "neg"),
)
_DROPOUTS = (
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"),
    "feature_alpha_dropout",
)
_CONSTANTS = (
    *("detach", "data", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
)
#: Asked by most modules about every input.
_QUESTIONS = (
    "dim",
    "ndim",
    "size",
    "shape",
    "numel",
    "dtype",
    "device",
    "is_floating_point",
    "is_contiguous",
    "stride",
    "requires_grad",
)
_RELOCATING = (
    *("flatten", "unflatten", "reshape", "view", "view_as", "reshape_as", "squeeze", "unsqueeze", "permute"),
    *(
        "transpose",
        "swapaxes",
        "swapdims",
        "movedim",
        "moveaxis",
        "t",
        "T",
        "mT",
        "contiguous",
        "clone",
        "narrow",
    ),
    *(
        "select",
        "chunk",
        "split",
        "tensor_split",
        "unbind",
        "__getitem__",
        "index_select",
        "cat",
        "concat",
        "stack",
    ),
    *("hstack", "vstack", "pad", "expand", "expand_as", "broadcast_to", "repeat", "tile", "flip", "roll"),
    *(
        "channel_shuffle",
        "native_channel_shuffle",
        "pixel_shuffle",
        "pixel_unshuffle",
        "to",
        "float",
        "double",
    ),
)
_CHANNELS_STAY = ("flatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous", "clone", "to", "pad")
_OPERATORS: dict[str, Handler] = {
    **dict.fromkeys(("add", "__add__", "__radd__"), sums.add),
    **dict.fromkeys(("sub", "subtract", "__sub__"), sums.subtract),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), sums.multiply),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), sums.divide),
    "index_copy": sums.index_copy,
    "index_add": sums.index_add,
}
_IN_PLACE_OPERATORS = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div"}


def _pass_through(name: str) -> Handler:
    """Relevance unchanged through an elementwise function or a norm."""

    def handler(state: PassState, func: Any, args: Any, kwargs: Any) -> Any:
        x, mark = args[0], mark_of(args[0])
        in_place = bool(kwargs.get("inplace", False))
        if in_place:
            kwargs = {**kwargs, "inplace": False}
        if mark is None:  # only a later argument carries relevance, such as a computed slope
            return any_other(state, func, args, kwargs)
        with torch.no_grad():
            y = func(x.detach(), *args[1:], **kwargs)
        clipped = name == "hardtanh" and kwargs.get("min_val", -1.0) >= 0
        known = mark._replace(non_negative=name in _NON_NEGATIVE or clipped, gate=name in _GATES)
        out = marked(PassRule.apply(x, y), known)
        return supersede(x, out) if in_place else out

    return handler


def _identity(state: PassState, func: Any, args: Any, kwargs: Any) -> Any:
    """Dropout: nothing happens in evaluation mode."""
    return args[0]


def _constant(state: PassState, func: Any, args: Any, kwargs: Any) -> Any:
    """A new tensor that takes no relevance."""
    with torch.no_grad():
        return func(*args, **kwargs).detach()


def _question(state: PassState, func: Any, args: Any, kwargs: Any) -> Any:
    """Facts about a tensor, not a tensor."""
    return func(*args, **kwargs)


def _relocate(state: PassState, func: Any, args: Any, kwargs: Any) -> Any:
    """Shape operations: their ordinary gradient moves relevance along unchanged."""
    name = getattr(func, "__name__", "")
    if name == "view" and not isinstance(args[1], torch.dtype):
        func = torch.Tensor.reshape  # the pass runs channels-last, where a model's view may be impossible
    out = func(*args, **kwargs)
    marks = [m for t in carriers(args, kwargs) if (m := mark_of(t)) is not None]
    if len(marks) < len(tensors_in((*args, *kwargs.values()))) or kwargs.get("value"):
        marks = [mark._replace(non_negative=False) for mark in marks]
    if isinstance(out, Tensor):
        return marked(out, _relocated(name, marks, args, kwargs, out))
    for part in out:
        marked(part, merged(marks))
    return out


def _relocated(name: str, marks: list[Mark], args: Any, kwargs: Any, out: Tensor) -> Mark:
    """The mark after a shape operation: still one layer's channels if their dimension can be followed."""
    x, mark = args[0], marks[0]
    if len(marks) > 1 or not isinstance(x, Tensor):
        return merged(marks)
    if mark.layer is not None and name == "permute":
        dims = kwargs.get("dims", args[1:] if isinstance(args[-1], int) else args[-1])
        return mark._replace(dim=[d % x.ndim for d in dims].index(mark.dim))
    if (
        name in _CHANNELS_STAY
        and out.ndim > mark.dim
        and out.shape[: mark.dim + 1] == x.shape[: mark.dim + 1]
    ):
        return mark
    return mark._replace(layer=None, placed=None)


def _in_place(handler: Handler, func: Callable[..., Any]) -> Handler:
    """The in-place form: computed out of place, then later uses of the tensor mean the result."""

    def run(state: PassState, _: Any, args: Any, kwargs: Any) -> Any:
        return supersede(args[0], handler(state, func, args, kwargs))

    return run


def _handlers_by_name() -> dict[str, Handler]:
    named: dict[str, Handler] = {}
    named.update({name: _pass_through(name) for name in (*_PASS_THROUGH, *_NON_NEGATIVE)})
    named.update(dict.fromkeys(_DROPOUTS, _identity))
    named.update(dict.fromkeys(_CONSTANTS, _constant))
    named.update(dict.fromkeys(_QUESTIONS, _question))
    named.update(dict.fromkeys(_RELOCATING, _relocate))
    named.update(
        {"conv1d": layers.conv, "conv2d": layers.conv, "conv3d": layers.conv, "linear": layers.linear}
    )
    return {**named, **pools.POOLS, **_OPERATORS}


def _table() -> dict[Callable[..., Any], Handler]:
    """Every torch function with a handler, in the namespaces a model may call it from."""
    table: dict[Callable[..., Any], Handler] = {}
    named = _handlers_by_name()
    for space in (torch.Tensor, torch, F):
        for name, handler in named.items():
            func = getattr(space, name, None)
            if not callable(func):  # a property: what arrives in the mode is its getter
                func = getattr(func, "__get__", None)
            if func is None:
                continue
            table[func] = handler
            if (in_place := getattr(space, name + "_", None)) is not None:
                table[in_place] = _in_place(handler, func)
    for name, plain in _IN_PLACE_OPERATORS.items():
        table[getattr(torch.Tensor, name)] = _in_place(named[plain], getattr(torch, plain))
    return table


OPERATIONS = _table()
LINEAR = frozenset(func for func, handler in OPERATIONS.items() if handler in (layers.conv, layers.linear))
CONSTANT = frozenset(func for func, handler in OPERATIONS.items() if handler is _constant)
