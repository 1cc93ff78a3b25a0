"""Widths padded up to a multiple with channels that are zero: the same function, in shapes that kernels like.

The inverse of a cut: where surgery takes a unit's indices out of every tensor that holds them, padding puts indices
in. What is put in cannot be seen: filters and biases are zero, norms have scale, shift and mean 0 and variance 1, and
whatever an activation makes of that (``hardsigmoid(0)`` is not 0) meets columns of zeros in the layers that read it.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gcp_core.cost import fit_to_model
from gcp_core.errors import ConfigError
from gcp_core.groups import Group, Groups, find_groups
from gcp_core.groups.structure import Axis
from gcp_core.groups.trace import tensors_in
from gcp_core.pruning.growth import widened
from gcp_core.scatter import Scattering

_log = logging.getLogger(__name__)

#: Largest difference of the logits in float64, relative to the largest logit: sums may be taken in another order.
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Padded:
    """A padded copy of a model.

    Attributes:
        model: the copy, in eval mode.
        grown: group name -> units before and after.
        left: group or layer -> why its width is still no multiple.
    """

    model: nn.Module
    grown: dict[str, tuple[int, int]]
    left: dict[str, str]


def padded_to_multiple(model: nn.Module, example_input: Tensor, multiple: int = 8) -> nn.Module:
    """The copy that :func:`pad_widths` makes; what could not be padded is logged."""
    result = pad_widths(model, example_input, multiple)
    for name, reason in result.left.items():
        _log.info("%s keeps its width: %s", name, reason)
    return result.model


def pad_widths(model: nn.Module, example_input: Tensor, multiple: int = 8) -> Padded:
    """A copy whose layers have a multiple of ``multiple`` channels, and which computes the same in eval mode.

    The sameness is measured on random images in float64 before the copy is handed out; a group that would break it
    is left as it is. The copy is meant for inference: trained on, the zeros would stop being zeros.

    Args:
        example_input: ``(N, C, H, W)``; only shape, device and type matter.
        multiple: 1 changes nothing.

    Raises:
        ConfigError: ``multiple`` is not a whole number >= 1.
        ModelError: see :func:`gcp_core.groups.find_groups`.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ConfigError(f"{multiple!r} is not a whole number >= 1", "multiple")
    groups = find_groups(model, example_input)
    extra, left = _extra_units(groups, model, multiple)
    if extra and not _same_function(model, groups, extra, example_input):
        extra, refused = _one_by_one(model, groups, extra, example_input)
        left |= dict.fromkeys(refused, "padding it would change the function")
    copied = _grown(model, groups, extra)
    sizes = {group.name: group.size for group in groups.groups}
    grown = {name: (sizes[name], sizes[name] + number) for name, number in extra.items()}
    return Padded(copied.eval(), grown, left)


def _extra_units(groups: Groups, model: nn.Module, multiple: int) -> tuple[dict[str, int], dict[str, str]]:
    """Units to add by group, and what cannot become a multiple."""
    widths = {layer: len(units) for layer, units in groups.layout.layers.items()}
    last = {m.layer: group.name for group in groups.groups for m in group.members}
    extra: dict[str, int] = {}
    left: dict[str, str] = {}
    for group in groups.groups:
        # A layer shared by several groups is rounded once, by the last of them.
        per_unit = {m.layer: len(m.channels[-1]) for m in group.members}
        own = [layer for layer in per_unit if last[layer] == group.name]
        fitting = (
            n for n in range(multiple) if all((widths[x] + n * per_unit[x]) % multiple == 0 for x in own)
        )
        number = next(fitting, None)
        room = _room(groups, model, group)
        if number is None:
            left[group.name] = f"no number of units makes all its layers a multiple of {multiple}"
        elif number > room:
            left[group.name] = f"its residual stream has only {int(room)} free channels"
        elif number:
            extra[group.name] = number
            for layer, channels in per_unit.items():
                widths[layer] += number * channels
    for layer, reason in groups.frozen.items():
        if layer in widths and widths[layer] % multiple and last.get(layer) not in left:
            left[layer] = reason
    return extra, left


