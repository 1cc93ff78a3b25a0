"""Feature relevance score: the paper's criterion.

``FRS_i = s_i / ||s||_2`` per layer, ``s_i = | mean over classes of (relevance of channel i, class weight) |``.
Source: Aketi, Roy, Raghunathan, Roy, "Gradual Channel Pruning while Training using Feature Relevance Scores for
Convolutional Neural Networks", IEEE Access 8 (2020), section III.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, GroupsLike, Needs
from gcp_core.errors import ConfigError, RelevanceError, did_you_mean
from gcp_core.relevance import READ_POINTS, STABILISERS, feature_relevance_scores, untouched


@dataclass(frozen=True)
class Frs:
    """See :func:`gcp_core.relevance.feature_relevance_scores` for the options."""

    read: str
    stabiliser: str
    winsorise: float | None
    needs: Needs = "data"
    #: A relevance pass over a net costs this many plain forwards (benchmarks/core/relevance_pass.py).
    forwards: float = 3.8

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One relevance pass over ``batches``.

        A layer that relevance does not reach (inside a squeeze-excite gate) gets ``1 / sqrt(C)`` throughout: the score
        of an average channel of a layer that wide, so that its channels go neither first nor last.
        """
        layers = groups.scored_layers()
        scores = feature_relevance_scores(
            model,
            batches,
            _num_classes(model, batches),
            read=self.read,
            stabiliser=self.stabiliser,
            winsorise=self.winsorise,
            layers=layers,
        )
        unreached = {
            layer: torch.full((size,), size**-0.5, dtype=torch.float64)
            for layer, size in layers.items()
            if layer not in scores
        }
        return {**scores, **unreached}


def frs(read: str = "sum", stabiliser: str = "signed", winsorise: float | None = None) -> Frs:
    """``read``: sum | branch; ``stabiliser``: signed | published; ``winsorise``: a quantile such as 0.999, or None."""
    for key, value, allowed in (("read", read, READ_POINTS), ("stabiliser", stabiliser, STABILISERS)):
        if value not in allowed:
            raise ConfigError(f"{value!r} is unknown", f"prune.options.{key}", did_you_mean(value, allowed))
    number = isinstance(winsorise, int | float) and not isinstance(winsorise, bool)
    if winsorise is not None and not (number and 0.5 < winsorise <= 1.0):
        raise ConfigError(f"{winsorise!r} is not a number in (0.5, 1]", "prune.options.winsorise")
    return Frs(read, stabiliser, winsorise)


def _num_classes(model: nn.Module, batches: Batches) -> int:
    """Width of the logits, from one image."""
    first = next(iter(batches), None)
    if first is None:
        raise RelevanceError("there are no images to score", "batches")
    with untouched(model), torch.no_grad():
        return int(model(first[0][:1]).shape[1])
