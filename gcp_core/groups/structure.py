"""Groups of units and everything known about them without the model: what a removal cuts and what is left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gcp_core.errors import PlanError, did_you_mean
from gcp_core.groups.labels import MacTerm
from gcp_core.plan import AttributeChange, Cut, Gate, Plan, Scatter, Skipped

#: Attributes of modules that say how wide their input is.
INPUTS = ("in_channels", "in_features")


@dataclass(frozen=True)
class Member:
    """A layer whose output channels belong to a group.

    Attributes:
        layer: module name of a conv or hidden linear layer.
        scored: whether its scores count (the last convs of residual blocks do, stem, shortcuts and gates do not).
        channels: per unit of the group the output channels of this layer that go with it.
    """

    layer: str
    scored: bool
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Units that touch the same layers.

    Attributes:
        name: layer name of the first scored member in forward order (a second group of it gets ``#2``).
        members: in forward order.
        first_unit: global number of its first unit; its units are consecutive.
        original_size: units before any removal.
    """

    name: str
    members: tuple[Member, ...]
    first_unit: int
    original_size: int

    @property
    def size(self) -> int:
        """Units alive."""
        return len(self.members[0].channels)

    def first_channels(self) -> list[int]:
        """Per unit the channel of the naming layer that it starts at; ties in a ranking go by it."""
        naming = next(member for member in self.members if member.scored)
        return [channels[0] for channels in naming.channels]


@dataclass(frozen=True)
class Consumer:
    """A layer that reads units of a group.

    Attributes:
        layer: module name of a conv or linear layer.
        columns: per unit of the group the input channels (of a linear layer: features) that are read from it; where
            ``conv_groups`` > 1, their places in each of the convolution's groups, as in dimension 1 of the weight.
        depthwise: a convolution whose filters each read their own channels: it has no column that could stand in for
            another one.
        conv_groups: in how many groups a convolution that is not depthwise reads its input.
    """

    layer: str
    columns: tuple[tuple[int, ...], ...]
    depthwise: bool = False
    conv_groups: int = 1


@dataclass(frozen=True)
class Edges:
    """Who makes the units of a group, and who reads them; in forward order."""

    producers: tuple[str, ...]
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True)
class Axis:
    """Index i of a tensor's dimension goes with ``units[i]`` (-1 = never)."""

    tensor: str
    dim: int
    units: np.ndarray


@dataclass(frozen=True)
class Attribute:
    """``module.name`` = living entries of ``units`` / ``per``."""

    module: str
    name: str
    units: np.ndarray
    per: int


@dataclass(frozen=True)
class GatePoint:
    """Where a module's output is zeroed when units are gated."""

    module: str
    dim: int
    units: np.ndarray


@dataclass(frozen=True)
class Layout:
    """How units sit in the model's tensors. Arrays hold global unit numbers, -1 for what is never removed.

    Attributes:
        param_shapes: trainable parameters by name (for the parameter count).
        terms: MACs of each conv and linear layer in eval mode; ``fixed_macs``: matrix products outside of them.
        scatters: batch norm -> width of the stream it writes into, where a branch may lose channels alone.
        layers: producing layer -> unit of each output channel, forward order.
    """

    axes: tuple[Axis, ...]
    attributes: tuple[Attribute, ...]
    gates: tuple[GatePoint, ...]
    terms: tuple[MacTerm, ...]
    fixed_macs: int
    scatters: dict[str, int]
    layers: dict[str, np.ndarray]
    param_shapes: dict[str, tuple[int, ...]]

    def renumbered(self, change: Callable[[np.ndarray], np.ndarray]) -> Layout:
        """The layout after a change of the units: ``change`` takes the units along an axis to those that it then has."""
        axes = tuple(replace(a, units=change(a.units)) for a in self.axes)
        shapes = {name: list(shape) for name, shape in self.param_shapes.items()}
        for axis in axes:
            if axis.tensor in shapes:
                shapes[axis.tensor][axis.dim] = len(axis.units)
        return Layout(
            axes=axes,
            attributes=tuple(replace(a, units=change(a.units)) for a in self.attributes),
            gates=tuple(replace(g, units=change(g.units)) for g in self.gates),
            terms=tuple(replace(t, outs=change(t.outs), ins=change(t.ins)) for t in self.terms),
            fixed_macs=self.fixed_macs,
            scatters=self.scatters,
            layers={layer: change(units) for layer, units in self.layers.items()},
            param_shapes={name: tuple(shape) for name, shape in shapes.items()},
        )


