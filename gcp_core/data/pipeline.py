"""From a split to batches on the device: shuffled and augmented, in order, or the fixed scoring sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from gcp_core.data.augment import Crops, apply_crops, draw_crops
from gcp_core.data.images import Images, Normalise
from gcp_core.data.split import balanced_choice
from gcp_core.data.streaming import stream
from gcp_core.seeds import generator

#: Batch size of the relevance pass and other scoring.
SCORING_BATCH = 128

#: Positions in a split, and what happens to the images there.
_Draw = tuple[Tensor, Crops | None]


def num_steps(images: Images, batch_size: int, processes: int = 1) -> int:
    """Training steps per epoch. A last batch with one image for a process is left out: batch norm cannot use it."""
    full, rest = divmod(len(images), batch_size)
    return full + (rest >= 2 * processes)


def part_of(number: int, rank: int, processes: int) -> slice:
    """What of a batch of ``number`` images is the process's: parts in their order, as even as can be."""
    least, more = divmod(number, processes)
    first = rank * least + min(rank, more)
    return slice(first, first + least + (rank < more))


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
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled, augmented epoch: images float32 ``(B, C, H, W)``, labels int64 ``(B,)``.

    Order and augmentation are functions of ``seed`` and ``epoch`` alone.

    Args:
        part: (rank, processes): only what this process trains on of every batch, which is drawn as for all of them.
    """
    rng = generator(seed, "train", epoch)
    order = torch.randperm(len(images), generator=rng).to(images.pixels.device)

    def draws() -> Iterator[_Draw]:
        for step in range(num_steps(images, batch_size, part[1])):
            positions = order[step * batch_size : (step + 1) * batch_size]
            cropped = augment != "none" and padding > 0
            own = part_of(len(positions), *part)
            crops = draw_crops(len(positions), padding, augment == "crop_flip", rng) if cropped else None
            yield positions[own], None if crops is None else crops.part(own)

    for pixels, labels in _batches(images, draws()):
        yield normalise(pixels, channels_last), labels


def evaluation_batches(
    images: Images, normalise: Normalise, batch_size: int, channels_last: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole split in its order; nothing is left out."""
    positions = torch.arange(len(images), device=images.pixels.device).split(batch_size)
    for pixels, labels in _batches(images, ((part, None) for part in positions)):
        yield normalise(pixels, channels_last), labels


def _batches(images: Images, draws: Iterator[_Draw]) -> Iterator[tuple[Tensor, Tensor]]:
    """The drawn images uint8 ``(B, H, W, C)`` and labels ``(B,)``: taken from memory, or streamed."""
    if images.source is None:
        for positions, crops in draws:
            pixels, labels = images.take(positions)
            yield pixels if crops is None else apply_crops(pixels, crops), labels
        return
    waiting: deque[Tensor] = deque()

    def items() -> Iterator[_Draw]:
        for positions, crops in draws:
            rows = images.rows[positions]
            waiting.append(rows)
            yield rows, crops

    on_gpu = images.target.type == "cuda"
    for pixels in stream(images.source, items(), images.workers, pin=on_gpu):
        labels = images.all_labels[waiting.popleft()]
        yield pixels.to(images.target, non_blocking=on_gpu), labels.to(images.target)


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
