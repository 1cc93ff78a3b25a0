"""From a model and one example input to its groups."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from gcp_core.cost import fit_to_model, measure_cost
from gcp_core.cost.macs import runs_on
from gcp_core.errors import ModelError, PlanError, did_you_mean
from gcp_core.groups.join_ops import JOIN_HANDLERS, default
from gcp_core.groups.labels import MacTerm
from gcp_core.groups.layer_ops import LAYER_HANDLERS, LAYERS
from gcp_core.groups.shape_ops import SHAPE_HANDLERS
from gcp_core.groups.size_ops import SIZE_HANDLERS
from gcp_core.groups.structure import (
    INPUTS,
    Attribute,
    Axis,
    GatePoint,
    Group,
    Groups,
    Layout,
    Member,
    channels_of,
)
from gcp_core.groups.trace import Tracer
from gcp_core.models.mode import mode, untouched
from gcp_core.scatter import can_scatter

_log = logging.getLogger(__name__)
_HANDLERS = {**JOIN_HANDLERS, **SHAPE_HANDLERS, **SIZE_HANDLERS, **LAYER_HANDLERS}
_MODES = ("coupled", "scatter", "inner")


def find_groups(
    model: nn.Module, example_input: Tensor, *, residual: str = "coupled", exclude: Sequence[str] = ()
) -> Groups:
    """Which channels can be removed, and what must go together; the model is left as it was.

    One forward is traced in eval mode, a second one in training mode if parameters stay unused (auxiliary heads). Layers
    that run in training mode only keep their channels; what they read is cut along.

    Args:
        example_input: ``(N, C, H, W)``; the first image is used, moved to the model's device and type.
        residual: ``coupled`` ties a stage's stream channels; ``scatter`` lets each block's last conv lose channels
            on its own (the paper's removal); ``inner`` leaves everything a residual sum touches.
        exclude: module-name patterns (``fnmatch``) of layers whose channels are never removed; a module that holds layers
            stands for all of them.

    Raises:
        ModelError: half-precision or non-finite weights, an input that does not fit, a parameter with two names, nothing
            to prune.
        PlanError: an unknown residual mode.
    """
    if residual not in _MODES:
        raise PlanError(f"{residual!r} is unknown", "residual", did_you_mean(residual, _MODES))
    check_weights(model)
    tracer = Tracer(model, _HANDLERS, default, residual)
    terms = _watch(tracer, model, fit_to_model(example_input, model), example_input)
    _freeze_scatters_that_cannot_be(tracer)
    _freeze_what_nobody_reads(tracer)
    for pattern in exclude:
        matched = [p for p in tracer.producers.values() if _named_by(pattern, p.layer)]
        if not matched:
            _log.warning("exclude pattern %r matches no conv or linear layer", pattern)
        for producer in matched:
            tracer.atoms.freeze(producer.atoms, f"excluded by {pattern!r}")
    return _build(tracer, model, terms, example_input)


def _named_by(pattern: str, layer: str) -> bool:
    """Whether the pattern names the layer, or a module that the layer is in."""
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")


def check_weights(model: nn.Module) -> None:
    """Refuse weights that cannot be pruned while training.

    Raises:
        ModelError: a parameter is half-precision, not finite, or registered under two names.
    """
    seen: dict[int, str] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if id(tensor) in seen:
            hint = "shared modules and tied weights cannot be pruned"
            raise ModelError(f"the same parameter is also registered as {seen[id(tensor)]!r}", name, hint)
        seen[id(tensor)] = name
        if tensor.dtype in (torch.float16, torch.bfloat16):
            hint = "keep the weights in float32 and train under autocast"
            raise ModelError(f"half-precision weights ({tensor.dtype}) cannot be pruned", name, hint)
        # The sum is the cheap test; only a sum that is not finite needs the exact one.
        if not math.isfinite(float(tensor.detach().sum())) and not bool(
            torch.isfinite(tensor.detach()).all()
        ):
            raise ModelError("the weights are not finite", name, "has training diverged?")


def _watch(tracer: Tracer, model: nn.Module, image: Tensor, given: Tensor) -> list[MacTerm]:
    """Trace the eval forward, and the training forward if that uses more; returns the eval forward's MACs."""
    with mode(model, training=False), untouched(model, image.device), runs_on(given):
        tracer.watch(model, image)
        terms = list(tracer.terms)
        if any(name not in tracer.touched and p.dim() > 1 for name, p in model.named_parameters()):
            evaluated = set(tracer.producers)
            model.train()
            tracer.watch(model, image)
            _freeze_what_only_trains(tracer, evaluated)
    return terms


def _freeze_what_only_trains(tracer: Tracer, evaluated: set[str]) -> None:
    """Whoever scores channels looks in eval mode: it would see nothing of these, and take them first."""
    for layer, producer in tracer.producers.items():
        if layer not in evaluated:
            tracer.atoms.freeze(producer.atoms, "it runs in training mode only")


def _freeze_scatters_that_cannot_be(tracer: Tracer) -> None:
    """A norm of an unknown kind, or one whose output is read by more than the residual sum, stays as it is."""
    for norm in sorted(tracer.scatter):
        module = tracer.modules[norm]
        if norm in tracer.norm_uses:
            reason = "feeds more than the residual sum"
        elif not can_scatter(module):
            kind = type(module).__name__
            reason = (
                f"is {'an' if kind[0] in 'AEIOU' else 'a'} {kind}, which cannot write into a wider stream"
            )
        else:
            continue
        tracer.atoms.freeze(tracer.scatter.pop(norm), f"{norm} {reason}")


def _freeze_what_nobody_reads(tracer: Tracer) -> None:
    """Channels that end in nothing: a kernel reads them, of which not even a tensor operation is seen."""
    readers: dict[int, set[str]] = {}
    makers: dict[int, set[str]] = {}

    def note(where: dict[int, set[str]], atoms: np.ndarray, name: str) -> None:
        for root in tracer.atoms.classes(atoms):
            where.setdefault(root, set()).add(name)

    for (module, attribute), (atoms, _) in tracer.attributes.items():
        if attribute in INPUTS:
            note(readers, atoms, module)
    for (tensor, _), atoms in tracer.axes.items():
        if tensor.endswith("scatter_index"):
            note(readers, atoms, tensor)
    for norm, atoms in tracer.scatter.items():
        note(readers, atoms, norm)
    for producer in tracer.producers.values():
        note(makers, producer.atoms, producer.layer)
    # A depthwise convolution reads the channels that it makes: that alone brings them nowhere.
    lost = [root for root, layers in makers.items() if not readers.get(root, set()) - layers]
    tracer.atoms.freeze(np.array(lost, dtype=np.int64), "no layer is seen to read it (is it scripted?)")


def _build(tracer: Tracer, model: nn.Module, terms: list[MacTerm], example_input: Tensor) -> Groups:
    unit_of = _UnitNumbers(tracer)
    groups = _make_groups(tracer, unit_of)
    frozen = _frozen_layers(tracer)
    if not groups:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in list(frozen.items())[:5])
        raise ModelError(
            "the model has no prunable group", "model", why or "it has no conv or hidden linear layer"
        )
    layout = _layout(tracer, model, unit_of, terms)
    found = Groups(groups, frozen, tracer.residual, layout)
    if tracer.contractions:
        rest = measure_cost(model, example_input).macs - found.cost()[0]
        found = Groups(groups, frozen, tracer.residual, _with_fixed_macs(layout, rest))
    return found


