"""From a split to batches on the device: shuffled and augmented, in order, or the fixed scoring sample."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gcp_core.data.images import Images, Normalise
from gcp_core.data.split import balanced_choice
from gcp_core.seeds import generator

#: Batch size of the relevance pass and other scoring.
SCORING_BATCH = 128


def crop_flip(images: Tensor, padding: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Random crops of the zero-padded images, each mirrored with probability one half if ``flip``.

    One batched gather instead of a loop over images (several times faster on small images).

    Args:
        images: uint8 ``(B, H, W, C)``.
        padding: pixels of zero padding on each side; the crop offset is uniform on 0 .. 2 * padding.

    Returns:
        uint8 ``(B, H, W, C)``.
    """
    batch, height, width, _ = images.shape
    device = images.device
    offsets = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=rng).to(device)
    rows = offsets[0] + torch.arange(height, device=device)
    cols = offsets[1] + torch.arange(width, device=device)
    if flip:
        mirrored = torch.rand(batch, 1, generator=rng).to(device) < 0.5
        cols = torch.where(mirrored, cols.flip(1), cols)
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    index = torch.arange(batch, device=device)
    return padded[index[:, None, None], rows[:, :, None], cols[:, None, :]]


def num_steps(images: Images, batch_size: int) -> int:
    """Training steps per epoch. A last batch of one image is left out: batch norm cannot use it."""
    full, rest = divmod(len(images), batch_size)
    return full + (rest > 1)


def training_batches(
    images: Images,
    normalise: Normalise,
    *,
    batch_size: int,
    augment: str,
    padding: int,
    seed: int,
    epoch: int,
    channels_last: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled, augmented epoch: images float32 ``(B, C, H, W)``, labels int64 ``(B,)``.

    Order and augmentation are functions of ``seed`` and ``epoch`` alone.
    """
    rng = generator(seed, "train", epoch)
    order = torch.randperm(len(images), generator=rng).to(images.pixels.device)
    for step in range(num_steps(images, batch_size)):
        pixels, labels = images.take(order[step * batch_size : (step + 1) * batch_size])
        if augment != "none" and padding > 0:
            pixels = crop_flip(pixels, padding, augment == "crop_flip", rng)
        yield normalise(pixels, channels_last), labels


def evaluation_batches(
    images: Images, normalise: Normalise, batch_size: int, channels_last: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole split in its order, nothing left out."""
    for positions in torch.arange(len(images), device=images.pixels.device).split(batch_size):
        pixels, labels = images.take(positions)
        yield normalise(pixels, channels_last), labels


def scoring_sample(images: Images, wanted: int | str, num_classes: int, seed: int) -> Images:
    """The class-balanced sample that criteria see; fixed for a seed, without augmentation.

    ``"auto"`` is min(2500, 5 % of the training images), at least 10 a class.
    """
    number = max(min(2500, round(0.05 * len(images))), 10 * num_classes) if wanted == "auto" else int(wanted)
    number = min(number, len(images))
    return images.subset(
        balanced_choice(images.labels.cpu(), number, generator(seed, "scoring")).to(images.rows.device)
    )


class ScoringBatches:
    """The scoring sample as batches; can be iterated any number of times (criteria may need two passes)."""

    def __init__(self, images: Images, normalise: Normalise, channels_last: bool = True) -> None:
        self._images, self._normalise, self._channels_last = images, normalise, channels_last

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return evaluation_batches(self._images, self._normalise, SCORING_BATCH, self._channels_last)

    def __len__(self) -> int:
        return -(-len(self._images) // SCORING_BATCH)


def scoring_batches(
    images: Images,
    normalise: Normalise,
    wanted: int | str,
    num_classes: int,
    seed: int,
    channels_last: bool = True,
) -> ScoringBatches:
    """Batches of :func:`scoring_sample`."""
    return ScoringBatches(scoring_sample(images, wanted, num_classes, seed), normalise, channels_last)