@dataclass(frozen=True, eq=False)
class Groups:
    """All prunable units of one model, as it is now.

    Attributes:
        groups: in forward order.
        frozen: layer -> why (some of) its channels are never pruned.
        residual: ``coupled``, ``scatter`` or ``inner``.
        layout: where the units sit; for surgery and cost.
    """

    groups: tuple[Group, ...]
    frozen: dict[str, str]
    residual: str
    layout: Layout

    @property
    def num_units(self) -> int:
        """Units alive."""
        return sum(group.size for group in self.groups)

    def group(self, name: str) -> Group:
        """The group called ``name``.

        Raises:
            PlanError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise PlanError("no such group", name, did_you_mean(name, [g.name for g in self.groups]))

    def scored_layers(self) -> dict[str, int]:
        """Layers whose scores count -> number of their output channels, in forward order."""
        scored = {m.layer for group in self.groups for m in group.members if m.scored}
        return {layer: len(units) for layer, units in self.layout.layers.items() if layer in scored}

    def linear_layers(self) -> frozenset[str]:
        """The producing layers that are linear (the others are convolutions)."""
        return frozenset(item.module for item in self.layout.attributes if item.name == "out_features")

    def edges(self) -> dict[str, Edges]:
        """Group name -> its producing and its consuming layers, of the model as it is now.

        A group has no consumer where what it makes is added into a stream that keeps its width (``scatter``).
        """
        inputs = {a.module: a.units for a in self.layout.attributes if a.name in INPUTS}
        columns = {a.tensor: a.units for a in self.layout.axes if a.dim == 1}
        found = {}
        for group in self.groups:
            wanted = np.arange(group.first_unit, group.first_unit + group.size)
            consumers = []
            for layer, units in inputs.items():
                own = columns.get(f"{layer}.weight")
                if np.isin(units, wanted).any():
                    read = channels_of(units if own is None else own, wanted)
                    times = 1 if own is None else len(units) // len(own)
                    consumers.append(Consumer(layer, read, own is None, times))
            found[group.name] = Edges(tuple(member.layer for member in group.members), tuple(consumers))
        return found

    def cost(self, removed: Mapping[str, Collection[int]] | None = None) -> tuple[int, int]:
        """``(macs, params)`` of the model with these units gone: one image, eval mode; trainable parameters."""
        return self.cost_of_mask(self.alive_mask(removed or {}))

    def alive_mask(self, removed: Mapping[str, Collection[int]]) -> np.ndarray:
        """``(num_units,)`` bool, False at the given units (group name -> units).

        Raises:
            PlanError: no such group or unit.
        """
        alive = np.ones(self.num_units, dtype=bool)
        for name, units in removed.items():
            group = self.group(name)
            for unit in units:
                if not 0 <= unit < group.size:
                    raise PlanError(f"no unit {unit}; it has {group.size}", name)
                alive[group.first_unit + unit] = False
        return alive

    def cost_of_mask(self, alive: np.ndarray) -> tuple[int, int]:
        """``(macs, params)`` of the units where ``alive`` (``(num_units,)`` bool) is True."""
        # One extra True at the end, where the index -1 ("never removed") points.
        living = np.append(alive, True)
        macs = self.layout.fixed_macs
        for term in self.layout.terms:
            macs += term.factor * int(living[term.outs].sum()) * int(living[term.ins].sum())
        sizes = {name: list(shape) for name, shape in self.layout.param_shapes.items()}
        for axis in self.layout.axes:
            if axis.tensor in sizes:
                sizes[axis.tensor][axis.dim] = int(living[axis.units].sum())
        return int(macs), sum(int(np.prod(shape, dtype=np.int64)) for shape in sizes.values())

    def marginal_cost(self, of: str) -> np.ndarray:
        """``(num_units,)`` float64: MACs (or params) that go when this unit alone goes."""
        saved = np.zeros(self.num_units + 1)
        if of == "macs":
            for term in self.layout.terms:
                np.add.at(saved, term.outs, term.factor * len(term.ins))
                np.add.at(saved, term.ins, term.factor * len(term.outs))
        else:
            for axis in self.layout.axes:
                shape = self.layout.param_shapes.get(axis.tensor)
                if shape is not None:
                    np.add.at(saved, axis.units, float(np.prod(shape)) / max(shape[axis.dim], 1))
        return saved[:-1]

    def plan(
        self,
        removed: Mapping[str, Collection[int]],
        *,
        skipped: Sequence[Skipped] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> Plan:
        """The plan that removes these units (group name -> units, any order)."""
        alive = np.append(self.alive_mask(removed), True)
        layout = self.layout
        cuts, touched = [], set()
        for axis in layout.axes:
            gone = np.flatnonzero(~alive[axis.units])
            if len(gone):
                cuts.append(Cut(axis.tensor, axis.dim, len(axis.units), tuple(gone.tolist())))
                touched.add(axis.tensor)
        changes = []
        for item in layout.attributes:
            after = int(alive[item.units].sum())
            if after != len(item.units):
                before = len(item.units) // item.per
                changes.append(AttributeChange(item.module, item.name, before, after // item.per))
        gates = [(g, np.flatnonzero(~alive[g.units])) for g in layout.gates]
        ordered = {
            g.name: tuple(sorted({int(u) for u in removed[g.name]})) for g in self.groups if g.name in removed
        }
        return Plan(
            removed={name: units for name, units in ordered.items() if units},
            cuts=tuple(cuts),
            attributes=tuple(changes),
            scatters=tuple(
                Scatter(n, w) for n, w in layout.scatters.items() if f"{n}.scatter_index" in touched
            ),
            gates=tuple(Gate(g.module, g.dim, tuple(gone.tolist())) for g, gone in gates if len(gone)),
            skipped=tuple(skipped),
            meta=dict(meta or {}),
        )

    def after(self, plan: Plan) -> Groups:
        """The groups of the model after ``plan``, without tracing it again; original sizes are kept."""
        alive = self.alive_mask(plan.removed)
        number = np.append(np.where(alive, np.cumsum(alive) - 1, -2), -1)

        def kept(units: np.ndarray) -> np.ndarray:
            new = number[units]
            return new[new != -2]

        layout = self.layout.renumbered(kept)
        groups = tuple(_shrunk(group, number, layout.layers) for group in self.groups)
        return Groups(groups, dict(self.frozen), self.residual, layout)


def _shrunk(group: Group, number: np.ndarray, layers: Mapping[str, np.ndarray]) -> Group:
    new = number[group.first_unit : group.first_unit + group.size]
    new = new[new >= 0]
    members = tuple(replace(m, channels=channels_of(layers[m.layer], new)) for m in group.members)
    return Group(group.name, members, int(new[0]), group.original_size)


def channels_of(units: np.ndarray, wanted: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Per wanted unit the channels (ascending) of a layer whose channel i belongs to ``units[i]``."""
    place = {int(unit): position for position, unit in enumerate(wanted)}
    channels: list[list[int]] = [[] for _ in place]
    for channel, unit in enumerate(units.tolist()):
        position = place.get(unit)
        if position is not None:
            channels[position].append(channel)
    return tuple(tuple(c) for c in channels)
