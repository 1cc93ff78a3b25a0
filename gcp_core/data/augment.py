"""Random crops and mirroring of a batch: drawn in one place, applied wherever the images are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Crops(NamedTuple):
    """What augmentation does to one batch.

    Attributes:
        offsets: int64 ``(2, B, 1)``: first row and column of each crop in the padded image.
        mirrored: bool ``(B, 1)``, or None if nothing is mirrored.
        padding: pixels of zero padding on each side.
    """

    offsets: Tensor
    mirrored: Tensor | None
    padding: int

    def to(self, device: torch.device) -> Crops:
        """The same crops, drawn on the CPU, for images on ``device``."""
        mirrored = None if self.mirrored is None else self.mirrored.to(device)
        return Crops(self.offsets.to(device), mirrored, self.padding)

    def part(self, images: slice) -> Crops:
        """Those of some of the images."""
        mirrored = None if self.mirrored is None else self.mirrored[images]
        return Crops(self.offsets[:, images], mirrored, self.padding)


def joined(crops: list[Crops]) -> Crops:
    """Those of several batches, as of one; they are of one kind."""
    flips = [part.mirrored for part in crops if part.mirrored is not None]
    return Crops(
        torch.cat([part.offsets for part in crops], dim=1),
        torch.cat(flips) if flips else None,
        crops[0].padding,
    )


def draw_crops(batch: int, padding: int, flip: bool, rng: torch.Generator) -> Crops:
    """Uniform offsets on 0 .. 2 * padding; with ``flip`` each image is mirrored with probability one half."""
    offsets = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=rng)
    return Crops(offsets, torch.rand(batch, 1, generator=rng) < 0.5 if flip else None, padding)


def apply_crops(images: Tensor, crops: Crops) -> Tensor:
    """The crops of the zero-padded images, uint8 ``(B, H, W, C)`` -> the same shape.

    One batched gather instead of a loop over images (several times faster on small images). Images and crops are on one
    device: a step that moved the crops would wait for them.
    """
    batch, height, width, _ = images.shape
    device, padding = images.device, crops.padding
    rows = crops.offsets[0] + torch.arange(height, device=device)
    cols = crops.offsets[1] + torch.arange(width, device=device)
    if crops.mirrored is not None:
        cols = torch.where(crops.mirrored, cols.flip(1), cols)
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    index = torch.arange(batch, device=device)
    return padded[index[:, None, None], rows[:, :, None], cols[:, None, :]]
