"""Variance importance: the share of its consumers' output variance that a channel would make alone.

``v_c = sum_o Var over images and positions of (w_oc * x_c) = tr(W_c S_cc W_c^T)``, divided per consumer by the variance
of its output, ``tr(W S W^T)``; shares of several consumers add up. A reading of Khetan and Karnin, "PruneNet: Channel
Pruning via Global Importance", arXiv 2005.11282, of which only the abstract and a reader's note ("variance of a channel
after filtering") were seen: objective, regulariser and schedule of the paper are not known here, so this does not bear
its name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, Needs, by_layer
from gcp_core.criteria.consumers.compensation import ROWS
from gcp_core.criteria.consumers.readers import readers
from gcp_core.criteria.consumers.statistics import input_moments, row_scales
from gcp_core.criteria.feature_maps import first_image
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.groups import Groups


@dataclass(frozen=True)
class Variance:
    """See :func:`variance` for the options."""

    rows: str
    sampling_stride: int
    needs: Needs = "data"
    comparable: bool = True
    #: The sums of products are small: positions over outputs, for each layer.
    forwards: float = 1.3

    def score(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One forward pass over ``batches``.

        Units that no layer reads through columns of its own (residual mode ``scatter``, or depthwise convolutions only)
        get an average share, one over their number.
        """
        image = first_image(batches)
        reading = {reader.layer: reader for reader in readers(model, groups)}
        scales = row_scales(model, reading, image) if self.rows == "norm" else {}
        units = torch.zeros(groups.num_units, dtype=torch.float64)
        for moments in input_moments(
            model,
            {layer: reader.positions for layer, reader in reading.items()},
            batches,
            sampling_stride=self.sampling_stride,
            blocks="channel",
        ):
            weight = model.get_submodule(moments.layer).weight
            if not isinstance(weight, Tensor) or moments.covariance is None:
                continue
            w = moments.blocked(weight)
            rows = scales.get(moments.layer, torch.ones_like(moments.output_variance)).square()
            alone = (((w @ moments.covariance) * w).sum(2) * rows).sum(1).cpu()
            total = float((moments.output_variance * rows).sum())
            unit_of = torch.as_tensor(reading[moments.layer].units)
            own = unit_of >= 0
            units.index_add_(0, unit_of[own], (alone / total if total > 0 else torch.zeros_like(alone))[own])
        for group in groups.groups:
            members = torch.arange(group.first_unit, group.first_unit + group.size)
            if not any(bool(torch.isin(members, torch.as_tensor(r.units)).any()) for r in reading.values()):
                units[members] = 1 / group.size
        return by_layer(units, groups)


def variance(rows: str = "raw", sampling_stride: int = 1) -> Variance:
    """Share of the consumers' output variance.

    Args:
        rows: ``raw``: outputs count as the convolution gives them; ``norm``: as they are behind the norm that follows
            (times gamma / sigma), as their scale is arbitrary before it.
        sampling_stride: look at every n-th output position of a consumer along each dimension.
    """
    if rows not in ROWS:
        raise ConfigError(f"{rows!r} is unknown", "prune.options.rows", did_you_mean(str(rows), ROWS))
    if isinstance(sampling_stride, bool) or not isinstance(sampling_stride, int) or sampling_stride < 1:
        raise ConfigError(f"{sampling_stride!r} is not a whole number >= 1", "prune.options.sampling_stride")
    return Variance(rows, sampling_stride)
