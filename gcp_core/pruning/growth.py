"""Growing back: the inverse of a cut. Groups get units, the function stays what it was.

New filters are random, what reads them starts at zero, so the grown model computes what it computed, in evaluation and
in training mode; from the first step on the zeros learn, and then the filters. Source of the idea: widths that grow as
well as shrink, Chen et al., "Network Adjustment", arXiv 2004.02767 (which trains anew at the new widths); how weights and
the optimiser's state grow without a restart is ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from gcp_core.errors import PlanError, did_you_mean
from gcp_core.groups import Groups, check_weights
from gcp_core.groups.structure import channels_of
from gcp_core.plan import AttributeChange, Growth, Insert, Plan
from gcp_core.pruning.fitness import check_attributes, check_kind
from gcp_core.pruning.undo import item_setter, setter
from gcp_core.seeds import generator

_KIND = "growth"
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

#: State tensors that hold sizes of past gradients. New entries get their mean: zeros would make the first steps too long.
_SIZES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf", "acc_delta")


def plan_growth(groups: Groups, added: Mapping[str, int], *, seed: int) -> Growth:
    """What it takes to give each group so many more units.

    A new unit has the shape of its group's last one: as many channels in every layer, right behind them.

    Raises:
        PlanError: no such group, a number that is not a whole one >= 0, or a group that is scattered into a residual
            stream, whose width is fixed.
    """
    for name, number in added.items():
        groups.group(name)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise PlanError(f"{number!r} is not a whole number of units >= 0", name)
    behind = {g.first_unit + g.size - 1: added[g.name] for g in groups.groups if added.get(g.name)}
    inserts = []
    for axis in groups.layout.axes:
        places = new_places(axis.units, behind)
        if not places:
            continue
        norm, _, short = axis.tensor.rpartition(".")
        if short == "scatter_index" or norm in groups.layout.scatters:
            raise PlanError(
                "units that are written into a residual stream cannot grow",
                next(g.name for g in groups.groups if added.get(g.name)),
                "use residual: coupled or inner",
            )
        inserts.append(Insert(axis.tensor, axis.dim, len(axis.units), places))
    changes = []
    for item in groups.layout.attributes:
        number = len(new_places(item.units, behind))
        if number:
            before, after = len(item.units) // item.per, (len(item.units) + number) // item.per
            changes.append(AttributeChange(item.module, item.name, before, after))
    return Growth({n: k for n, k in added.items() if k}, tuple(inserts), tuple(changes), seed)


def groups_after(groups: Groups, plan: Plan) -> Groups:
    """The groups of the model after ``plan``, with what it grows, without tracing it again; original sizes are kept."""
    groups = groups.after(plan)
    if plan.growth is None or not plan.growth.added:
        return groups
    added = plan.growth.added
    # Units are numbered anew: those of a group behind the ones that the groups before it have now.
    number, first, behind = np.full(groups.num_units + 1, -1), [0], {}
    for group in groups.groups:
        own = np.arange(group.size)
        number[group.first_unit + own] = first[-1] + own
        more = added.get(group.name, 0)
        if more:
            behind[group.first_unit + group.size - 1] = more
        first.append(first[-1] + group.size + more)

    def grown(units: np.ndarray) -> np.ndarray:
        if not len(units):
            return units
        found: list[int] = []
        ends = np.flatnonzero(np.append(units[1:] != units[:-1], True)) + 1
        for start, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            unit = int(units[start])
            for step in range(behind.get(unit, 0) + 1):
                found += [int(number[unit]) + step] * (stop - start)
        return np.array(found, dtype=units.dtype)

    layout = groups.layout.renumbered(grown)
    found = []
    for group, begin, end in zip(groups.groups, first, first[1:], strict=False):
        members = tuple(
            dataclasses.replace(m, channels=channels_of(layout.layers[m.layer], np.arange(begin, end)))
            for m in group.members
        )
        found.append(dataclasses.replace(group, members=members, first_unit=begin))
    return Groups(tuple(found), dict(groups.frozen), groups.residual, layout)


def new_places(units: np.ndarray, behind: Mapping[int, int]) -> tuple[int, ...]:
    """Indices that are new when every run of a unit in ``behind`` is followed by so many runs as long.

    >>> new_places(np.array([0, 0, 1, 1]), {1: 2})
    (4, 5, 6, 7)
    """
    return tuple(np.flatnonzero(widened(units, behind) < 0).tolist())


def widened(units: np.ndarray, behind: Mapping[int, int]) -> np.ndarray:
    """For each index of the wider axis the index it had before, -1 for a new one.

    A unit may hold a run of indices (the positions of a flattened channel): a new one gets a run as long.
    """
    starts = np.flatnonzero(np.append(True, units[1:] != units[:-1]))
    parts = []
    for start, stop in zip(starts, [*starts[1:], len(units)]):
        parts.append(np.arange(start, stop))
        parts.append(np.full(behind.get(int(units[start]), 0) * (stop - start), -1))
    return np.concatenate(parts)


def apply_growth(model: nn.Module, growth: Growth, optimizer: Optimizer | None = None) -> None:
    """Grow model and optimiser in place; on any error both stay as they were.

    New filters are normal with the size (root mean square) of the living ones, drawn from ``growth.seed``; norms start at
    scale 1, shift 0, mean 0, variance 1; the columns that read new units are zero in the filters that were there. Touched
    parameters are replaced by new ones in the same slot of the optimiser's parameter groups. Their state: momenta and
    first moments are zero in new entries, sizes of past gradients are their mean over the tensor, so that new weights
    take steps as long as the others. The units can be cut away again at once without a trace (``growth.inverse()``).

    Raises:
        PlanError: the growth does not fit the model or the optimiser.
        ModelError: weights that cannot be pruned (half precision, not finite, shared).
    """
    check_weights(model)
    inserts: dict[str, list[Insert]] = {}
    for insert in growth.inserts:
        inserts.setdefault(insert.tensor, []).append(insert)
    _check(model, growth, inserts, optimizer)
    undo: list[Callable[[], None]] = []
    try:
        modules = dict(model.named_modules())
        for name, parts in inserts.items():
            owner, _, short = name.rpartition(".")
            _replace(modules[owner], short, parts, growth.seed, optimizer, undo)
        for change in growth.attributes:
            undo.append(setter(modules[change.module], change.name, change.before))
            setattr(modules[change.module], change.name, change.after)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _check(
    model: nn.Module, growth: Growth, inserts: Mapping[str, list[Insert]], optimizer: Optimizer | None
) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, parts in inserts.items():
        if name not in tensors:
            raise PlanError(
                "the growth needs a tensor the model does not have", name, did_you_mean(name, tensors)
            )
        shape = tuple(tensors[name].shape)
        for part in parts:
            if not 0 <= part.dim < len(shape) or shape[part.dim] != part.size:
                said = f"size {part.size} along dimension {part.dim}"
                raise PlanError(f"the growth expects {said}, the model has shape {shape}", name)
            new = sorted(set(part.places))
            if len(new) != len(part.places) or not new or new[0] < 0 or new[-1] >= part.size + len(new):
                raise PlanError(f"places out of range or repeated along dimension {part.dim}", name)
    check_attributes(model, growth.attributes, "growth")
    if optimizer is not None:
        check_kind(optimizer)


def _replace(
    module: nn.Module,
    short: str,
    parts: list[Insert],
    seed: int,
    optimizer: Optimizer | None,
    undo: list[Callable[[], None]],
) -> None:
    """Put the larger tensor into its module, and into the optimiser with its state."""
    holder: dict[str, Any] = module._parameters if short in module._parameters else module._buffers
    old: Tensor | None = holder[short]
    if old is None:
        raise PlanError("the growth needs a tensor that is None", parts[0].tensor)
    new = _grown(old.detach(), parts, _start(module, short, old, parts, seed))
    undo.append(item_setter(holder, short, old))
    if not isinstance(old, nn.Parameter):
        holder[short] = new
        return
    parameter = nn.Parameter(new, requires_grad=old.requires_grad)
    grad = old.grad
    if grad is not None:
        parameter.grad = _grown(grad, parts, grad.new_zeros)
    holder[short] = parameter
    if optimizer is not None:
        _transplant(optimizer, old, parameter, parts, undo)


_Start = Callable[[tuple[int, ...]], Tensor]


def _start(module: nn.Module, short: str, old: Tensor, parts: list[Insert], seed: int) -> _Start:
    """What new entries of a tensor are, as a function of its new shape."""
    if isinstance(module, _LAYERS) and short == "weight":
        return lambda shape: _filters(shape, old, parts, seed)
    if isinstance(module, (*_LAYERS, _NormBase)):
        one = isinstance(module, _NormBase) and short in ("weight", "running_var")
        return lambda shape: old.new_full(shape, 1 if one else 0)
    mean = float(old.detach().double().mean()) if old.is_floating_point() and old.numel() else 0.0
    return lambda shape: old.new_full(shape, mean)


def _filters(shape: tuple[int, ...], old: Tensor, parts: list[Insert], seed: int) -> Tensor:
    """New rows are random, as large as the others; new columns of old rows are zero."""
    whole = old.new_zeros(shape)
    rows = next((part.places for part in parts if part.dim == 0), ())
    if rows:
        size = float(old.detach().double().square().mean().sqrt()) if old.numel() else 0.0
        size = size if size > 0 else max(1, old[0].numel()) ** -0.5
        rng = generator(seed, _KIND, parts[0].tensor)
        drawn = torch.randn(len(rows), *shape[1:], generator=rng, dtype=torch.float64) * size
        whole[list(rows)] = drawn.to(old.device, old.dtype)
    return whole


def _grown(old: Tensor, parts: list[Insert], start: _Start) -> Tensor:
    """``old`` at its places in a larger tensor that is ``start`` everywhere else; memory format is kept."""
    shape = list(old.shape)
    for part in parts:
        shape[part.dim] += len(part.places)
    new = start(tuple(shape)).clone()
    index = []
    for dim, size in enumerate(shape):
        fresh = {place for part in parts if part.dim == dim for place in part.places}
        index.append(torch.tensor([i for i in range(size) if i not in fresh], device=old.device))
    new[torch.meshgrid(*index, indexing="ij")] = old
    channels_last = (
        old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous()
    )
    return new.contiguous(memory_format=torch.channels_last) if channels_last else new


def _transplant(
    optimizer: Optimizer,
    old: nn.Parameter,
    new: nn.Parameter,
    parts: list[Insert],
    undo: list[Callable[[], None]],
) -> None:
    for group in optimizer.param_groups:
        if any(p is old for p in group["params"]):
            undo.append(item_setter(group, "params", group["params"]))
            group["params"] = [new if p is old else p for p in group["params"]]
    if old not in optimizer.state:
        return
    state = optimizer.state.pop(old)
    undo.append(item_setter(optimizer.state, old, state))
    undo.append(lambda: optimizer.state.pop(new, None))
    optimizer.state[new] = {key: _grown_state(key, value, old, parts) for key, value in state.items()}


def _grown_state(key: str, value: Any, old: nn.Parameter, parts: list[Insert]) -> Any:
    if not (isinstance(value, Tensor) and value.dim() > 0 and value.shape == old.shape):
        return value
    mean = float(value.double().mean()) if key in _SIZES and value.numel() else 0.0
    return _grown(value, parts, lambda shape: value.new_full(shape, mean))