def _with_fixed_macs(layout: Layout, macs: int) -> Layout:
    return replace(layout, fixed_macs=macs)


class _UnitNumbers:
    """Global unit numbers: groups in forward order, units by their first channel."""

    def __init__(self, tracer: Tracer) -> None:
        atoms = tracer.atoms
        owners: dict[int, dict[str, None]] = {}
        for producer in tracer.producers.values():
            for atom in producer.atoms.tolist():
                if atoms.reason(atom) is None:
                    owners.setdefault(atoms.find(atom), {})[producer.layer] = None
        #: layers that a group touches -> its classes of atoms, both in forward order.
        self.classes: dict[tuple[str, ...], list[int]] = {}
        for root, layers in owners.items():
            self.classes.setdefault(tuple(layers), []).append(root)
        self._atoms = atoms
        self.scored = {layers: _scored(tracer, layers) for layers in self.classes}
        self._order_units(tracer)
        number: dict[int, int] = {}
        for roots in self.classes.values():
            for root in roots:
                number[root] = len(number)
        self._unit = np.array([number.get(atoms.find(a), -1) for a in range(len(atoms))], dtype=np.int64)

    def _order_units(self, tracer: Tracer) -> None:
        """Sort groups by their naming layer's place in the forward, units by their first channel in it."""
        order = {layer: i for i, layer in enumerate(tracer.producers)}
        naming = {layers: next(x for x in layers if x in self.scored[layers]) for layers in self.classes}
        found: dict[tuple[str, ...], list[int]] = {}
        first: dict[tuple[str, ...], int] = {}
        for layers, roots in self.classes.items():
            wanted = set(roots)
            seen: dict[int, int] = {}
            for channel, atom in enumerate(tracer.producers[naming[layers]].atoms.tolist()):
                root = self._atoms.find(atom)
                if root in wanted:
                    seen.setdefault(root, channel)
            found[layers] = sorted(seen, key=lambda root: seen[root])
            first[layers] = min(seen.values())
        self.classes = {k: found[k] for k in sorted(found, key=lambda k: (order[naming[k]], first[k]))}

    def of(self, atoms: np.ndarray) -> np.ndarray:
        """Unit of each atom, -1 for what is never removed."""
        return self._unit[atoms]


