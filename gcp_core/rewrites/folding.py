"""Rewritten networks in training: what they cost, and the plain model that leaves."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gcp_core.errors import ModelError
from gcp_core.models.mode import mode
from gcp_core.rewrites.base import Rewrite

#: A folded model's outputs may differ from the rewritten one's by this share of the largest of them. Float32 and a deep
#: network need some 1e-6.
TOLERANCE = 1e-4


def folded(model: nn.Module, rewrite: Rewrite | None) -> nn.Module:
    """The plain model that computes in eval mode what ``model`` does: a copy, or the model itself without a rewrite."""
    if rewrite is None:
        return model
    plain = copy.deepcopy(model)
    rewrite.fold(plain)
    return plain


def check_folded(model: nn.Module, plain: nn.Module, images: Tensor) -> None:
    """Compare the outputs of both in eval mode and in float64, for images ``(N, C, H, W)``.

    Raises:
        ModelError: they differ by more than :data:`TOLERANCE`.
    """
    images = images.double()
    outputs = []
    for each in (model, plain):
        exact = copy.deepcopy(each).double()
        with mode(exact, training=False), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            outputs.append(exact(images))
    difference = float((outputs[0] - outputs[1]).abs().max())
    most = TOLERANCE * max(float(outputs[0].abs().max()), 1e-12)
    # So written that what is not a number is refused.
    if not difference <= most:
        said = f"differ by {difference:.3g} from those of the trained one ({most:.3g} is allowed)"
        raise ModelError(
            f"the folded model's outputs {said}",
            "train.rewrite",
            "nothing was written; train.rewrite: none trains without",
        )


def added_macs(rewrite: Rewrite, model: nn.Module, example: Tensor, batch_size: int) -> float:
    """Multiply-adds that the rewrite adds to a training forward pass of one image of this model, which stays as it is.

    Raises:
        ConfigError: it has no place in the model.
        ModelError: folding it does not give the model back.
    """
    rewritten = copy.deepcopy(model)
    rewrite.install(rewritten, example)
    noise = torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
    check_folded(rewritten, folded(rewritten, rewrite), noise)
    return rewrite.macs(rewritten, batch_size)
