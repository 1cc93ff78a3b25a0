"""Looking at a model without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import nn

from gcp_core.errors import RelevanceError


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
    flags = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    cuda = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices=cuda),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            _full_float32(),
        ):
            model.eval()
            yield
    finally:
        for module, training in flags:
            module.training = training
        for parameter, grad in grads:
            parameter.grad = grad


@contextmanager
def _full_float32() -> Iterator[None]:
    """Float32 products in float32: differences of sums do not survive TF32, cuDNN's default for convolutions."""
    switches = attrgetter("cudnn.conv", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul")(torch.backends)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before):
            switch.fp32_precision = precision
