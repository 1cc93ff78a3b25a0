"""Where a constant that is added to a layer's output can go, so that nothing else of the model changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from gcp_core.criteria.feature_maps import norm_after
from gcp_core.relevance import untouched


class BiasPlace(NamedTuple):
    """``bias``, ``norm`` (running mean of ``norm``), ``cancelled`` (by a norm without running statistics) or ``none``."""

    kind: str
    norm: str | None = None


def bias_places(model: nn.Module, layers: Iterable[str], image: Tensor) -> dict[str, BiasPlace]:
    """Layer -> where its bias can go; found by running ``image`` ``(1, ...)``, the model is left as it was.

    A batch norm takes it only if nothing else reads the layer's output: a residual sum beside it would miss the constant.
    """
    layers = list(layers)
    without = [layer for layer in layers if getattr(model.get_submodule(layer), "bias", None) is None]
    norms = norm_after(model, without, image) if without else {}
    readers = _readers(model, norms, image)
    places = {}
    for layer in layers:
        norm = model.get_submodule(norms[layer]) if layer in norms else None
        if layer not in without:
            places[layer] = BiasPlace("bias")
        elif isinstance(norm, _BatchNorm) and readers[layer] == 1:
            kind = "cancelled" if norm.running_mean is None else "norm"
            places[layer] = BiasPlace(kind, norms[layer])
        else:
            places[layer] = BiasPlace("none")
    return places


@torch.no_grad()
def add_bias(model: nn.Module, layer: str, place: BiasPlace, shift: Tensor) -> None:
    """Add ``shift`` ``(O,)`` to the layer's output, in place.

    What a norm subtracts is its running mean in evaluation mode and the batch's in training mode, so the constant goes
    out of the running mean and is exact in both.
    """
    module = model.get_submodule(layer)
    if place.kind == "bias" and isinstance(module.bias, Tensor):
        module.bias.add_(shift.to(module.bias.dtype))
    elif place.kind == "norm" and place.norm is not None:
        mean = model.get_submodule(place.norm).running_mean
        if isinstance(mean, Tensor):
            mean.sub_(shift.to(mean.dtype))


def _readers(model: nn.Module, layers: Iterable[str], image: Tensor) -> dict[str, int]:
    """Layer -> how many operations read its output."""
    uses = _Uses()

    def hook(layer: str) -> Callable[..., None]:
        return lambda module, args, output: uses.watch(layer, output)

    handles = [model.get_submodule(layer).register_forward_hook(hook(layer)) for layer in layers]
    try:
        with untouched(model), torch.no_grad(), uses:
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return uses.number


class _Uses(TorchFunctionMode):
    """Counts the calls that take a watched tensor and make tensors of it; questions (shapes) do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.number: dict[str, int] = {}
        self._watched: dict[int, tuple[str, Tensor]] = {}

    def watch(self, layer: str, output: Tensor) -> None:
        """From now on. The tensor is held: its id means no other."""
        self.number.setdefault(layer, 0)
        self._watched[id(output)] = (layer, output)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        taken = {id(t) for t in _tensors((args, list(kwargs.values())))} & self._watched.keys()
        result = func(*args, **kwargs)
        if taken and _tensors(result):
            for key in taken:
                self.number[self._watched[key][0]] += 1
        return result


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in _tensors(part)] if isinstance(value, list | tuple) else []
