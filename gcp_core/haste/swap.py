"""Replaces the convolutions of a finished model, and says which it leaves."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.cost import Cost, fit_to_model, measure_cost
from gcp_core.errors import ModelError
from gcp_core.haste.convolution import HasteConv2d, why_not
from gcp_core.haste.hashing import Hashing
from gcp_core.haste.tally import PARTS, Tally
from gcp_core.models.mode import mode

#: Why the first convolution is left: what the paper does there was not found, and three colours are no redundancy.
FIRST = "reads the images"


@dataclass(frozen=True)
class Swappable:
    """Which convolutions of a model can be replaced.

    Attributes:
        replaced: names of the convolutions, in the order in which they run.
        left: name -> why it is left as it is.
        cost: of the model as it is.
    """

    replaced: tuple[str, ...]
    left: dict[str, str]
    cost: Cost

    @property
    def untouched_macs(self) -> int:
        """Multiply-adds of an image outside the replaced convolutions."""
        return self.cost.macs - sum(self.cost.by_layer.get(name, 0) for name in self.replaced)


@dataclass(frozen=True)
class Swapped:
    """A copy of a model with its convolutions replaced; the original is as it was and shares no parameter.

    Call ``model`` on a batch, then :meth:`macs`.
    """

    model: nn.Module
    tally: Tally
    untouched_macs: int

    def macs(self) -> Tensor:
        """Multiply-adds of each image of the last batch, ``(N, 5)``, whole numbers: :data:`PARTS`, then all the rest."""
        parts = self.tally.take()
        return torch.cat([parts, parts.new_full((len(parts), 1), self.untouched_macs)], dim=1)


#: What :meth:`Swapped.macs` counts, in its order.
COUNTED = (*PARTS, "untouched")


def swappable(model: nn.Module, example_input: Tensor) -> Swappable:
    """Find what :func:`swap` replaces: convolutions of stride 1, without groups or dilation, with odd kernels.

    The convolution that runs first is left too, and so is one that does not run.

    Raises:
        ModelError: nothing can be replaced, or the model does not run on this input.
    """
    cost = measure_cost(model, example_input)
    order = _order(model, example_input)
    left, replaced = {}, []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        reason = why_not(module)
        if name not in order:
            reason = "does not run"
        elif name == order[0]:
            reason = FIRST
        if reason:
            left[name] = reason
        else:
            replaced.append(name)
    if not replaced:
        said = "; ".join(f"{name}: {reason}" for name, reason in left.items()) or "it has no convolution"
        raise ModelError(f"none of its convolutions can be replaced ({said})", "HASTE")
    return Swappable(tuple(sorted(replaced, key=order.index)), left, cost)


def swap(model: nn.Module, found: Swappable, hashing: Hashing, *, merged: bool = False) -> Swapped:
    """A copy of the model, in eval mode, whose convolutions hash their channels; see :class:`HasteConv2d`."""
    tally, changed = Tally(), copy.deepcopy(model)
    made = {
        conv: HasteConv2d(conv, name, hashing, tally, merged)
        for name in found.replaced
        if isinstance(conv := changed.get_submodule(name), nn.Conv2d)
    }
    # By every name, for a convolution may have several.
    for name, module in list(changed.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Conv2d) and module in made:
            parent, _, last = name.rpartition(".")
            setattr(changed.get_submodule(parent), last, made[module])
    return Swapped(changed.eval(), tally, found.untouched_macs)


def _order(model: nn.Module, example_input: Tensor) -> list[str]:
    """Names of the convolutions in the order in which they first run."""
    order: dict[str, None] = {}
    convs = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
        for name, module in convs
    ]
    try:
        with torch.no_grad(), mode(model, training=False):
            model(fit_to_model(example_input, model))
    finally:
        for hook in hooks:
            hook.remove()
    return list(order)
