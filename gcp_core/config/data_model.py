"""Which images, and which network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gcp_core.config.checks import HANDLING, LATER, integer, number, one_of, place
from gcp_core.errors import ConfigError

AUGMENTATIONS = ("auto", "none", "crop", "crop_flip")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split.

    Attributes:
        name: ``digits``, ``parquet``, ... or ``package.module:factory``.
        path: folder of the files; required by all but ``digits``, no default.
        download: ``cifar10`` and ``cifar100`` may fetch their files into ``path``.
        image_size: ``imagefolder`` and ``parquet``: shorter side resized to this, then the centre is cut out (None =
            all images have one size already). A function of the user's own may look at it, too.
        channels: ``imagefolder`` and ``parquet``: 3 = RGB, 1 = grey; None = RGB unless all images are grey.
        val_share: share of the training images held out for validation (stratified).
        val_images: a number of images instead of the share.
        train_images: train on a stratified subset of this many images (None = all that are left).
        split_seed: seeds split and subset; deliberately apart from the trial's seed, so that trials with
            different seeds are judged on the same images.
        augment: ``auto`` is ``crop`` for digits (a mirrored 2 is no digit) and ``crop_flip`` otherwise.
        crop_padding: pixels of zero padding before the random crop (None = an eighth of the image's side).
        streaming: read images from disk batch by batch. ``auto`` does so where the decoded set is larger than
            ``memory_gib`` (None = a quarter of the machine's memory, half of the trial's part of a GPU). The
            batches are the same.
        workers: processes that read ahead while streaming (0 = none); no influence on the batches.
    """

    name: str = "digits"
    path: str | None = None
    download: bool = field(default=False, metadata=HANDLING)
    image_size: int | None = None
    channels: int | None = field(default=None, metadata=LATER)
    val_share: float = 0.1
    val_images: int | None = None
    train_images: int | None = None
    split_seed: int = 0
    augment: str = "auto"
    crop_padding: int | None = None
    streaming: bool | str = field(default="auto", metadata=HANDLING)
    memory_gib: float | None = field(default=None, metadata=HANDLING)
    workers: int = field(default=2, metadata=HANDLING)

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ConfigError(f"{self.name!r} is not a data set's name", "data.name")
        object.__setattr__(self, "path", place("data.path", self.path))
        number("data.val_share", self.val_share, 0.0, 0.9, open_low=True)
        if self.val_images is not None:
            integer("data.val_images", self.val_images, 1)
        if self.train_images is not None:
            integer("data.train_images", self.train_images, 1)
        if self.image_size is not None:
            integer("data.image_size", self.image_size, 1)
        if self.channels not in (None, 1, 3) or isinstance(self.channels, bool):
            raise ConfigError(
                f"{self.channels!r} is not a number of channels", "data.channels", "1, 3 or null"
            )
        integer("data.split_seed", self.split_seed, 0)
        one_of("data.augment", self.augment, AUGMENTATIONS)
        if self.crop_padding is not None:
            integer("data.crop_padding", self.crop_padding, 0)
        if not isinstance(self.streaming, bool) and self.streaming != "auto":
            raise ConfigError(f"{self.streaming!r} is unknown", "data.streaming", "auto, true or false")
        if self.memory_gib is not None:
            number("data.memory_gib", self.memory_gib, 0.0, math.inf)
        integer("data.workers", self.workers, 0)


@dataclass(frozen=True)
class ModelConfig:
    """Which network. ``width`` multiplies every channel count; ``weights`` starts from a state dict file.

    Output layers that the file has for another number of classes start from random weights.
    """

    name: str = "vgg_tiny"
    width: float = 1.0
    weights: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ConfigError(f"{self.name!r} is not a model's name", "model.name")
        object.__setattr__(self, "weights", place("model.weights", self.weights))
        number("model.width", self.width, 0.0, 64.0, open_low=True)
