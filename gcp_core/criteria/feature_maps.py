"""Watching a layer's feature maps: at the output of the norm that follows it, or at its own where there is none.

That is the place where a removed channel is gone (a channel scaled by zero after its norm), so scores taken there do
not depend on a filter's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, GroupsLike, Needs
from gcp_core.errors import RelevanceError
from gcp_core.relevance import untouched

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class Maps(NamedTuple):
    """A layer's feature maps where they are watched.

    Attributes:
        output: the watched module's output.
        dim: the dimension of ``output`` that the channels lie in.
        living: of a scattered norm, the places of the layer's channels in that dimension; None = all.
    """

    output: Tensor
    dim: int
    living: Tensor | None

    def channels_first(self) -> Tensor:
        """``(N, C, ...)``, the layer's own channels only."""
        maps = self.output.movedim(self.dim, 1)
        return maps if self.living is None else maps.index_select(1, self.living)


Observer = Callable[[str, Maps], Tensor | None]


def norm_after(model: nn.Module, layers: Iterable[str], image: Tensor) -> dict[str, str]:
    """Layer -> the norm that takes its output, for those layers that have one; found by running ``image`` (1, ...)."""
    outputs: list[tuple[str, Tensor]] = []
    found: dict[str, str] = {}

    def at_layer(name: str) -> Callable[..., None]:
        return lambda module, args, output: outputs.append((name, output))

    def at_norm(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            found.update({layer: name for layer, tensor in outputs if tensor is args[0]})

        return hook

    handles = [model.get_submodule(layer).register_forward_hook(at_layer(layer)) for layer in layers]
    handles += [
        m.register_forward_hook(at_norm(n)) for n, m in model.named_modules() if isinstance(m, _NORMS)
    ]
    try:
        with untouched(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def observed(model: nn.Module, layers: Iterable[str], image: Tensor, observe: Observer) -> Iterator[None]:
    """Inside, each forward pass calls ``observe(layer, maps)``; what it returns replaces the watched output.

    The model is in evaluation mode meanwhile; hooks are gone afterwards, also on error.
    """
    layers = list(layers)
    points = norm_after(model, layers, image)
    handles = []
    try:
        for layer in layers:
            module = model.get_submodule(points.get(layer, layer))
            handles.append(module.register_forward_hook(_hook(layer, observe)))
        with untouched(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(layer: str, observe: Observer) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        dim = output.ndim - 1 if isinstance(module, nn.Linear | nn.LayerNorm) else 1
        return observe(layer, Maps(output, dim, getattr(module, "scatter_index", None)))

    return hook


def first_image(batches: Batches) -> Tensor:
    """One image ``(1, ...)``."""
    first = next(iter(batches), None)
    if first is None:
        raise RelevanceError("there are no images to score", "batches")
    return first[0][:1]


@dataclass(frozen=True)
class MapCriterion:
    """A criterion that is a mean over images of a statistic of each feature map.

    Attributes:
        statistic: ``(N, C, positions...)`` -> ``(N, C)``.
        max_images: look at no more images than this.
        comparable: False where the statistic grows with a map's size or scale.
    """

    statistic: Callable[[Tensor], Tensor]
    max_images: int | None = None
    needs: Needs = "data"
    comparable: bool = False

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One forward pass over ``batches``."""
        layers = groups.scored_layers()
        sums = {layer: torch.zeros(size, dtype=torch.float64) for layer, size in layers.items()}
        count = 0

        def observe(layer: str, maps: Maps) -> None:
            sums[layer] += self.statistic(maps.channels_first()).detach().double().sum(0).cpu()

        with observed(model, layers, first_image(batches), observe), torch.no_grad():
            for images, _ in batches:
                images = images if self.max_images is None else images[: self.max_images - count]
                if len(images) == 0:
                    break
                model(images)
                count += len(images)
        return {layer: total / count for layer, total in sums.items()}


def over_positions(values: Tensor) -> Tensor:
    """Mean over all but the first two dimensions."""
    return values.flatten(2).mean(2) if values.ndim > 2 else values
