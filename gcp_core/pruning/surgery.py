"""From a plan to a smaller model and optimiser, in place: all or nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from gcp_core.errors import PlanError, did_you_mean
from gcp_core.groups import Groups, check_weights, find_groups
from gcp_core.plan import Cut, Gate, Plan, Scatter, Skipped
from gcp_core.pruning.fitness import check_attributes, check_kind
from gcp_core.pruning.growth import apply_growth
from gcp_core.pruning.undo import item_setter, setter
from gcp_core.scatter import Scattering, can_scatter, scattering

_log = logging.getLogger(__name__)

_WRAPPERS = ("module.", "_orig_mod.")

#: (dimension, indices that stay), for each dimension that is cut.
_Kept = list[tuple[int, Tensor]]
_Replaced = dict[nn.Parameter, tuple[nn.Parameter, _Kept]]


def apply_plan(model: nn.Module, plan: Plan, optimizer: Optimizer | None = None) -> None:
    """Remove what ``plan`` says from model and optimiser, then add what it lets grow, in place; on any error both stay as
    they were.

    Touched parameters are replaced by new ones in the same module and in the same slot of the optimiser's
    parameter groups; their state tensors and gradients lose the same indices, scalars stay. Learning-rate schedulers
    keep working. Averaged copies take the plan too: ``apply_plan(averaged.module, plan)``. Memory formats are kept.

    Raises:
        PlanError: the plan does not fit the model or the optimiser.
        ModelError: weights that cannot be pruned (half precision, not finite, shared).
    """
    check_weights(model)
    cuts = _by_tensor(plan)
    _check_plan(model, plan, cuts)
    _check_optimizer(model, cuts, optimizer)
    undo: list[Callable[[], None]] = []
    try:
        _scatter_norms(model, plan.scatters, undo)
        replaced = _cut_tensors(model, _kept_indices(model, cuts), undo)
        modules = dict(model.named_modules())
        for change in plan.attributes:
            module = modules[change.module]
            undo.append(setter(module, change.name, change.before))
            setattr(module, change.name, change.after)
        if optimizer is not None:
            _transplant(optimizer, replaced, undo)
        _verify(modules, plan, replaced, optimizer)
        if plan.growth is not None:
            apply_growth(model, plan.growth, optimizer)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


@contextmanager
def gate_channels(model: nn.Module, plan: Plan) -> Iterator[nn.Module]:
    """The unremoved model with the plan's units zeroed; it computes what the model computes after the plan.

    A unit is zeroed after every norm it passes, and at its producer's output (after the bias) where its raw value
    reaches a layer that is not a norm.

    Raises:
        PlanError: the plan does not fit the model.
    """
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for gate in plan.gates:
            if gate.module not in modules:
                raise PlanError(
                    "the model has no such module", gate.module, did_you_mean(gate.module, modules)
                )
            handle = modules[gate.module].register_forward_hook(_gate_hook(gate))
            stack.callback(handle.remove)
        yield model


def remove_channels(
    model: nn.Module,
    channels: Mapping[str, Sequence[int]],
    *,
    example_input: Tensor,
    optimizer: Optimizer | None = None,
    residual: str = "coupled",
    strict: bool = False,
) -> Plan:
    """Remove the given output channels of the given layers, and all that must go with them.

    Args:
        channels: layer name -> output channels. What goes is the union of the units they belong to.
        strict: raise instead of skipping.

    Returns:
        The plan that was applied. ``plan.skipped`` lists, with reasons, channels that stay: of frozen layers, the last
        ones of a group that would be emptied, and parts of a unit that holds more channels of the same layer.

    Raises:
        PlanError: no such layer or channel; with ``strict``, anything that would be skipped.
    """
    groups = find_groups(model, example_input, residual=residual)
    removed, skipped = _closure(groups, channels)
    if strict and skipped:
        first = skipped[0]
        raise PlanError(f"channel {first.channel} cannot be removed: {first.reason}", first.layer)
    plan = groups.plan(removed, skipped=skipped)
    apply_plan(model, plan, optimizer)
    return plan


def _closure(
    groups: Groups, channels: Mapping[str, Sequence[int]]
) -> tuple[dict[str, set[int]], list[Skipped]]:
    """Units to remove by group, and what is skipped."""
    layers = groups.layout.layers
    removed: dict[str, set[int]] = {}
    skipped: list[Skipped] = []
    for layer, wanted in channels.items():
        if layer not in layers:
            reason = groups.frozen.get(layer, "no conv or linear layer of this name")
            raise PlanError(reason, layer, did_you_mean(layer, layers))
        for channel in sorted(set(wanted)):
            if not 0 <= channel < len(layers[layer]):
                raise PlanError(f"no channel {channel}; it has {len(layers[layer])}", layer)
            unit = int(layers[layer][channel])
            if unit < 0:
                skipped.append(
                    Skipped(layer, channel, f"frozen: {groups.frozen.get(layer, 'never removed')}")
                )
                continue
            group = next(g for g in groups.groups if 0 <= unit - g.first_unit < g.size)
            index = unit - group.first_unit
            own = next(m for m in group.members if m.layer == layer).channels[index]
            missing = sorted(set(own) - set(wanted))
            taken = removed.setdefault(group.name, set())
            if missing:
                skipped.append(Skipped(layer, channel, f"part of a unit that also holds channels {missing}"))
            elif index not in taken and len(taken) == group.size - 1:
                skipped.append(Skipped(layer, channel, "floor: it is the last unit of its group"))
            else:
                taken.add(index)
    return removed, skipped


def _by_tensor(plan: Plan) -> dict[str, list[Cut]]:
    cuts: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        cuts.setdefault(cut.tensor, []).append(cut)
    return cuts


def _check_plan(model: nn.Module, plan: Plan, cuts: Mapping[str, list[Cut]]) -> None:
    """Everything the plan refers to exists and has the sizes the plan was made for."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules = dict(model.named_modules())
    sizes = {name: tuple(t.shape) for name, t in tensors.items()}
    for scatter in plan.scatters:
        norm = modules.get(scatter.module)
        if not isinstance(norm, _BatchNorm) or not can_scatter(norm):
            raise PlanError("no batch norm of this name to write into a stream", scatter.module)
        sizes.setdefault(f"{scatter.module}.scatter_index", (norm.num_features,))
    for name, parts in cuts.items():
        if name not in sizes:
            wrapped = next((p for p in _WRAPPERS if f"{p}{name}" in sizes), None)
            hint = "give the wrapped model itself (.module)" if wrapped else did_you_mean(name, sizes)
            raise PlanError("the plan cuts a tensor the model does not have", name, hint)
        for cut in parts:
            shape = sizes[name]
            if not 0 <= cut.dim < len(shape) or shape[cut.dim] != cut.size:
                said = f"size {cut.size} along dimension {cut.dim}"
                raise PlanError(f"the plan expects {said}, the model has shape {shape}", name)
            removed = set(cut.removed)
            if len(removed) != len(cut.removed) or not all(0 <= i < cut.size for i in removed):
                raise PlanError(f"indices out of range or repeated along dimension {cut.dim}", name)
            if len(removed) >= cut.size:
                raise PlanError(f"the plan would remove all {cut.size} indices of dimension {cut.dim}", name)
    check_attributes(model, plan.attributes, "plan")


