"""CIFAR-10 and CIFAR-100 in their original form, as torchvision keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gcp_core.config import DataConfig
from gcp_core.data.images import RawData
from gcp_core.errors import DataError


def load_cifar(config: DataConfig) -> RawData:
    """50,000 training and 10,000 test images ``(32, 32, 3)`` below ``config.path``.

    Raises:
        DataError: the files are not there (and ``data.download`` is off), or are damaged.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    if config.path is None:
        raise DataError(f"{config.name} needs a folder", "data.path", "data.path=/folder/of/the/files")
    kind = CIFAR10 if config.name == "cifar10" else CIFAR100
    try:
        train, test = (
            kind(Path(config.path).expanduser(), train=t, download=config.download) for t in (True, False)
        )
    except (RuntimeError, OSError) as exc:
        hint = "" if config.download else "data.download=true fetches it"
        raise DataError(f"{config.name} cannot be loaded: {exc}", f"data.path={config.path}", hint) from exc
    return RawData.build(
        train.data,
        np.asarray(train.targets),
        test.data,
        np.asarray(test.targets),
        tuple(train.classes),
        where=f"data.name={config.name}",
    )
