"""From an encoded image to pixels, and from a configuration to its folder: shared by the file readers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from gcp_core.config import DataConfig
from gcp_core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


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


def channels_of(config: DataConfig, sources: Iterable[IO[bytes] | Path]) -> int:
    """``data.channels`` if it is set; otherwise 1 if every one of the encoded images is grey, 3 if one has colours.

    Only headers are read, and only up to the first image in colour.
    """
    if config.channels is not None:
        return config.channels
    return 1 if all(_is_grey(source) for source in sources) else 3


def decode_image(
    source: IO[bytes] | Path, what: str, where: Path | str, channels: int, image_size: int | None = None
) -> np.ndarray:
    """uint8 ``(H, W, C)`` of one encoded image: what one sees of it on white paper.

    Palettes are resolved, transparent parts show white, 16-bit greys are scaled to 8 bits.

    Args:
        what, where: name the image in an error.
        channels: 1 (grey; colours by their luminance) or 3.
        image_size: resize the shorter side to this (bilinear), then cut out the centre.

    Raises:
        DataError: it is not an image, is damaged, or its pixels have no known range.
    """
    from PIL import Image

    try:
        with Image.open(source) as opened:
            image = _on_white(_eight_bits(opened)).convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(image if image_size is None else _fit(image, image_size))
    except MemoryError:
        raise
    except Exception as exc:  # EOFError, struct.error, Pillow's own: decoders raise what they like
        raise DataError(f"{what} cannot be decoded: {str(exc) or type(exc).__name__}", str(where)) from exc
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _is_grey(source: IO[bytes] | Path) -> bool:
    """Whether the image has no colours; False for what is not an image (decoding will say so)."""
    from PIL import Image

    try:
        with Image.open(source) as image:
            if image.mode in ("P", "PA"):
                colours = np.reshape(image.getpalette() or [0, 0, 0], (-1, 3))
                return bool((colours == colours[:, :1]).all())
            return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    except Exception:  # whatever a decoder raises
        return False


def _eight_bits(image: Image) -> Image:
    """16-bit greys scaled to 8 bits (as PIL does it for colours); anything else as it is."""
    from PIL.Image import fromarray

    if image.mode == "F":
        raise ValueError("its pixels are float numbers, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its pixels go from {values.min()} to {values.max()}, not from 0 to 65535")
    return fromarray((values >> 8).astype(np.uint8))


def _on_white(image: Image) -> Image:
    """Without transparency: whatever colour is hidden below it is not part of the picture."""
    from PIL.Image import alpha_composite, new

    if image.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return alpha_composite(new("RGBA", image.size, "white"), image)


def _fit(image: Image, size: int) -> Image:
    width, height = image.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), 2).crop((left, top, left + size, top + size))
