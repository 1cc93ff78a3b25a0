"""Which input columns a removal frees, by values: gate the units, run, and see which inputs are exactly zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcp_core.plan import Plan
from gcp_core.pruning.surgery import gate_channels


def zero_columns(model: nn.Module, image: Tensor, plan: Plan) -> dict[str, set[int]]:
    """Layer (ungrouped conv or linear) -> input channels that are zero everywhere while ``plan`` is gated.

    Sound for networks whose activations are not dead by themselves; choose weights accordingly.
    """
    seen: dict[str, set[int]] = {}

    def hook_for(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            channels = x if isinstance(module, nn.Linear) else x.movedim(1, -1)
            silent = (channels.reshape(-1, channels.shape[-1]) == 0).all(0)
            seen[name] = set(silent.nonzero().reshape(-1).tolist())

        return hook

    layers = [
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)
    ]
    handles = [m.register_forward_pre_hook(hook_for(name)) for name, m in layers]
    try:
        with torch.no_grad(), gate_channels(model, plan):
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return seen
