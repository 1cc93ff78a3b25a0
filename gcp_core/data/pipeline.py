"""From a split to batches on the device: shuffled and augmented, in order, or the fixed scoring sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gcp_core.data.augment import Crops, apply_crops, draw_crops, joined
from gcp_core.data.images import Images, Normalise
from gcp_core.data.split import balanced_choice
from gcp_core.data.streaming import RowFile, stream
from gcp_core.seeds import generator

#: Batch size of the relevance pass and other scoring.
SCORING_BATCH = 128

#: On a GPU so many bytes of finished images are made at a time; one batch at least.
_TOGETHER_BYTES = 1 << 25

_Finish = Callable[[Tensor], Tensor]


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

    Order and augmentation are functions of ``seed`` and ``epoch`` alone, and are drawn on the CPU. What a GPU needs of
    them is uploaded before the first batch: no batch waits for a copy.
    """
    rng = generator(seed, "train", epoch)
    order = torch.randperm(len(images), generator=rng)
    if len(order) % batch_size == 1:
        order = order[:-1]
    crops: Iterator[Crops] | None = None
    if augment != "none" and padding > 0:
        sizes = [len(part) for part in order.split(batch_size)]
        crops = (draw_crops(size, padding, augment == "crop_flip", rng) for size in sizes)
    yield from _batches(images, order, batch_size, crops, partial(normalise, channels_last=channels_last))


def evaluation_batches(
    images: Images, normalise: Normalise, batch_size: int, channels_last: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole split in its order; nothing is left out."""
    positions = torch.arange(len(images), device=images.pixels.device)
    yield from _batches(images, positions, batch_size, None, partial(normalise, channels_last=channels_last))


def _batches(
    images: Images, positions: Tensor, batch_size: int, crops: Iterator[Crops] | None, finish: _Finish
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images at these positions of the split, cropped and finished, and their labels.

    Args:
        crops: one for each batch, drawn when it is asked for.
        finish: uint8 ``(B, H, W, C)`` -> float32 ``(B, C, H, W)``.
    """
    if len(positions) == 0:
        return
    if images.source is not None:
        yield from _streamed(images, images.source, positions, batch_size, crops, finish)
    elif images.pixels.device.type != "cpu":
        yield from _on_device(images, positions, batch_size, crops, finish)
    else:
        for part in positions.split(batch_size):
            pixels, labels = images.take(part)
            yield finish(pixels if crops is None else apply_crops(pixels, next(crops))), labels


def _on_device(
    images: Images, positions: Tensor, batch_size: int, crops: Iterator[Crops] | None, finish: _Finish
) -> Iterator[tuple[Tensor, Tensor]]:
    """From the memory of a GPU: the draws of all batches travel together, and several batches are made at a time.

    A small batch keeps a GPU busy for less time than it takes to ask for it.
    """
    device = images.pixels.device
    positions = positions.to(device)
    drawn = None if crops is None else joined(list(crops)).to(device)
    together = batch_size * max(1, _TOGETHER_BYTES // (4 * batch_size * images.pixels[0].numel()))
    for first in range(0, len(positions), together):
        part = slice(first, first + together)
        pixels, labels = images.take(positions[part])
        if drawn is not None:
            pixels = apply_crops(pixels, drawn.part(part))
        yield from zip(finish(pixels).split(batch_size), labels.split(batch_size))


def _streamed(
    images: Images,
    source: RowFile,
    positions: Tensor,
    batch_size: int,
    crops: Iterator[Crops] | None,
    finish: _Finish,
) -> Iterator[tuple[Tensor, Tensor]]:
    """From the disk. The labels of all batches travel together; pixels come out of page-locked memory."""
    on_gpu = images.target.type == "cuda"
    rows = images.rows[positions]
    labels = images.all_labels[rows].to(images.target).split(batch_size)
    items = ((part, None if crops is None else next(crops)) for part in rows.split(batch_size))
    for pixels, known in zip(stream(source, items, images.workers, pin=on_gpu), labels, strict=True):
        yield finish(pixels.to(images.target, non_blocking=on_gpu)), known


def scoring_sample(images: Images, wanted: int | str, num_classes: int, seed: int) -> Images:
    """The class-balanced sample that criteria see; fixed for a seed, without augmentation.

    ``"auto"`` is min(2000, 4 % of the training images), at least 10 a class.
    """
    number = max(min(2000, round(0.04 * len(images))), 10 * num_classes) if wanted == "auto" else int(wanted)
    number = min(number, len(images))
    return images.subset(
        balanced_choice(images.labels.cpu(), number, generator(seed, "scoring")).to(images.rows.device)
    )


class ScoringBatches:
    """The scoring sample as batches; can be iterated any number of times (criteria may need two passes)."""

    def __init__(self, images: Images, normalise: Normalise, channels_last: bool = True) -> None:
        self.images, self._normalise, self._channels_last = images, normalise, channels_last

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return evaluation_batches(self.images, self._normalise, SCORING_BATCH, self._channels_last)

    def __len__(self) -> int:
        return -(-len(self.images) // SCORING_BATCH)
