"""MACs by counting loops: output positions times kernel volume times inputs of one filter, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def count_macs(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Layer name -> multiply-adds of one forward of ``image`` (batch 1), from hooks on conv and linear modules."""
    found: dict[str, int] = {}

    def hook_for(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Linear):
                found[name] = output.numel() * module.in_features
            else:
                kernel = 1
                for size in module.kernel_size:
                    kernel *= size
                found[name] = output.numel() * kernel * (module.in_channels // module.groups)

        return hook

    handles = [
        module.register_forward_hook(hook_for(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(image)
    model.train(training)
    for handle in handles:
        handle.remove()
    return found
