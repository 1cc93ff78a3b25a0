"""Accuracy, multiply-adds per image and time of a model with hashed convolutions, beside the model as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.cost.latency import median_interval
from gcp_core.errors import DataError
from gcp_core.haste.hashing import Hashing
from gcp_core.haste.swap import COUNTED, Swappable, swap
from gcp_core.models.mode import mode


@dataclass(frozen=True)
class Hashed:
    """What one setting gave.

    Attributes:
        accuracy: per cent of the images.
        macs_mean, macs_sd, macs_low, macs_high: multiply-adds per image: mean, standard deviation, smallest, largest.
        parts: name of :data:`COUNTED` -> mean multiply-adds per image; they add up to ``macs_mean``.
        ms: milliseconds per image: median over the batches.
        time_share, time_share_low, time_share_high: time of a batch, as a share of the plain model's: median, and its
            95 % interval.
    """

    bits: int
    accuracy: float
    macs_mean: float
    macs_sd: float
    macs_low: int
    macs_high: int
    parts: dict[str, float]
    ms: float
    time_share: float
    time_share_low: float
    time_share_high: float


@dataclass(frozen=True)
class Measured:
    """A model as it is, and with hashed convolutions at each setting.

    Attributes:
        accuracy, macs, ms: of the model as it is.
        images: how many were looked at.
    """

    accuracy: float
    macs: int
    ms: float
    images: int
    hashed: tuple[Hashed, ...]


def measure_haste(
    model: nn.Module,
    found: Swappable,
    settings: Sequence[Hashing],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Evaluate the model as it is and once per setting, on the model's device; they take turns batch by batch.

    Args:
        batches: images ``(N, C, H, W)`` as the model takes them, and labels.
        clock: gives seconds.

    Raises:
        DataError: no images.
    """
    variants = [swap(model, found, hashing) for hashing in settings]
    seen, hits = 0, [0] * (1 + len(variants))
    times: list[list[float]] = [[] for _ in hits]
    macs: list[list[Tensor]] = [[] for _ in variants]
    with torch.no_grad(), mode(model, training=False):
        for images, labels in batches:
            seen += len(images)
            for place, net in enumerate([model, *(one.model for one in variants)]):
                begun = clock()
                right = int((net(images).argmax(1) == labels).sum())  # waits for the device
                times[place].append((clock() - begun) / len(images))
                hits[place] += right
                if place:
                    macs[place - 1].append(variants[place - 1].macs())
    if not seen:
        raise DataError("there are no images to measure on", "HASTE")
    accuracies = [100.0 * number / seen for number in hits]
    plain = times[0]
    return Measured(
        accuracies[0],
        found.cost.macs,
        1e3 * median_interval(plain)[1],
        seen,
        tuple(
            _hashed(hashing, accuracy, torch.cat(own), took, plain)
            for hashing, accuracy, own, took in zip(settings, accuracies[1:], macs, times[1:], strict=True)
        ),
    )


def _hashed(
    hashing: Hashing, accuracy: float, macs: Tensor, took: Sequence[float], plain: Sequence[float]
) -> Hashed:
    total, parts = macs.sum(1), macs.double().mean(0).tolist()
    low, share, high = median_interval([a / b for a, b in zip(took, plain, strict=True)])
    return Hashed(
        bits=hashing.bits,
        accuracy=accuracy,
        macs_mean=total.double().mean().item(),
        macs_sd=total.double().std(correction=0).item(),
        macs_low=int(total.min()),
        macs_high=int(total.max()),
        parts=dict(zip(COUNTED, parts, strict=True)),
        ms=1e3 * median_interval(took)[1],
        time_share=share,
        time_share_low=low,
        time_share_high=high,
    )
