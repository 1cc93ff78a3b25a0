"""What hashing the channels of a finished model while it runs (HASTE) makes of its accuracy and its multiply-adds."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from gcp_core.cost.latency import threads
from gcp_core.data import Splits, evaluation_batches
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.haste import Hashed, Hashing, measure_haste, swappable
from gcp_core.haste.hashing import SPARSITY
from gcp_core.records.checkpoint import load_model

_OPTION, _EXAMPLE = "--haste", 'for instance "L=4,8,12 s=2/3 images=1000"'
_KEYS = ("L", "s", "seed", "centre", "images")
#: Images that take one pass together; times are compared pass by pass.
_BATCH = 50


@dataclass(frozen=True)
class HastePlan:
    """Settings to measure, and how many validation images (None = all, else spread evenly over them)."""

    settings: tuple[Hashing, ...]
    images: int | None = None


@dataclass(frozen=True)
class HasteResult:
    """What came of it.

    Attributes:
        accuracy, macs, ms: of the model as it is: per cent, multiply-adds and milliseconds per image.
        images: validation images.
        replaced: convolutions that hash; ``left``: the others, with the reason.
        untouched_macs: multiply-adds per image outside the replaced ones.
    """

    sparsity: float
    seed: int
    centre: str
    images: int
    accuracy: float
    macs: int
    ms: float
    replaced: tuple[str, ...]
    left: dict[str, str]
    untouched_macs: int
    hashed: tuple[Hashed, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def parse(text: str) -> HastePlan:
    """``L=4,8 s=2/3`` as settings.

    Raises:
        ConfigError: a word that is none of them, or a value out of range.
    """
    given: dict[str, str] = {}
    for word in text.split():
        key, sign, value = word.partition("=")
        if not sign or key not in _KEYS:
            hint = did_you_mean(key, _KEYS) if sign else _EXAMPLE
            raise ConfigError(f"{word!r} is no setting", _OPTION, hint)
        if key in given:
            raise ConfigError(f"{key} is given twice", _OPTION)
        given[key] = value
    if "L" not in given:
        raise ConfigError("L is missing, the number of hash bits", _OPTION, _EXAMPLE)
    bits = dict.fromkeys(_whole("L", word) for word in given["L"].split(","))
    sparsity = _share(given["s"]) if "s" in given else SPARSITY
    seed, centre = _whole("seed", given.get("seed", "0")), given.get("centre", Hashing.centre)
    images = _whole("images", given["images"]) if "images" in given else None
    if images is not None and images < 1:
        raise ConfigError(f"{images} is no number of images", f"{_OPTION} images", "at least 1")
    try:
        return HastePlan(tuple(Hashing(number, sparsity, seed, centre) for number in bits), images)
    except ConfigError as error:
        raise ConfigError(error.message, f"{_OPTION} {error.where}", error.hint) from None


def measure(model: Path, splits: Splits, plan: HastePlan, number: int, clock: str) -> HasteResult:
    """Measure the model in a folder with every setting, on the CPU with ``number`` threads.

    Raises:
        ModelError: none of its convolutions can be replaced.
    """
    net = load_model(model).eval()
    total = len(splits.val)
    count = min(total, plan.images or total)
    some = splits.val.subset(torch.arange(count, device=splits.val.rows.device) * total // count)
    example = next(evaluation_batches(some.subset(torch.arange(1)), splits.normalise, 1, False))[0]
    found = swappable(net, example)
    seconds = time.process_time if clock == "cpu" else time.perf_counter
    with threads(number):
        batches = evaluation_batches(some, splits.normalise, _BATCH, False)
        measured = measure_haste(net, found, plan.settings, batches, clock=seconds)
    first = plan.settings[0]
    return HasteResult(
        sparsity=first.sparsity,
        seed=first.seed,
        centre=first.centre,
        images=measured.images,
        accuracy=measured.accuracy,
        macs=measured.macs,
        ms=measured.ms,
        replaced=found.replaced,
        left=found.left,
        untouched_macs=found.untouched_macs,
        hashed=measured.hashed,
    )


def _whole(key: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ConfigError(f"{word!r} is not a whole number", f"{_OPTION} {key}", _EXAMPLE) from None


def _share(word: str) -> float:
    """``0.5`` or ``2/3``."""
    try:
        return float(Fraction(word))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"{word!r} is not a number", f"{_OPTION} s", _EXAMPLE) from None