def _scored(tracer: Tracer, layers: tuple[str, ...]) -> frozenset[str]:
    passive = (tracer.skip | tracer.gate) - tracer.branch
    scored = frozenset(layer for layer in layers if layer not in passive)
    return scored or frozenset(layers)


def _make_groups(tracer: Tracer, unit_of: _UnitNumbers) -> tuple[Group, ...]:
    groups: list[Group] = []
    names: Counter[str] = Counter()
    first = 0
    order = {layer: i for i, layer in enumerate(tracer.producers)}
    for layers, roots in unit_of.classes.items():
        scored = unit_of.scored[layers]
        wanted = np.arange(first, first + len(roots))
        members = tuple(
            Member(layer, layer in scored, channels_of(unit_of.of(tracer.producers[layer].atoms), wanted))
            for layer in sorted(layers, key=order.__getitem__)
        )
        base = next(m.layer for m in members if m.scored)
        names[base] += 1
        name = base if names[base] == 1 else f"{base}#{names[base]}"
        groups.append(Group(name, members, first, len(roots)))
        first += len(roots)
    return tuple(groups)


def _frozen_layers(tracer: Tracer) -> dict[str, str]:
    frozen = {}
    for producer in tracer.producers.values():
        reasons = [reason for a in producer.atoms.tolist() if (reason := tracer.atoms.reason(a)) is not None]
        if reasons:
            part = "" if len(reasons) == producer.size else f" ({len(reasons)} of {producer.size} channels)"
            frozen[producer.layer] = reasons[0] + part
    for name, module in tracer.modules.items():
        if isinstance(module, LAYERS) and module._parameters.get("weight") is None:
            frozen[name] = "its weight is computed at every call (weight norm, spectral norm, a mask)"
    return frozen


def _layout(tracer: Tracer, model: nn.Module, unit_of: _UnitNumbers, terms: list[MacTerm]) -> Layout:
    gates = [GatePoint(layer, 1, unit_of.of(atoms)) for layer, atoms in tracer.norms.items()]
    for layer in (layer for layer in tracer.producers if layer in tracer.raw):
        producer = tracer.producers[layer]
        gates.append(GatePoint(layer, producer.dim, unit_of.of(producer.atoms)))
    axes = dict(tracer.axes)
    scatters = {norm: len(atoms) for norm, atoms in tracer.scatter.items()}
    for norm in scatters:
        axes.setdefault((f"{norm}.scatter_index", 0), tracer.scatter[norm])
    for name, module in tracer.modules.items():
        if f"{name}.scatter_index" in tracer.touched:
            scatters[name] = int(module.full_channels)
    return Layout(
        axes=tuple(Axis(tensor, dim, unit_of.of(atoms)) for (tensor, dim), atoms in axes.items()),
        attributes=tuple(
            Attribute(m, n, unit_of.of(a), per) for (m, n), (a, per) in tracer.attributes.items()
        ),
        gates=tuple(gates),
        terms=tuple(MacTerm(t.layer, t.factor, unit_of.of(t.outs), unit_of.of(t.ins)) for t in terms),
        fixed_macs=0,
        scatters=scatters,
        layers={p.layer: unit_of.of(p.atoms) for p in tracer.producers.values()},
        param_shapes={n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad},
    )
