"""Networks for tests of surgery: float64, tiny images, weights under which no channel is dead or negligible."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gcp_core.models import build_model
from gcp_core.plan import Plan
from gcp_core.pruning.surgery import apply_plan, gate_channels


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 with random norms and scales of order one, without dropout or stochastic depth."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0.3, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, (nn.Dropout, nn.Dropout2d)) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        elif isinstance(module, nn.Linear):
            module.weight.data.normal_(0, module.in_features**-0.5, generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return model


def own_net(name: str, width: float = 0.25, seed: int = 0) -> nn.Module:
    """One of our networks, thin and lively."""
    torch.manual_seed(seed)
    return lively(build_model(name, 10, width=width), seed)


def images(number: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    """Standard-normal float64 images."""
    return torch.randn(
        number, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def random_scores(groups, seed: int = 0) -> dict[str, Tensor]:
    """A uniform score for every channel of every scored layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: torch.rand(size, generator=generator, dtype=torch.float64)
        for layer, size in groups.scored_layers().items()
    }


def logits(output) -> Tensor:
    """All logits of a model, auxiliary heads included, as one tensor."""
    return output if isinstance(output, Tensor) else torch.cat([part for part in output if part is not None])


def removed_against_gated(model: nn.Module, plan: Plan, x: Tensor) -> tuple[float, float]:
    """Largest relative difference of removed and gated model, and how far gating moves the plain model's logits.

    Both over eval and training mode (the second number is the smaller one: it shows that the gate does something).
    """
    worst, moved = 0.0, float("inf")
    for training in (False, True):
        whole = copy.deepcopy(model).train(training)
        small = copy.deepcopy(model).train(training)
        apply_plan(small, plan)
        with torch.no_grad():
            plain = logits(copy.deepcopy(whole)(x))
            with gate_channels(whole, plan):
                gated = logits(whole(x))
            removed = logits(small(x))
        scale = float(gated.abs().max())
        worst = max(worst, float((removed - gated).abs().max()) / scale)
        moved = min(moved, float((plain - gated).abs().max()) / scale)
    return worst, moved
