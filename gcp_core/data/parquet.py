"""Images in parquet files, in the layout Hugging Face data sets use."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcp_core.config import DataConfig
from gcp_core.data.cache import TEST_IMAGES, TRAIN_IMAGES, cached
from gcp_core.data.decode import channels_of, decode_image, source_folder
from gcp_core.data.images import RawData
from gcp_core.data.streaming import RowWriter
from gcp_core.errors import DataError

log = logging.getLogger(__name__)

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
#: File-name prefixes of the two source splits; the first kind that is found is taken.
TRAIN_PREFIXES = ("train",)
TEST_PREFIXES = ("test", "validation", "valid")
#: Encoded images that are in memory at a time.
_BATCH_ROWS = 256


def load_parquet(config: DataConfig) -> RawData:
    """Train and test images below ``config.path`` (``train*.parquet``, ``test*.parquet``, also in ``data/``).

    The image column (``img`` or ``image``) is a struct with ``bytes``, an encoded image; ``label`` holds integers.
    The images are RGB; they have one channel with ``data.channels: 1``, or if all of both splits are grey. With
    ``data.image_size`` they are resized, as those of image folders are.

    Raises:
        DataError: the path, a file, a column or an image is missing or corrupt, or labels are out of range.
    """
    root = source_folder(config)
    train, test = _files(root, TRAIN_PREFIXES), _files(root, TEST_PREFIXES)

    def decode(folder: Path) -> RawData:
        channels = channels_of(config, _encoded([*train, *test]))
        train_images, train_labels, names = _decode(train, channels, config.image_size, folder / TRAIN_IMAGES)
        test_images, test_labels, _ = _decode(test, channels, config.image_size, folder / TEST_IMAGES)
        return RawData.build(train_images, train_labels, test_images, test_labels, names, where=str(root))

    size = "" if config.image_size is None else f" size{config.image_size}"
    return cached([*train, *test], decode, f"channels{config.channels} train{len(train)}{size}")


def _files(root: Path, prefixes: Sequence[str]) -> list[Path]:
    for prefix in prefixes:
        found = sorted([*root.glob(f"{prefix}*.parquet"), *root.glob(f"data/{prefix}*.parquet")])
        if found:
            return found
    here = sorted(p.name for p in [*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    below = sorted({p.parent for p in root.glob("*/*.parquet")})
    if here:
        hint = "a set without this split: keep a part of another one back for it"
    elif below:
        hint = f"there are some in {below[0]}: is that the folder?"
    else:
        hint = (
            "a Hugging Face data set is written with dataset['train'].to_parquet('train.parquet'), and so on"
        )
    wanted = " or ".join(f"{prefix}*.parquet" for prefix in prefixes)
    raise DataError(
        f"no {wanted}, there or in its folder data (found {', '.join(here[:5]) or 'no parquet files'})",
        str(root),
        hint,
    )


def _encoded(files: Sequence[Path]) -> Iterator[io.BytesIO]:
    """Every image of the files, encoded; what is not an image comes as empty bytes."""
    for file in files:
        table = _open(file)
        image_column, _ = _columns(table.schema_arrow.names, file)
        for batch in _batches(table, [image_column], file):
            for item in batch[image_column]:
                encoded = _bytes_of(item)
                yield io.BytesIO(encoded if isinstance(encoded, bytes) else b"")


def _decode(
    files: Sequence[Path], channels: int, image_size: int | None, target: Path
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images uint8 ``(N, H, W, C)``, labels int64 ``(N,)`` and class names (may be empty).

    The images are written to ``target`` one by one and come back memory-mapped.
    """
    labels: list[int] = []
    names: tuple[str, ...] = ()
    # None is held open beside the next one: a set may have more files than a process may have open.
    with RowWriter(target, sum(_open(file).metadata.num_rows for file in files)) as writer:
        for file in files:
            table = _open(file)
            columns = _columns(table.schema_arrow.names, file)
            names = names or _class_names(table.schema_arrow, columns[1])
            for batch in _batches(table, columns, file):
                _decode_batch(batch, columns, channels, image_size, file, writer, labels)
    return writer.array(), np.asarray(labels, dtype=np.int64), names


def _open(file: Path) -> Any:
    try:
        import PIL.Image  # noqa: F401
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise DataError(f"parquet needs {exc.name}", "data.name", "pip install 'gcp-sweep[data]'") from exc
    try:
        return pq.ParquetFile(file)
    except (OSError, ValueError) as exc:
        raise DataError(f"cannot be read as parquet: {exc}", str(file)) from exc


def _batches(table: Any, columns: Sequence[str], file: Path) -> Iterator[dict[str, list[Any]]]:
    """The rows of these columns, some at a time, by column."""
    try:
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
            yield batch.to_pydict()
    except (OSError, ValueError) as exc:
        raise DataError(f"cannot be read as parquet: {exc}", str(file)) from exc


def _columns(present: Sequence[str], file: Path) -> tuple[str, str]:
    found = []
    for wanted in (IMAGE_COLUMNS, LABEL_COLUMNS):
        match = next((name for name in wanted if name in present), None)
        if match is None:
            raise DataError(
                f"no column {' or '.join(wanted)} (has {', '.join(present)})",
                str(file),
                f"rename the column of the {'images' if wanted is IMAGE_COLUMNS else 'labels'}, or read the files"
                " with a function of your own (data.name: package.module:factory)",
            )
        found.append(match)
    return found[0], found[1]


def _decode_batch(
    batch: dict[str, list[Any]],
    columns: tuple[str, str],
    channels: int,
    image_size: int | None,
    file: Path,
    writer: RowWriter,
    labels: list[int],
) -> None:
    for item, label in zip(batch[columns[0]], batch[columns[1]]):
        row = writer.written
        encoded = _bytes_of(item)
        if not isinstance(encoded, bytes):
            raise DataError(f"row {row} holds no image bytes", str(file))
        if not isinstance(label, int):
            raise DataError(
                f"row {row} has label {label!r}, not a whole number",
                str(file),
                f"one label an image, 0 .. number of classes - 1, in the column {columns[1]}",
            )
        first = writer.shape
        pixels = decode_image(io.BytesIO(encoded), f"the image in row {row}", file, channels, image_size)
        if first and pixels.shape != first:
            raise DataError(
                f"row {row} is {pixels.shape[:2]}, the first image {first[:2]}",
                str(file),
                "set data.image_size",
            )
        writer.append(pixels)
        labels.append(label)
        if writer.written % 10_000 == 0:
            log.info("%s: %d images decoded", file.name, writer.written)


def _bytes_of(item: Any) -> Any:
    return item.get("bytes") if isinstance(item, dict) else item


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Names of the classes in the label column, from the data set's own metadata, if it has them in the usual form."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()
