"""The containers: raw arrays, row views on them, and the three splits of a trial."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcp_core.data.streaming import RowFile
from gcp_core.errors import DataError

#: What digest and statistics look at at a time.
CHUNK_BYTES = 1 << 24
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RawData:
    """A data set as its source provides it.

    Attributes:
        train_images, test_images: uint8 ``(N, H, W, C)``, C = 1 or 3; may be memory-mapped.
        train_labels, test_labels: int64 ``(N,)``, 0 .. number of classes - 1.
        class_names: one per class, or empty.
        digest: names images and labels (see :func:`content_digest`).
        mean, std: per channel, on the 0..1 scale: what images are normalised with, usually those of the training images
            (``dataclasses.replace(RawData.build(...), mean=..., std=...)`` gives others).
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes (largest training label + 1)."""
        return int(self.train_labels.max()) + 1

    @classmethod
    def build(
        cls,
        train_images: np.ndarray,
        train_labels: np.ndarray,
        test_images: np.ndarray,
        test_labels: np.ndarray,
        class_names: tuple[str, ...] = (),
        where: str = "data",
    ) -> RawData:
        """Check the arrays and compute digest and statistics.

        Raises:
            DataError: wrong shape or type, labels out of range, a class without training images.
        """
        arrays = _checked(train_images, train_labels, test_images, test_labels, class_names, where)
        return cls(*arrays, content_digest(*arrays), *channel_statistics(arrays[0]), tuple(class_names))

    def as_it_is(self, where: str = "data") -> RawData:
        """The same, checked, under the digest of what it holds now: whoever made it by hand may have changed something
        after :meth:`build`.

        Raises:
            DataError: as :meth:`build`; or mean and std are no number for each channel.
        """
        arrays = _checked(
            self.train_images, self.train_labels, self.test_images, self.test_labels, self.class_names, where
        )
        mean, std = _numbers(self.mean), _numbers(self.std)
        channels = arrays[0].shape[-1]
        if not (len(mean) == len(std) == channels and min(std) > 0):
            hint = f"{channels} finite numbers each on the 0..1 scale, std above 0"
            raise DataError(f"mean {self.mean} and std {self.std} do not fit the images", where, hint)
        return RawData(*arrays, content_digest(*arrays), mean, std, tuple(self.class_names))


def _numbers(values: Any) -> tuple[float, ...]:
    """Plain ones, which have one form in keys and files; empty if they are no finite numbers."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _checked(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    class_names: tuple[str, ...],
    where: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The arrays as torch takes them; DataError if they are no data set."""
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check_images(train_images, train_labels, f"{where} (train)")
    _check_images(test_images, test_labels, f"{where} (test)")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"training images are {train_images.shape[1:]}, test images {test_images.shape[1:]}", where
        )
    _check_labels(train_labels, test_labels, class_names, where)
    labels = train_labels.astype(np.int64), test_labels.astype(np.int64)
    return _forwards(train_images), labels[0], _forwards(test_images), labels[1]


def _forwards(images: np.ndarray) -> np.ndarray:
    """A copy where the array runs backwards, as ``bgr[..., ::-1]`` does: torch takes none that does."""
    return np.ascontiguousarray(images) if min(images.strides) < 0 else images


def _check_images(images: np.ndarray, labels: np.ndarray, where: str) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise DataError(
            f"images are {images.dtype} {images.shape}", where, "uint8 (N, H, W, C) with C = 1 or 3 is needed"
        )
    if labels.ndim != 1:
        raise DataError(
            f"labels are {labels.dtype} {labels.shape}", where, "(N,) is needed: one number an image"
        )
    if len(images) == 0 or len(images) != len(labels):
        raise DataError(f"{len(images)} images and {len(labels)} labels", where)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are {labels.dtype}, not whole numbers", where)


def _check_labels(train: np.ndarray, test: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """Every class 0 .. K-1 has a training image, and no other label occurs."""
    classes = len(names) or int(train.max()) + 1
    for split, labels in (("train", train), ("test", test)):
        bad = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(bad):
            row = int(bad[0])
            # As the hub has the test images of some sets, ImageNet among them.
            without = (
                "-1 is an image without a label: leave the test files out, validation*.parquet is taken then"
            )
            raise DataError(
                f"label {int(labels[row])} in row {row} is out of range 0..{classes - 1}",
                f"{where} ({split})",
                without if split == "test" and (labels == -1).all() else "",
            )
    missing = np.setdiff1d(np.arange(classes), train)
    if len(missing):
        shown = ", ".join(f"{c} ({names[c]!r})" if names else str(c) for c in missing[:5].tolist())
        raise DataError(
            f"labels run to {classes - 1}, but no training image has class {shown}{', ...' * (len(missing) > 5)}",
            f"{where} (train)",
            "leave out classes without images" if names else "labels must be 0 .. number of classes - 1",
        )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0..1 scale, from exact integer histograms."""
    counts_of = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for part in _in_chunks(images):
        for channel in range(images.shape[-1]):
            counts_of[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    mean, std = [], []
    values = np.arange(256) / 255
    for counts in counts_of:
        m = float((counts * values).sum() / counts.sum())
        v = float((counts * (values - m) ** 2).sum() / counts.sum())
        mean.append(round(m, 6))
        std.append(round(max(v**0.5, 1e-3), 6))
    return tuple(mean), tuple(std)


def content_digest(*arrays: np.ndarray) -> str:
    """Sixteen hex digits of the SHA-256 over shapes and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        for part in _in_chunks(array):
            sha.update(np.ascontiguousarray(part).tobytes())
    return sha.hexdigest()[:16]


def _in_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in pieces of at most :data:`CHUNK_BYTES`: the array may be larger than the memory."""
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


@dataclass(frozen=True)
class Images:
    """A subset of the rows of a data set; the pixels are shared, not copied.

    Attributes:
        pixels: uint8 ``(all rows, H, W, C)``.
        all_labels: int64 ``(all rows,)``.
        rows: int64 ``(N,)``, the rows that belong to this split, ascending.
        source: where a streamed set's pixels are read from, batch by batch (``pixels`` then only maps them); None =
            they are in memory. ``workers`` processes read ahead.
        target: the device for the batches of a streamed set.
    """

    pixels: Tensor
    all_labels: Tensor
    rows: Tensor
    source: RowFile | None = None
    workers: int = 0
    target: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        """int64 ``(N,)``."""
        return self.all_labels[self.rows]

    @property
    def images(self) -> Tensor:
        """uint8 ``(N, H, W, C)``, a copy."""
        return self.pixels[self.rows]

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, H, W, C)`` and labels ``(B,)`` at these positions of the split."""
        rows = self.rows[positions]
        if self.source is not None:
            return self.source.read(rows).to(self.target), self.all_labels[rows].to(self.target)
        return self.pixels[rows], self.all_labels[rows]

    def to(self, device: torch.device) -> Images:
        """The same split with pixels and labels on ``device`` (itself if they are already there).

        A streamed split stays on disk; its batches will arrive on ``device``.
        """
        if self.source is not None:
            return replace(self, target=torch.device(device))
        if self.pixels.device == device:
            return self
        # Only this split's rows travel: a validation split should not carry the training set along.
        rows = torch.arange(len(self), device=device)
        return Images(self.images.to(device), self.labels.to(device), rows)

    def subset(self, positions: Tensor) -> Images:
        """The split restricted to these positions (order kept)."""
        return replace(self, rows=self.rows[positions])


@dataclass(frozen=True)
class Normalise:
    """uint8 ``(B, H, W, C)`` -> float32 ``(B, C, H, W)``, zero mean and unit deviation per channel.

    The result has channels-last strides for free, since images are stored that way.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, channels_last: bool = True) -> Tensor:
        scale, shift = _scale_and_shift(self.mean, self.std, images.device)
        out = _new_floats(images).copy_(images).mul_(scale).sub_(shift).permute(0, 3, 1, 2)
        return out if channels_last else out.contiguous()


