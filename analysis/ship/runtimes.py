"""What every runtime's file is judged by, its accuracy on the validation images; what the quantiser is shown; and on
which processor that is.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gcp_core.data import Splits, evaluation_batches

#: Training images that show the quantiser which values occur.
CALIBRATION_IMAGES = 256
_BATCH = 250


def calibration(splits: Splits) -> list[Tensor]:
    """The first training images, normalised and not augmented, in batches ``(N, C, H, W)``; none is for validation."""
    batches: list[Tensor] = []
    for images, _ in evaluation_batches(splits.train, splits.normalise, 64, False):
        batches.append(images.contiguous())
        if sum(map(len, batches)) >= CALIBRATION_IMAGES:
            break
    return batches


@torch.no_grad()
def val_accuracy(forward: Callable[[Tensor], Tensor], splits: Splits) -> float:
    """Per cent of the validation images that ``forward`` (CPU tensor ``(N, C, H, W)`` to logits) gets right."""
    correct = sum(
        int((forward(images.contiguous()).argmax(1) == labels).sum())
        for images, labels in evaluation_batches(splits.val, splits.normalise, _BATCH, False)
    )
    return 100.0 * correct / len(splits.val)


def processor() -> str:
    """The processor's name, as Linux has it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
