"""What every suite needs: a run of all tests of a contract, and looks that must leave no trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.criteria import Batches

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def run_all(contract: Any) -> None:
    """Call every ``test_...`` of a contract; AssertionError at the first rule that is broken."""
    for name in dir(contract):
        if name.startswith("test_"):
            getattr(contract, name)()


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that a look at it must not change."""
    return {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "identity": [id(p) for p in model.parameters()],
        "grad": [None if p.grad is None else (id(p.grad), float(p.grad.sum())) for p in model.parameters()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in _HOOKS],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "rng": torch.get_rng_state(),
        "grad_mode": torch.is_grad_enabled(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what changed between two :func:`fingerprint` results; empty if nothing did."""
    changed = [key for key in before if key not in ("state", "rng") and before[key] != after[key]]
    if not torch.equal(before["rng"], after["rng"]):
        changed.append("rng")
    same_names = list(before["state"]) == list(after["state"])
    if not same_names or any(not torch.equal(before["state"][n], after["state"][n]) for n in before["state"]):
        changed.append("state")
    return changed


class Failure(RuntimeError):
    """Raised on purpose."""


class Failing:
    """Batches that break after the first one."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield next(iter(self._batches))
        raise Failure("the images cannot be read")


class Broken(nn.Module):
    """Fails at the end of the forward pass, with every hook of the layers before it already called."""

    def forward(self, x: Tensor) -> Tensor:
        raise Failure("broken module")


def traces(model: nn.Module, look: Callable[[], Any], allowed: tuple[str, ...] = ()) -> list[str]:
    """What a look, which may fail on purpose, has changed that it may not."""
    before = fingerprint(model)
    with contextlib.suppress(Failure):
        look()
    return [name for name in differences(before, fingerprint(model)) if name not in allowed]