def _check_optimizer(model: nn.Module, cuts: Mapping[str, list[Cut]], optimizer: Optimizer | None) -> None:
    """The optimiser is one whose state can be cut, and it trains this model's parameters."""
    if optimizer is None:
        return
    check_kind(optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    if parameters and not any(id(p) in held for p in parameters.values()):
        raise PlanError(
            "it holds none of the model's parameters", "optimizer", "was it built for another model?"
        )
    for name in cuts:
        if name not in parameters:
            continue
        for key, value in optimizer.state.get(parameters[name], {}).items():
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape != parameters[name].shape:
                raise PlanError(
                    f"state {key!r} of shape {tuple(value.shape)} does not follow the weight", name
                )


def _scatter_norms(model: nn.Module, scatters: Sequence[Scatter], undo: list[Callable[[], None]]) -> None:
    for scatter in scatters:
        norm = model.get_submodule(scatter.module)
        if isinstance(norm, _BatchNorm) and not isinstance(norm, Scattering):
            parent_name, _, child = scatter.module.rpartition(".")
            parent = model.get_submodule(parent_name)
            undo.append(_module_setter(parent, child, norm))
            parent._modules[child] = scattering(norm, scatter.full_channels)


def _kept_indices(model: nn.Module, cuts: Mapping[str, list[Cut]]) -> dict[str, _Kept]:
    """Tensor name -> (dimension, indices that stay) of each of its cuts, on the model's device."""
    device = next(model.parameters()).device
    kept: dict[str, _Kept] = {}
    for name, parts in cuts.items():
        kept[name] = []
        for cut in parts:
            stays = np.ones(cut.size, dtype=bool)
            stays[list(cut.removed)] = False
            kept[name].append((cut.dim, torch.from_numpy(np.flatnonzero(stays)).to(device)))
    return kept


def _cut_tensors(model: nn.Module, kept: Mapping[str, _Kept], undo: list[Callable[[], None]]) -> _Replaced:
    """Put the smaller tensors into the modules; returns old parameter -> (new parameter, what it kept)."""
    replaced: _Replaced = {}
    modules = dict(model.named_modules())
    for name, parts in kept.items():
        owner, _, short = name.rpartition(".")
        module = modules[owner]
        holder = module._parameters if short in module._parameters else module._buffers
        old = holder[short]
        if old is None:
            raise PlanError("the plan cuts a tensor that is None", name)
        new: Tensor = _smaller(old.detach(), parts)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            if old.grad is not None:
                new.grad = _smaller(old.grad, parts)
            replaced[old] = (new, parts)
        undo.append(item_setter(holder, short, old))
        holder[short] = new
    return replaced


def _smaller(tensor: Tensor, kept: _Kept) -> Tensor:
    """What is left of ``tensor``, in its memory format."""
    channels_last = _is_channels_last(tensor)
    for dim, index in kept:
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor.contiguous()


def _is_channels_last(tensor: Tensor) -> bool:
    # By strides: is_contiguous cannot tell the formats apart where a size is 1.
    if tensor.dim() != 4:
        return False
    _, c, h, w = tensor.shape
    return tensor.stride() == (h * w * c, 1, w * c, c) and tensor.stride() != (c * h * w, h * w, w, 1)


def _transplant(
    optimizer: Optimizer,
    replaced: _Replaced,
    undo: list[Callable[[], None]],
) -> None:
    """Same slots, cut state: the optimiser goes on as if the removed weights had always been zero."""
    for group in optimizer.param_groups:
        old_params = list(group["params"])
        undo.append(item_setter(group, "params", group["params"]))
        group["params"] = [replaced[p][0] if p in replaced else p for p in old_params]
    for old, (new, kept) in replaced.items():
        if old not in optimizer.state:
            continue
        state = optimizer.state.pop(old)
        undo.append(item_setter(optimizer.state, old, state))
        undo.append(_popper(optimizer.state, new))
        optimizer.state[new] = {key: _cut_state(value, old, kept) for key, value in state.items()}


def _cut_state(value: Any, old: nn.Parameter, kept: _Kept) -> Any:
    follows = isinstance(value, Tensor) and value.dim() > 0 and value.shape == old.shape
    return _smaller(value, kept) if follows else value


def _verify(
    modules: Mapping[str, nn.Module], plan: Plan, replaced: _Replaced, optimizer: Optimizer | None
) -> None:
    """Attributes agree with weights, and the optimiser holds no parameter that was replaced."""
    touched = {cut.tensor.rpartition(".")[0] for cut in plan.cuts}
    for name in sorted(touched & modules.keys()):
        expected = _expected_weight(modules[name])
        weight = getattr(modules[name], "weight", None)
        if expected is not None and weight is not None and tuple(weight.shape[: len(expected)]) != expected:
            said = f"weight {tuple(weight.shape)} instead of {expected} and kernel"
            raise PlanError(f"the plan does not agree with itself: it leaves a {said}", name)
    if optimizer is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(old) in held or old in optimizer.state for old in replaced):
            raise PlanError("it still holds a parameter that was replaced", "optimizer")


def _expected_weight(module: nn.Module) -> tuple[int, ...] | None:
    """The first dimensions of the weight according to the module's own attributes."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return module.out_channels, module.in_channels // module.groups
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return (module.num_features,) if isinstance(module, nn.modules.batchnorm._BatchNorm) else None


def _gate_hook(gate: Gate) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    removed = torch.tensor(gate.removed)

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # The unit's channel in the stream, where the norm writes into a wider one.
        stream = module.scatter_index if isinstance(module, Scattering) else None
        width = output.shape[gate.dim] if stream is None else len(stream)
        if max(gate.removed) >= width:
            raise PlanError(f"the plan gates channel {max(gate.removed)} of {width}", gate.module)
        index = removed.to(output.device)
        return output.index_fill(gate.dim, index if stream is None else stream[index], 0.0)

    return hook


def _module_setter(parent: nn.Module, child: str, module: nn.Module) -> Callable[[], None]:
    return item_setter(parent._modules, child, module)


def _popper(target: dict[Any, Any], key: Any) -> Callable[[], None]:
    def restore() -> None:
        target.pop(key, None)

    return restore
