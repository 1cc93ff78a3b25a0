"""First-order Taylor expansion at a gate: mean over images of ``(dL / dg_c)^2`` at ``g_c = 1``.

g scales the layer's feature map y after its norm, so ``dL / dg_c = sum over pixels of y_c dL/dy_c``; L = cross-entropy
of one image. Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8 with
gates after batch norm (section 4; a signed sum over the weights of a filter before a norm would be zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, GroupsLike, Needs
from gcp_core.criteria.feature_maps import Maps, first_image, observed


@dataclass(frozen=True)
class Taylor:
    """One forward and one backward pass over the images."""

    needs: Needs = "data"
    forwards: float = 3.0  # with a backward pass
    comparable: bool = False

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Squared gate gradients, averaged over images."""
        layers = groups.scored_layers()
        sums = {layer: torch.zeros(size, dtype=torch.float64) for layer, size in layers.items()}
        gates: list[tuple[str, Tensor, Tensor | None]] = []
        count = 0

        def gate(layer: str, maps: Maps) -> Tensor:
            y = maps.output
            g = y.new_ones(y.shape[0], y.shape[maps.dim], requires_grad=True)
            gates.append((layer, g, maps.living))
            shape = [n if d in (0, maps.dim) else 1 for d, n in enumerate(y.shape)]
            return y * g.reshape(shape)

        with observed(model, layers, first_image(batches), gate):
            for images, labels in batches:
                gates.clear()
                loss = F.cross_entropy(model(images), labels.long(), reduction="sum")
                grads = torch.autograd.grad(loss, [g for _, g, _ in gates], allow_unused=True)
                for (layer, _, living), grad in zip(gates, grads):
                    if grad is not None:
                        own = grad if living is None else grad.index_select(1, living)
                        sums[layer] += own.double().square().sum(0).cpu()
                count += images.shape[0]
        return {layer: total / count for layer, total in sums.items()}


def taylor() -> Taylor:
    """No options."""
    return Taylor()