def _new_floats(like: Tensor) -> Tensor:
    """Uninitialised float32 of this shape, on this device."""
    if like.device.type != "cpu":
        return torch.empty(like.shape, dtype=torch.float32, device=like.device)
    # NumPy's memory: glibc before 2.38 does not use freed *aligned* blocks (torch's) again, so that the heap of a process
    # that streams large batches grew by a batch every step.
    return torch.from_numpy(np.empty(like.shape, dtype=np.float32))


@lru_cache(maxsize=16)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Built once per device: a GPU would otherwise wait for two small copies in every batch."""
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        shift = torch.tensor([m / s for m, s in zip(mean, std)], device=device)
    return scale, shift


@dataclass(frozen=True)
class Splits:
    """The splits on which a trial trains, chooses and reports."""

    train: Images
    val: Images
    test: Images
    num_classes: int
    normalise: Normalise
    digest: str
    class_names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Names all that the batches are made of: images, labels, and how images are normalised."""
        return f"{self.digest} {self.mean} {self.std}"

    def unlike(self, manifest: Mapping[str, Any]) -> str:
        """How these differ from the data that a manifest is of, in words; "" = they are the same."""
        trained_on = manifest.get("data_digest")
        if trained_on != self.digest:
            return f"the data now has digest {self.digest}, the model was trained on {trained_on}"
        for name in ("mean", "std"):
            now = list(getattr(self, name))
            then = manifest.get(name, now)
            if then != now:
                return f"the images are now normalised with {name} {now}, the model was trained with {then}"
        return ""

    @property
    def in_channels(self) -> int:
        """1 or 3."""
        return int(self.train.pixels.shape[-1])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.train.pixels.shape[1]), int(self.train.pixels.shape[2])

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, 0..1."""
        return self.normalise.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, 0..1."""
        return self.normalise.std
