"""Images in folders: ``train/<class>/<image>`` and ``test/<class>/<image>`` (or ``val``)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from gcp_core.config import DataConfig, digest
from gcp_core.data.cache import TEST_IMAGES, TRAIN_IMAGES, cached
from gcp_core.data.decode import channels_of, decode_image, source_folder
from gcp_core.data.images import RawData
from gcp_core.data.streaming import RowWriter
from gcp_core.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
TEST_FOLDERS = ("test", "val", "valid", "validation")


def load_imagefolder(config: DataConfig) -> RawData:
    """Every image below ``config.path``; classes are the folders of ``train`` in alphabetical order.

    The images are RGB; they have one channel with ``data.channels: 1``, or if all files of both splits are grey.

    Raises:
        DataError: a split or class is missing, an image cannot be decoded or has another size than the first.
    """
    root = source_folder(config)
    train = root / "train"
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        found = sorted(p.name for p in root.iterdir() if p.is_dir())
        raise DataError(
            "there must be a train folder, and a test or val folder"
            f" (found {', '.join(found[:5]) or 'no folder'}{', ...' * (len(found) > 5)})",
            str(root),
            "each holds a folder per class; validation images are cut from train, so test may hold those of val",
        )
    classes = sorted(p.name for p in train.iterdir() if p.is_dir())
    if not classes:
        raise DataError("no class folders", str(train))
    strangers = sorted({p.name for p in test.iterdir() if p.is_dir()} - set(classes))
    if strangers:
        raise DataError(f"class {strangers[0]!r} does not occur in {train.name}", str(test))
    files = {split: _files(split, classes) for split in (train, test)}

    def decode(folder: Path) -> RawData:
        channels = channels_of(config, paths)
        known = _decode(files[train], channels, config.image_size, folder / TRAIN_IMAGES)
        unseen = _decode(files[test], channels, config.image_size, folder / TEST_IMAGES)
        return RawData.build(*known, *unseen, tuple(classes), where=str(root))

    paths = [path for split in (train, test) for path, _ in files[split]]
    # Two sets of links to the same files may have other classes, and an empty folder is one.
    named = digest([classes, [str(path.relative_to(root)) for path in paths]])
    return cached(paths, decode, f"size{config.image_size} channels{config.channels} named{named}")


def _files(split: Path, classes: list[str]) -> list[tuple[Path, int]]:
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((split / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataError(f"no images ({', '.join(SUFFIXES)})", str(split))
    return found


def _decode(
    files: list[tuple[Path, int]], channels: int, image_size: int | None, target: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 ``(N, H, W, C)``, written to ``target`` one by one and mapped, and labels int64 ``(N,)``."""
    with RowWriter(target, len(files)) as writer:
        for path, _ in files:
            first = writer.shape
            pixels = decode_image(path, "the image", path, channels, image_size)
            if first and pixels.shape != first:
                raise DataError(
                    f"the image is {pixels.shape[:2]}, the first one {first[:2]}",
                    str(path),
                    "set data.image_size",
                )
            writer.append(pixels)
            if writer.written % 10_000 == 0:
                log.info("%d of %d images decoded", writer.written, len(files))
    return writer.array(), np.array([label for _, label in files], dtype=np.int64)
