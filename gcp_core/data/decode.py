"""From an encoded image to pixels, and from a configuration to its folder: shared by the file readers."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from gcp_core.config import DataConfig
from gcp_core.errors import DataError


def source_folder(config: DataConfig) -> Path:
    """``config.path`` as an existing folder.

    Raises:
        DataError: no path was given, or it is not a folder.
    """
    if config.path is None:
        raise DataError(
            f"{config.name} needs the folder of its files", "data.path", "data.path=/folder/of/the/images"
        )
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"{config.path!r} is not a folder", "data.path")
    return root


def decode_image(
    source: IO[bytes] | Path, what: str, where: Path, channels: int | None, image_size: int | None = None
) -> np.ndarray:
    """uint8 ``(H, W, C)`` of one encoded image.

    Args:
        what, where: name the image in an error.
        channels: 1 or 3; None lets this image decide (grey stays grey).
        image_size: resize the shorter side to this (bilinear), then cut out the centre.
    """
    from PIL import Image

    try:
        with Image.open(source) as image:
            grey = image.mode in ("L", "1") if channels is None else channels == 1
            image = image.convert("L" if grey else "RGB")
            pixels = np.asarray(image if image_size is None else _fit(image, image_size))
    except (OSError, ValueError, SyntaxError) as exc:
        raise DataError(f"{what} cannot be decoded: {exc}", str(where)) from exc
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _fit(image, size: int):  # type: ignore[no-untyped-def]  # a PIL image; PIL is optional
    width, height = image.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), 2).crop((left, top, left + size, top + size))
