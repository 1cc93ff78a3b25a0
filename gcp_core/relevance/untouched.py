"""Looking at a model without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gcp_core.errors import RelevanceError
from gcp_core.models.arithmetic import float32_products
from gcp_core.models.mode import mode


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point type of the weights; half precision is refused."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        raise RelevanceError("the model has no weights", "model")
    if weight.dtype not in (torch.float32, torch.float64):
        raise RelevanceError(
            f"weights of type {weight.dtype} cannot be scored",
            "model",
            "keep float32 weights and train under autocast",
        )
    return weight.device, weight.dtype


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without autocast and TF32, gradients possible; restores training flags, RNG and ``.grad`` too.

    Each module gets its own training flag back (a frozen batch norm inside a training model stays frozen).
    """
    device, _ = device_and_dtype(model)
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    cuda = [device] if device.type == "cuda" else []
    try:
        with (
            mode(model, training=False),
            torch.random.fork_rng(devices=cuda),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            # Differences of sums do not survive TF32.
            float32_products(),
        ):
            yield
    finally:
        for parameter, grad in grads:
            parameter.grad = grad
