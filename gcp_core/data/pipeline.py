"""From a split to batches on the device: shuffled and augmented, in order, or the fixed scoring sample."""

from __future__ import annotations

from collections import deque
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

#: Positions in a split, and what happens to the images there.
_Draw = tuple[Tensor, Crops | None]
#: uint8 ``(B, H, W, C)`` -> float32 ``(B, C, H, W)``.
_Finish = Callable[[Tensor], Tensor]

#: On a GPU so many bytes of finished images are made at a time; one batch at least.
_TOGETHER_BYTES = 1 << 25


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

    Order and augmentation are functions of ``seed`` and ``epoch`` alone. They are drawn on the CPU; what a GPU that holds
    the images needs of them is uploaded before the first batch, so that no batch waits for a copy.

    Args:
        part: (rank, processes): only what this process trains on of every batch, which is drawn as for all of them.
    """
    rng = generator(seed, "train", epoch)
    order = torch.randperm(len(images), generator=rng)

    def draws() -> Iterator[_Draw]:
        for step in range(num_steps(images, batch_size, part[1])):
            positions = order[step * batch_size : (step + 1) * batch_size]
            flip = augment == "crop_flip"
            moved = flip or (augment == "crop" and padding > 0)
            own = part_of(len(positions), *part)
            crops = draw_crops(len(positions), padding, flip, rng) if moved else None
            yield positions[own], None if crops is None else crops.part(own)

    yield from _batches(images, draws(), partial(normalise, channels_last=channels_last))


def evaluation_batches(
    images: Images, normalise: Normalise, batch_size: int, channels_last: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole split in its order; nothing is left out."""
    positions = torch.arange(len(images), device=images.pixels.device).split(batch_size)
    finish = partial(normalise, channels_last=channels_last)
    yield from _batches(images, ((part, None) for part in positions), finish)


def _batches(images: Images, draws: Iterator[_Draw], finish: _Finish) -> Iterator[tuple[Tensor, Tensor]]:
    """The drawn images, finished, and labels ``(B,)``: from this machine's memory, a GPU's, or the disk."""
    if images.source is not None:
        yield from _streamed(images, images.source, draws, finish)
    elif images.pixels.device.type != "cpu":
        yield from _on_device(images, list(draws), finish)
    else:
        for positions, crops in draws:
            pixels, labels = images.take(positions)
            yield finish(pixels if crops is None else apply_crops(pixels, crops)), labels


def _on_device(images: Images, draws: list[_Draw], finish: _Finish) -> Iterator[tuple[Tensor, Tensor]]:
    """Out of the memory of a GPU: all draws travel together, and several batches are made at a time.

    A small batch keeps a GPU busy for less time than it takes to ask for it.
    """
    if not draws:
        return
    device, sizes = images.pixels.device, [len(positions) for positions, _ in draws]
    positions = torch.cat([positions for positions, _ in draws]).to(device)
    drawn = [crops for _, crops in draws if crops is not None]
    crops = joined(drawn).to(device) if drawn else None
    together = max(1, _TOGETHER_BYTES // (4 * sizes[0] * images.pixels[0].numel()))
    done = 0
    for first in range(0, len(sizes), together):
        some = sizes[first : first + together]
        part = slice(done, done + sum(some))
        pixels, labels = images.take(positions[part])
        made = finish(pixels if crops is None else apply_crops(pixels, crops.part(part)))
        yield from zip(made.split(some), labels.split(some))
        done = part.stop


def _streamed(
    images: Images, source: RowFile, draws: Iterator[_Draw], finish: _Finish
) -> Iterator[tuple[Tensor, Tensor]]:
    """From the disk."""
    waiting: deque[Tensor] = deque()

    def items() -> Iterator[_Draw]:
        for positions, crops in draws:
            rows = images.rows[positions]
            waiting.append(rows)
            yield rows, crops

    for pixels in stream(source, items(), images.workers, pin=images.target.type == "cuda"):
        labels = images.all_labels[waiting.popleft()]
        yield finish(_sent(pixels, images.target)), _sent(labels, images.target)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On its way to ``device``: out of page-locked memory a GPU fetches it while this process goes on."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


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
