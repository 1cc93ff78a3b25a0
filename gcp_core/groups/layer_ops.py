"""What conv, linear and normalisation layers do to labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from gcp_core.groups.labels import Label, MacTerm
from gcp_core.groups.trace import AGAIN, Handler, Tracer
from gcp_core.scatter import Scattering

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Modules whose output channels can be removed.
LAYERS = (*_CONVS, nn.Linear)


def argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any = None
) -> Any:
    """An argument given by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def _conv(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, weight = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "weight")
    out = func(*args, **kwargs)
    num_in, num_out = x.shape[1], weight.shape[0]
    groups = num_in // weight.shape[1]
    layer = _layer_of(tracer, weight, argument(args, kwargs, 2, "bias"), _CONVS)
    ins = tracer.channel_atoms(x, 1, num_in, layer or func.__name__)
    factor = out.numel() // num_out * (weight.numel() // (num_out * weight.shape[1]))
    if layer is None or tracer.again(layer):
        reason = (
            "it feeds a convolution whose weight is no parameter of a conv module" if layer is None else AGAIN
        )
        return _fixed(tracer, out, weight, ins, factor, reason)
    outs = tracer.producer(layer, num_out, 1)
    own_ins = _tie_conv_groups(tracer, layer, ins, outs, groups)
    tracer.attribute(layer, "in_channels", ins)
    tracer.attribute(layer, "out_channels", outs)
    tracer.terms.append(MacTerm(layer, factor, outs, own_ins))
    return _produced(tracer, layer, x, out, outs, 1)


def _tie_conv_groups(
    tracer: Tracer, layer: str, ins: np.ndarray, outs: np.ndarray, groups: int
) -> np.ndarray:
    """Record the weight's input axis; returns the atoms of one filter's inputs (zeros where they never change)."""
    prefix = f"{layer}." if layer else ""
    width = len(ins) // groups
    if groups == 1:
        tracer.axis(f"{prefix}weight", 1, ins)
        return ins
    reason = f"the grouped convolution {layer} also reads channels that are never removed"
    if groups >= width:
        # Whole convolution groups go (a depthwise conv has one channel in each).
        rows = np.concatenate([ins.reshape(groups, -1), outs.reshape(groups, -1)], axis=1)
        tracer.atoms.merge(np.repeat(rows[:, :1], rows.shape[1], axis=1), rows, reason)
        tracer.attribute(layer, "groups", outs, len(outs) // groups)
        return np.zeros(width, dtype=np.int64)
    # Few wide groups: the same position goes in every group, so that they stay equally wide.
    for atoms in (ins.reshape(groups, -1), outs.reshape(groups, -1)):
        tracer.atoms.merge(np.repeat(atoms[:1], groups, axis=0), atoms, reason)
    tracer.axis(f"{prefix}weight", 1, ins[:width])
    return ins[:width]


def _linear(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, weight = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "weight")
    out = func(*args, **kwargs)
    num_out, num_in = weight.shape
    layer = _layer_of(tracer, weight, argument(args, kwargs, 2, "bias"), (nn.Linear,))
    ins = tracer.channel_atoms(x, -1, num_in, layer or "linear")
    factor = out.numel() // num_out
    if layer is None or tracer.again(layer):
        reason = (
            "it feeds a linear map whose weight is no parameter of a linear module"
            if layer is None
            else AGAIN
        )
        return _fixed(tracer, out, weight, ins, factor, reason)
    outs = tracer.producer(layer, num_out, -1)
    tracer.axis(f"{layer}.weight" if layer else "weight", 1, ins)
    tracer.attribute(layer, "in_features", ins)
    tracer.attribute(layer, "out_features", outs)
    tracer.terms.append(MacTerm(layer, factor, outs, ins))
    return _produced(tracer, layer, x, out, outs, out.dim() - 1)


def _fixed(tracer: Tracer, out: Tensor, weight: Tensor, ins: np.ndarray, factor: int, reason: str) -> Tensor:
    """The layer keeps what it reads and makes, and costs what it costs."""
    tracer.atoms.freeze(ins, reason)
    tracer.terms.append(MacTerm("", factor, *(np.zeros(size, int) for size in weight.shape[:2])))
    return tracer.attach(out, None)


def _whole(tracer: Tracer, out: Tensor, label: Label, reason: str) -> Tensor:
    """What has passed keeps all its channels."""
    tracer.consume(label)
    tracer.freeze(label, reason)
    return tracer.attach(out, None)


def _layer_of(tracer: Tracer, weight: Tensor, bias: Tensor | None, kinds: tuple[type, ...]) -> str | None:
    """The module that owns weight and bias, if it is of a kind whose attributes and output we know."""
    layer = tracer.owner(weight)
    if layer is None or not isinstance(tracer.modules.get(layer), kinds):
        return None
    return layer if bias is None or tracer.owner(bias) == layer else None


def _produced(tracer: Tracer, layer: str, x: Any, out: Tensor, outs: np.ndarray, dim: int) -> Tensor:
    prefix = f"{layer}." if layer else ""
    tracer.axis(f"{prefix}weight", 0, outs)
    if getattr(tracer.modules[layer], "bias", None) is not None:
        tracer.axis(f"{prefix}bias", 0, outs)
    before = tracer.label(x)
    shape = [1] * out.dim()
    shape[dim] = len(outs)
    sources = frozenset({layer})
    depth = 1 + (before.depth if before is not None else 0)
    ids = torch.from_numpy(outs).reshape(shape)
    return tracer.attach(out, Label(ids, True, pending=sources, sources=sources, depth=depth))


def _batch_norm(
    tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    x = argument(args, kwargs, 0, "input")
    mean, var = argument(args, kwargs, 1, "running_mean"), argument(args, kwargs, 2, "running_var")
    weight, bias = argument(args, kwargs, 3, "weight"), argument(args, kwargs, 4, "bias")
    tensors = [t for t in (weight, bias, mean, var) if t is not None]
    # Running statistics even in training mode: one image has no batch statistics, and nothing may be written.
    frozen = (mean, var) if mean is not None else (x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]))
    out = F.batch_norm(x, *frozen, weight, bias, False, 0.0, argument(args, kwargs, 7, "eps", 1e-5))
    label = tracer.label(x)
    if label is None:
        return out
    layer = next((owner for t in tensors if (owner := tracer.owner(t)) is not None), None)
    own = (
        layer is not None and isinstance(tracer.modules[layer], _BatchNorm) and all(map(tracer.name, tensors))
    )
    if layer is None or not own or label.varying() not in ([], [1]):
        return _whole(tracer, out, label, "it passes a batch norm that is not a module over dimension 1")
    if tracer.again(layer):
        return _whole(tracer, out, label, AGAIN)
    tracer.note_use(label)
    atoms = label.ids.reshape(-1).expand(x.shape[1]).numpy().copy()
    for tensor in tensors:
        tracer.axis(str(tracer.name(tensor)), 0, atoms)
    tracer.attribute(layer, "num_features", atoms)
    tracer.norms[layer] = atoms
    if isinstance(tracer.modules[layer], Scattering):
        tracer.axis(f"{layer}.scatter_index", 0, atoms)
    return tracer.attach(out, Label(label.ids, True, frozenset(), label.sources, label.depth, norm=layer))


