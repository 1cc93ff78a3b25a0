"""From a :class:`~gcp_core.config.DataConfig` to the three splits of a trial."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch

from gcp_core.config import DataConfig
from gcp_core.data.cifar import load_cifar
from gcp_core.data.digits import load_digits
from gcp_core.data.imagefolder import load_imagefolder
from gcp_core.data.images import Images, Normalise, RawData, Splits
from gcp_core.data.parquet import load_parquet
from gcp_core.data.split import train_val_rows
from gcp_core.data.streaming import RowFile, should_stream
from gcp_core.errors import DataError, did_you_mean
from gcp_core.factory import call_factory, is_factory_name, load_factory
from gcp_core.seeds import generator

log = logging.getLogger(__name__)

SOURCES: dict[str, Callable[[DataConfig], RawData]] = {
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "digits": load_digits,
    "imagefolder": load_imagefolder,
    "parquet": load_parquet,
}
#: Whose images may have several sizes, until ``data.image_size`` gives them one.
RESIZED = ("imagefolder", "parquet")


def data_names() -> list[str]:
    """The built-in data sets; ``package.module:factory`` works too."""
    return sorted(SOURCES)


def load_raw(config: DataConfig) -> RawData:
    """All images of the source, unsplit.

    A factory named by ``package.module:factory`` takes the :class:`DataConfig` and returns a :class:`RawData`
    (see :meth:`RawData.build`).
    """
    if config.name in SOURCES:
        if config.image_size is not None and config.name not in RESIZED:
            raise DataError(
                f"{config.image_size!r}: {config.name} images are taken as they are",
                "data.image_size",
                f"null; {' and '.join(RESIZED)} resize theirs",
            )
        data = SOURCES[config.name](config)
    elif is_factory_name(config.name):
        factory = load_factory(config.name, "data.name", DataError)
        data = call_factory(factory, config.name, "data.name", DataError, config)
        if not isinstance(data, RawData):
            raise DataError(f"{config.name} returned a {type(data).__name__}, not a RawData", "data.name")
        data = data.as_it_is(config.name)
    else:
        hint = did_you_mean(config.name, data_names())
        raise DataError(f"{config.name!r} is unknown", "data.name", f"{hint}; or package.module:factory")
    own = data.train_images.shape[-1]
    if config.channels not in (None, own):
        given = f"{config.channels} channels were requested, but the images of {config.name} have {own}"
        raise DataError(given, "data.channels", "null takes them as they are")
    return data


@lru_cache(maxsize=2)
def load_splits(config: DataConfig) -> Splits:
    """Training, validation and test images of ``config``.

    The validation split (and a training subset) is stratified and depends on ``config.split_seed`` only. The last
    two results are kept, so a worker that runs trial after trial loads its data once.
    """
    raw = load_raw(config)
    labels = torch.from_numpy(raw.train_labels)
    train, val = train_val_rows(
        labels,
        config.val_share,
        config.val_images,
        config.train_images,
        generator(config.split_seed, "split"),
    )
    train_images = Images(torch.from_numpy(raw.train_images), labels, train)
    test_labels = torch.from_numpy(raw.test_labels)
    test_images = Images(torch.from_numpy(raw.test_images), test_labels, torch.arange(len(test_labels)))
    if should_stream(config, raw.train_images.nbytes + raw.test_images.nbytes):
        train_images, test_images = (
            replace(images, source=RowFile.behind(array), workers=config.workers)
            for images, array in ((train_images, raw.train_images), (test_images, raw.test_images))
        )
        if train_images.source is None:
            log.info("%s is in memory already: it is not streamed", config.name)
    return Splits(
        train=train_images,
        val=replace(train_images, rows=val),
        test=test_images,
        num_classes=raw.num_classes,
        normalise=Normalise(raw.mean, raw.std),
        digest=raw.digest,
        class_names=raw.class_names,
    )


def resolve_augmentation(config: DataConfig, image_size: tuple[int, int]) -> tuple[str, int]:
    """``auto`` and None made concrete: the augmentation's name and its padding in pixels."""
    augment = config.augment
    if augment == "auto":
        augment = "crop" if config.name == "digits" else "crop_flip"
    padding = max(1, min(image_size) // 8) if config.crop_padding is None else config.crop_padding
    return augment, padding
