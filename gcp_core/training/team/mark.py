"""Whether processes have the same model and the same optimiser: what they tell each other to find out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gcp_core.config import digest
from gcp_core.records.checkpoint import plans_to_json, weights_digest
from gcp_core.training.state import State

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def mark_of(state: State) -> str:
    """Names weights, buffers, momenta and plans, quickly: sums of their bits, which no order of adding changes."""
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in _tensors(state):
        bits = tensor.view(_BITS[tensor.element_size()])
        sums.setdefault(tensor.device, []).append(bits.sum(dtype=torch.int64))
    # One look at each device.
    found = [torch.stack(each).tolist() for each in sums.values()]
    effects = [plan.effect() for plan in state.plans]
    return digest([sorted(found), effects])


def marks_of(state: State) -> dict[str, str]:
    """Names plans, weights with buffers, and optimiser state each, exactly (SHA-256)."""
    momenta = {
        f"{number}.{name}": value
        for number, values in state.optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    return {
        "plans": digest(plans_to_json(state.plans)),
        "weights": weights_digest(state.model.state_dict()),
        "optimizer": weights_digest(momenta),
    }


def _tensors(state: State) -> Iterator[Tensor]:
    yield from (tensor for tensor in state.model.state_dict().values() if tensor.numel())
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            values = state.optimizer.state.get(parameter, {})
            yield from (values[name] for name in sorted(values) if isinstance(values[name], Tensor))