def _room(groups: Groups, model: nn.Module, group: Group) -> float:
    """Units that fit beside the living ones into the residual streams the group is scattered into."""
    room = math.inf
    for axis in groups.layout.axes:
        if axis.tensor.endswith("scatter_index") and _belongs(axis, group).any():
            norm = model.get_submodule(axis.tensor.rpartition(".")[0])
            if isinstance(norm, Scattering):
                room = min(room, norm.full_channels - len(axis.units))
    return room


def _belongs(axis: Axis, group: Group) -> np.ndarray:
    return (axis.units >= group.first_unit) & (axis.units < group.first_unit + group.size)


def _one_by_one(
    model: nn.Module, groups: Groups, extra: Mapping[str, int], example_input: Tensor
) -> tuple[dict[str, int], list[str]]:
    """The groups that can grow without changing the function, and those that cannot."""
    kept: dict[str, int] = {}
    refused = []
    for name, number in extra.items():
        if _same_function(model, groups, {**kept, name: number}, example_input):
            kept[name] = number
        else:
            refused.append(name)
    return kept, refused


def _same_function(model: nn.Module, groups: Groups, extra: Mapping[str, int], example_input: Tensor) -> bool:
    """Whether the padded copy agrees with the model on random images, in float64."""
    image = fit_to_model(example_input, model)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn((2, *image.shape[1:]), generator=rng, dtype=torch.float64)
    # On the CPU: not every accelerator has float64.
    plain = copy.deepcopy(model).cpu().double().eval()
    try:
        with torch.no_grad():
            wanted, got = tensors_in(plain(x)), tensors_in(_grown(plain, groups, extra).eval()(x))
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    return all(_agree(a, b) for a, b in zip(wanted, got, strict=True))


def _agree(wanted: Tensor, got: Tensor) -> bool:
    scale = wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
    return wanted.shape == got.shape and bool((wanted - got).abs().max() <= TOLERANCE * scale)


def _grown(model: nn.Module, groups: Groups, extra: Mapping[str, int]) -> nn.Module:
    """A copy with this many more units in these groups."""
    # A new unit sits right behind the last living one, wherever that one occurs.
    behind = {g.first_unit + g.size - 1: extra[g.name] for g in groups.groups if extra.get(g.name)}
    model = copy.deepcopy(model)
    for axis in groups.layout.axes:
        source = widened(axis.units, behind)
        if len(source) > len(axis.units):
            _widen(model, axis, source)
    for item in groups.layout.attributes:
        size = len(widened(item.units, behind))
        if size > len(item.units):
            setattr(model.get_submodule(item.module), item.name, size // item.per)
    return model


def _widen(model: nn.Module, axis: Axis, source: np.ndarray) -> None:
    owner, _, short = axis.tensor.rpartition(".")
    module = model.get_submodule(owner)
    held = module.get_parameter(short) if short in module._parameters else module.get_buffer(short)
    old = held.detach()
    shape = list(old.shape)
    shape[axis.dim] = len(source)
    new = old.new_full(shape, 1 if short == "running_var" else 0)
    places = torch.from_numpy(np.flatnonzero(source >= 0)).to(old.device)
    new.index_copy_(axis.dim, places, old)
    if isinstance(module, Scattering) and short == "scatter_index":
        # New channels are zeros; they are written where nothing else is.
        free = sorted(set(range(module.full_channels)) - set(old.tolist()))
        empty = np.flatnonzero(source < 0)
        new[torch.from_numpy(empty).to(old.device)] = torch.tensor(free[: len(empty)], device=old.device)
    if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        new = new.contiguous(memory_format=torch.channels_last)
    if short in module._parameters:
        module._parameters[short] = nn.Parameter(new, requires_grad=held.requires_grad)
    else:
        module._buffers[short] = new
