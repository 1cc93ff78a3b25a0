"""What a model costs: multiply-adds by torch's own counter, and trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.errors import ModelError
from gcp_core.models.eager import EagerMode, FlopCounter
from gcp_core.models.mode import mode

# Work that grows with the number of elements only; a MAC count leaves it out by definition.
_CHEAP = (
    *("native_batch_norm", "batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "native_layer_norm"),
    *(
        "native_group_norm",
        "native_dropout",
        "max_pool",
        "avg_pool",
        "adaptive",
        "mean",
        "sum",
        "amax",
        "max",
    ),
    *("cat", "stack", "clone", "copy", "to_copy", "empty", "new_", "zeros", "ones", "full", "arange", "fill"),
    *(
        "index",
        "scatter",
        "gather",
        "softmax",
        "log_softmax",
        "pad",
        "constant_pad",
        "bernoulli",
        "rand",
        "as_strided",
    ),
    *(
        "roll",
        "upsample",
        "repeat",
        "hardtanh",
        "hardswish",
        "unsafe_view",
        "resize",
        "detach",
        "lift",
        "pixel",
    ),
    *(
        "reflection",
        "replication",
        "split",
        "unbind",
        "expand",
        "lerp",
        "native_channel_shuffle",
        "channel_shuffle",
    ),
    *("zero", "local_scalar_dense"),
)


@dataclass(frozen=True)
class Cost:
    """Cost of one forward of one image.

    Attributes:
        macs: multiply-adds of convolutions, linear layers and matrix products (FLOPs = 2 x MACs).
        params: trainable parameters, batch norm included.
        by_layer: module name -> MACs (modules with any).
        uncounted: aten operation -> calls, for operations that may multiply matrices inside and that the counter
            has no formula for (``torch.cdist``, say); empty for ordinary CNNs.
    """

    macs: int
    params: int
    by_layer: dict[str, int]
    uncounted: dict[str, int]


def count_params(model: nn.Module) -> int:
    """Trainable parameters, batch norm included, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def measure_cost(model: nn.Module, example_input: Tensor) -> Cost:
    """Count one eval forward of one image; the model's mode and buffers stay as they are.

    Args:
        example_input: ``(N, C, H, W)``; only the first image is used.

    Raises:
        ModelError: the model does not run on this input.
    """
    counter = FlopCounter(display=False)
    unknown = _UnknownOps(counter)
    image = fit_to_model(example_input, model)
    with (
        mode(model, training=False),
        runs_on(example_input),
        torch.no_grad(),
        _attention_in_the_open(),
        unknown,
        counter,
    ):
        model(image)
    return Cost(counter.get_total_flops() // 2, count_params(model), _by_layer(counter, model), unknown.calls)


#: What a forward pass raises that is given another input than it was written for, or is not right itself.
_OF_A_MODEL = (
    RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError, KeyError, NameError,
)  # fmt: skip


@contextmanager
def runs_on(example_input: Tensor) -> Iterator[None]:
    """Inside, a model runs on this input.

    Raises:
        ModelError: it does not; what it raised is in the message.
        OutOfMemoryError: a GPU has no room, which says nothing of the model.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _OF_A_MODEL as exc:
        shape, said = tuple(example_input.shape), str(exc) or type(exc).__name__
        # What torch says where channels or sizes do not fit.
        hint = "images have this shape: does the model take it?" if isinstance(exc, RuntimeError) else ""
        raise ModelError(
            f"the model does not run on an input of shape {shape}: {said}", "example_input", hint
        ) from exc


@contextmanager
def _attention_in_the_open() -> Iterator[None]:
    """Attention modules without their fused inference kernels: those hide all their products from the counter."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def fit_to_model(example_input: Tensor, model: nn.Module) -> Tensor:
    """The first image of ``example_input``, on the model's device and in its floating type."""
    if not isinstance(example_input, Tensor) or example_input.dim() < 2 or len(example_input) == 0:
        given = (
            tuple(example_input.shape) if isinstance(example_input, Tensor) else type(example_input).__name__
        )
        raise ModelError(f"{given} is not a batch of images", "example_input", "give a tensor (N, C, H, W)")
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    image = example_input[:1].detach()
    if weight is None:
        return image
    return image.to(device=weight.device, dtype=weight.dtype if image.is_floating_point() else None)


def _by_layer(counter: FlopCounter, model: nn.Module) -> dict[str, int]:
    """MACs of each leaf-most module, by the name it has in ``model``."""
    prefix = type(model).__name__
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    named = {}
    for name, module in model.named_modules():
        macs = counts.get(f"{prefix}.{name}", 0)
        if name and macs and next(module.children(), None) is None:
            named[name] = macs
    return named


class _UnknownOps(EagerMode):
    """Counts calls of operations that are neither elementwise, views, cheap nor known to the counter."""

    def __init__(self, counter: FlopCounter) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self._known = counter.flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        name = packet.__name__
        cheap = func.is_view or torch.Tag.pointwise in func.tags or name.lstrip("_").startswith(_CHEAP)
        if packet not in self._known and not cheap:
            self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))