def _index_copy(
    tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The write of a norm that scatters: its own channels stay free, the stream it writes into is fixed."""
    out = func(*args, **kwargs)
    label = tracer.label(argument(args, kwargs, 3, "source"))
    stream = tracer.label(argument(args, kwargs, 0, "input"))
    norm = None if label is None else tracer.modules.get(label.norm or "")
    if stream is None and label is not None and isinstance(norm, Scattering):
        ids = torch.zeros([1] * out.dim(), dtype=torch.int64)
        return tracer.attach(out, Label(ids, True, frozenset(), label.sources, label.depth, None, True))
    for part in (label, stream):
        if part is not None:
            tracer.consume(part)
            tracer.freeze(part, "index_copy writes it at fixed positions")
    return tracer.attach(out, None)


def _prelu(tracer: Tracer, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, weight = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "weight")
    out = func(*args, **kwargs)
    label = tracer.label(x)
    if label is not None and weight.numel() > 1:
        layer = tracer.owner(weight)
        if (
            layer is None
            or label.varying() not in ([], [1])
            or not isinstance(tracer.modules[layer], nn.PReLU)
        ):
            return _whole(tracer, out, label, "it passes a prelu whose weight cannot be cut")
        if tracer.again(layer):
            return _whole(tracer, out, label, AGAIN)
        atoms = label.ids.reshape(-1).expand(weight.numel()).numpy().copy()
        tracer.note_use(label)
        label = replace(label, norm=None)
        tracer.axis(str(tracer.name(weight)), 0, atoms)
        tracer.attribute(layer, "num_parameters", atoms)
    return tracer.attach(out, label)


LAYER_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "index_copy": _index_copy,
    "prelu": _prelu,
}
