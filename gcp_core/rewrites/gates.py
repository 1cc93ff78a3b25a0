"""Gates at batch norms: how they are put into a network, folded away, and taken through a cut.

A gate wraps its norm, so a model's modules have other names while gates are on (``bn1.norm`` for ``bn1``). A gate changes
what its norm gives, channel by channel, and closes channels: it is folded into the norm and the layer in front of it.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcp_core.errors import ConfigError
from gcp_core.plan import Plan
from gcp_core.rewrites.base import Lifted
from gcp_core.rewrites.places import Place, find_places
from gcp_core.scatter import Scattering

_log = logging.getLogger(__name__)

#: A channel is open where its chance is above this.
HALF = 0.5


class Gate(nn.Module):
    """A norm with a gate behind it; where the norm writes into a wider stream, the gate stands before that.

    Attributes:
        place: where it stands.
        norm: the norm itself, not a copy.
    """

    def __init__(self, place: Place, norm: _BatchNorm) -> None:
        super().__init__()
        self.place, self.norm = place, norm

    def forward(self, x: Tensor) -> Tensor:
        """What the norm gives, gated; same shape."""
        y: Tensor = self.norm(x)
        if not isinstance(self.norm, Scattering):
            return self.act(y)
        own = y.index_select(1, self.norm.scatter_index)
        return torch.zeros_like(y).index_copy_(1, self.norm.scatter_index, self.act(own))

    @abstractmethod
    def act(self, y: Tensor) -> Tensor:
        """The gate: ``(N, C, ...)`` of the norm's own channels -> the same shape."""

    @abstractmethod
    def chance(self) -> Tensor:
        """``(C,)`` how likely each channel is open, 0..1: what the gate has learned so far."""

    def mask(self) -> Tensor:
        """``(C,)`` what each channel is multiplied by in eval mode, 0..1: here 1 (True) above a chance of 1/2, else 0."""
        return majority(self.chance())

    def fold_into(self, layer: nn.Module) -> list[nn.Parameter]:
        """Move the gate, as it is in eval mode but for the mask, into layer and norm; the parameters that changed."""
        return []

    @abstractmethod
    def after(self, norm: _BatchNorm, kept: Tensor, gone: Tensor) -> Gate:
        """The gate of what is left of the norm: indices ``kept`` and ``gone`` of its former channels."""

    @abstractmethod
    def macs(self, batch_size: int) -> float:
        """Multiply-adds per image of a training forward pass, without the norm's."""


def majority(chance: Tensor) -> Tensor:
    """``(..., C)`` bool: chances above 1/2.

    A layer that is closed as a whole would end the network: the channel with the best chance stays open.
    """
    best = torch.nn.functional.one_hot(chance.argmax(-1), chance.shape[-1]).bool()
    open_ = chance > HALF
    return open_ | (best & ~open_.any(-1, keepdim=True))


class NormGates:
    """Base of a rewrite that puts a :class:`Gate` at norms.

    Attributes:
        lr, weight_decay: of the gates' own parameters, see :class:`gcp_core.rewrites.Rewrite`.
    """

    lr: float = 1.0
    weight_decay: float = 0.0
    moves_statistics: bool = True

    @abstractmethod
    def gate(self, place: Place, norm: _BatchNorm) -> Gate:
        """A fresh gate."""

    def refuses(self, layer: nn.Module) -> str:
        """Why no gate can stand behind this layer, "" = one can."""
        return ""

    def install(self, model: nn.Module, example: Tensor) -> None:
        """A gate at every norm that alone reads the output of one layer; others are left as they are, and logged.

        Raises:
            ConfigError: there is no such norm.
        """
        places, left = find_places(model, example)
        stand = []
        for place in places:
            reason = self.refuses(model.get_submodule(place.layer))
            if reason:
                left[place.norm] = f"{place.layer} {reason}"
            else:
                stand.append(place)
        if not stand:
            why = "; ".join(f"{norm}: {reason}" for norm, reason in list(left.items())[:3])
            raise ConfigError(
                "the network has no batch norm that gates can stand at",
                "train.rewrite",
                why or "gates stand at norms behind layers; train.rewrite: none",
            )
        for norm, reason in left.items():
            _log.warning("no gate at %s: %s", norm, reason)
        for place in stand:
            module = model.get_submodule(place.norm)
            assert isinstance(module, _BatchNorm)
            _put(model, place.norm, self.gate(place, module).train(module.training))

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """Masks and all."""
        for gate in list(gates_of(model)):
            norm, mask = gate.norm, gate.mask()
            gate.fold_into(model.get_submodule(gate.place.layer))
            norm.weight.mul_(mask)
            norm.bias.mul_(mask)
            _put(model, gate.place.norm, norm)

    @torch.no_grad()
    def lift(self, model: nn.Module) -> Lifted:
        """Without the masks."""
        gates, rewritten = list(gates_of(model)), []
        for gate in gates:
            rewritten += gate.fold_into(model.get_submodule(gate.place.layer))
            _put(model, gate.place.norm, gate.norm)
        return Lifted(gates, tuple(rewritten))

    @torch.no_grad()
    def again(self, model: nn.Module, lifted: Lifted, plan: Plan) -> None:
        """Gates are cut by the indices that their norms lose."""
        removed = {cut.tensor: cut.removed for cut in plan.cuts if cut.dim == 0}
        for gate in lifted.learned:
            norm = model.get_submodule(gate.place.norm)
            assert isinstance(norm, _BatchNorm)
            gone = set(removed.get(f"{gate.place.norm}.weight", ()))
            kept = [c for c in range(norm.weight.numel() + len(gone)) if c not in gone]
            device = norm.weight.device
            new = gate.after(
                norm, torch.tensor(kept, device=device), torch.tensor(sorted(gone), device=device).long()
            )
            _put(model, gate.place.norm, new.train(norm.training))

    def own(self, model: nn.Module) -> list[nn.Parameter]:
        """Parameters of gates that are not their norms'."""
        return [p for gate in gates_of(model) for p in gate.parameters(recurse=False)]

    def macs(self, model: nn.Module, batch_size: int) -> float:
        """Of all gates."""
        return sum(gate.macs(batch_size) for gate in gates_of(model))


def gates_of(model: nn.Module) -> Iterator[Gate]:
    """The gates of a model, in the order of its modules."""
    return (module for module in model.modules() if isinstance(module, Gate))


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = module
