"""Where a gate can stand: at a batch norm that alone reads the output of one convolution or linear layer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from gcp_core.models.mode import mode
from gcp_core.scatter import can_scatter

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Place:
    """A layer, the norm right behind it, and the positions of one of its maps (height times width; 1 = a vector)."""

    layer: str
    norm: str
    positions: int


def find_places(model: nn.Module, example: Tensor) -> tuple[list[Place], dict[str, str]]:
    """(places in forward order, norm -> why no gate can stand there); the model is left as it was.

    Args:
        example: ``(1, C, H, W)``; one eval forward is run.
    """
    watch = _Watch()
    calls: Counter[str] = Counter()
    taken: list[tuple[str, str, Tensor]] = []
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    handles = []

    def at_layer(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            calls[name] += 1
            watch.outputs[id(output)] = (name, output)

        return hook

    def at_norm(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            calls[name] += 1
            known = watch.outputs.get(id(args[0]))
            if known is not None:
                taken.append((known[0], name, known[1]))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, _LAYERS):
            handles.append(module.register_forward_hook(at_layer(name)))
    handles += [norm.register_forward_pre_hook(at_norm(name)) for name, norm in norms.items()]
    try:
        with mode(model, training=False), torch.no_grad(), watch:
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    places, left = [], dict.fromkeys(norms, "stands behind no layer")
    for layer, name, output in taken:
        norm = norms[name]
        if watch.reads[id(output)] > 1 or calls[layer] > 1 or calls[name] > 1:
            left[name] = f"{layer} has other readers, or runs more than once"
        elif not can_scatter(norm) or not norm.affine or not norm.track_running_stats:
            left[name] = f"a {type(norm).__name__} without scales or running statistics, or of another kind"
        else:
            places.append(Place(layer, name, math.prod(output.shape[2:])))
            del left[name]
    return places, left


class _Watch(TorchFunctionMode):
    """Counts who reads the outputs of layers."""

    def __init__(self) -> None:
        super().__init__()
        #: Kept alive, so that no identity is given twice.
        self.outputs: dict[int, tuple[str, Tensor]] = {}
        self.reads: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors(result)):
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self.outputs:
                    self.reads[id(tensor)] += 1
        return result


def _tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
