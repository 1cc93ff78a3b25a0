"""What every runtime's file is judged by, its accuracy on the validation images; and what the quantiser is shown."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gcp_core.data import Splits, evaluation_batches
from gcp_core.data.split import stratified_choice
from gcp_core.seeds import generator

#: Training images that show the quantiser which values occur.
CALIBRATION_IMAGES = 256
_CALIBRATION_BATCH = 64
_BATCH = 250


def calibration(splits: Splits) -> list[Tensor]:
    """Training images of all classes, normalised and not augmented, in batches ``(N, C, H, W)``; none is for validation.

    Drawn, always the same ones: the images of a folder stand class by class, and the first few hundred are all of one.
    """
    number = min(CALIBRATION_IMAGES, len(splits.train))
    some = stratified_choice(splits.train.labels, number, generator(0, "calibration"))
    batches = evaluation_batches(splits.train.subset(some), splits.normalise, _CALIBRATION_BATCH, False)
    return [images.contiguous() for images, _ in batches]


@torch.no_grad()
def val_accuracy(forward: Callable[[Tensor], Tensor], splits: Splits) -> float:
    """Per cent of the validation images that ``forward`` (CPU tensor ``(N, C, H, W)`` to logits) gets right."""
    correct = sum(
        int((forward(images.contiguous()).argmax(1) == labels).sum())
        for images, labels in evaluation_batches(splits.val, splits.normalise, _BATCH, False)
    )
    return 100.0 * correct / len(splits.val)
