"""GraSP-channel: how much of the gradient flow would be lost with a unit, at initialisation.

A gate a_c = 1 multiplies unit c wherever it is read. With g = gradient of the loss with respect to all conv and linear
weights, ``S_c = -d(||g||^2 / 2) / da_c = -(sum over the consumers' slice of theta * Hg + ||g_slice||^2)``, H = Hessian;
slice = the consumers' weights that read c. The units with the largest S_c are removed first, so the score is -S_c.

Source: Wang, Zhang, Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", arXiv 2002.07376, ICLR
2020, and its authors' code: score ``-theta * Hg`` of single weights, logits divided by 200, the largest scores removed,
once, at initialisation. The paper is unstructured: channels, the gate and its second term are ours, hence the name.
Summing the paper's score over a filter before a norm would be degenerate: batch norm makes the loss blind to the filter's
scale, which gives ``sum over the filter of -theta * Hg = +||g_f||^2``, so the filters with the largest gradient would go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gcp_core.criteria.base import Batches, Needs, by_layer
from gcp_core.criteria.consumers.readers import CONVS, readers
from gcp_core.criteria.feature_maps import first_image
from gcp_core.errors import ConfigError, RelevanceError, did_you_mean
from gcp_core.groups import Groups
from gcp_core.relevance import untouched

VARIANTS = ("gate", "slice")
NORMS = ("batch", "running")


@dataclass(frozen=True)
class Grasp:
    """See :func:`grasp` for the options."""

    variant: str
    norms: str
    temperature: float
    needs: Needs = "data"
    comparable: bool = True
    #: Two passes: the gradient (3), and the gradient of the gradient (about 3 + 2 x 3).
    forwards: float = 12.0

    def score(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """``-S_c``, divided by the sum of the absolute values, so that it does not depend on the temperature.

        Units that no layer reads through columns of its own (residual mode ``scatter``, or depthwise convolutions only)
        get the mean of the others.
        """
        first_image(batches)
        units = torch.zeros(groups.num_units, dtype=torch.float64)
        seen = torch.zeros(groups.num_units, dtype=torch.bool)
        reading = readers(model, groups)
        products = flow(model, batches, norms=self.norms, temperature=self.temperature)
        for reader in reading:
            theta, g, hg = products[f"{reader.layer}.weight"]
            term = theta * hg + g.square() if self.variant == "gate" else theta * hg
            per_channel = term.reshape(term.shape[0], len(reader.units), -1).sum((0, 2)).cpu()
            unit_of = torch.as_tensor(reader.units)
            own = unit_of >= 0
            units.index_add_(0, unit_of[own], per_channel[own])
            seen[unit_of[own]] = True
        size = float(units.abs().sum())
        units = units / size if size > 0 else units
        if bool(seen.any()):
            units = torch.where(seen, units, units[seen].mean())
        return by_layer(units, groups)


def grasp(variant: str = "gate", norms: str = "batch", temperature: float = 200.0) -> Grasp:
    """GraSP in its channel form.

    Args:
        variant: ``gate``: the derivative of the gradient's norm by a gate, both terms; ``slice``: the plain sum of the
            paper's score over the consumers' slice, without ``||g_slice||^2``.
        norms: ``batch``: batch norms use the batch's statistics, as in the source (at initialisation there are no
            others); ``running``: their own. Dropout is off in both.
        temperature: logits are divided by it, 200 in the source.
    """
    for key, value, allowed in (("variant", variant, VARIANTS), ("norms", norms, NORMS)):
        if value not in allowed:
            raise ConfigError(
                f"{value!r} is unknown", f"prune.options.{key}", did_you_mean(str(value), allowed)
            )
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < 1e6:
        raise ConfigError(f"{temperature!r} is not a number in (0, 1e6)", "prune.options.temperature")
    return Grasp(variant, norms, float(temperature))


def flow(
    model: nn.Module, batches: Batches, *, norms: str = "batch", temperature: float = 200.0
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Weight name -> ``(theta, g, Hg)``, float64 in the weight's shape, of every conv and linear weight.

    g = gradient of the mean over images of the cross-entropy of ``logits / temperature``; H = its Hessian over all these
    weights together. Two passes: g first, then ``gradient of <g, g_batch>`` batch by batch. With ``norms="batch"`` an
    image's loss depends on its batch, and a batch of one image is left out.
    """
    weights = {
        f"{name}.weight": m.weight
        for name, m in model.named_modules()
        if isinstance(m, (*CONVS, nn.Linear)) and isinstance(m.weight, nn.Parameter)
    }
    asked = list(weights.values())
    smallest = 2 if norms == "batch" else 1
    with untouched(model), _trainable(asked), _norm_statistics(model, norms):
        whole = [torch.zeros_like(w, dtype=torch.float64) for w in asked]
        count = 0
        for images, labels in batches:
            if len(images) < smallest:
                continue
            grads = torch.autograd.grad(
                _loss(model, images, labels, temperature), asked, materialize_grads=True
            )
            for total, grad in zip(whole, grads):
                total += grad.double()
            count += len(images)
        if count == 0:
            raise RelevanceError("no batch has two images, which batch norms need", "batches")
        fixed = [(total / count).to(w.dtype) for total, w in zip(whole, asked)]
        curved = [torch.zeros_like(w, dtype=torch.float64) for w in asked]
        for images, labels in batches:
            if len(images) < smallest:
                continue
            loss = _loss(model, images, labels, temperature)
            grads = torch.autograd.grad(loss, asked, create_graph=True, materialize_grads=True)
            along = torch.stack([(g * f).sum() for g, f in zip(grads, fixed)]).sum()
            if along.requires_grad:
                for total, grad in zip(curved, torch.autograd.grad(along, asked, materialize_grads=True)):
                    total += grad.double()
    return {
        name: (w.detach().double(), g / count, h / count)
        for (name, w), g, h in zip(weights.items(), whole, curved)
    }


def _loss(model: nn.Module, images: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(model(images) / temperature, labels.long(), reduction="sum")


@contextmanager
def _trainable(weights: list[nn.Parameter]) -> Iterator[None]:
    """Frozen weights take part in the gradient, too."""
    before = [w.requires_grad for w in weights]
    try:
        for w in weights:
            w.requires_grad_(True)
        yield
    finally:
        for w, flag in zip(weights, before):
            w.requires_grad_(flag)


@contextmanager
def _norm_statistics(model: nn.Module, norms: str) -> Iterator[None]:
    """With ``batch``, batch norms normalise by the batch; what they keep of it is put back afterwards."""
    found = [m for m in model.modules() if isinstance(m, _NormBase)] if norms == "batch" else []
    buffers = [(buffer, buffer.clone()) for m in found for buffer in m.buffers(recurse=False)]
    try:
        for m in found:
            m.train()
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
