"""Sets that do not fit in memory: rows read from the decoded file as they are needed, by workers, ahead of time.

The cache (:mod:`gcp_core.data.cache`) keeps every set as plain uint8 arrays in ``.npy`` files, so one image is one
read at a known place, already decoded and resized. Streaming builds on those files: decoding appends to them row by
row, and an epoch reads the rows of each batch and nothing else. The main process draws order and augmentation exactly
as for a set in memory and hands the draws to the workers, so the batches are bit-equal to those of a set in memory,
for any number of workers.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gcp_core.config import DataConfig
from gcp_core.data.augment import Crops, apply_crops
from gcp_core.errors import DataError
from gcp_core.models.devices import has_gpu

#: ``streaming: auto`` keeps a set in memory up to this share of the machine's (or container's) memory ...
MEMORY_SHARE = 0.25
#: ... and, where there is a GPU, up to this share of what this process may have of the first one.
GPU_SHARE = 0.5
_GIB = 1 << 30
#: Batches each worker has ready or in the making.
_AHEAD = 2


class RowWriter:
    """Writes a ``.npy`` file of images one by one, so that decoding needs no memory for the whole set.

    Args:
        path: the file.
        num_rows: images that will come; fewer or more is an error.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        self.path, self.num_rows, self.written = path, num_rows, 0
        self.shape: tuple[int, ...] | None = None
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115  (closed by __exit__)

    def append(self, pixels: np.ndarray) -> None:
        """Add one uint8 ``(H, W, C)``, of the first one's shape.

        Raises:
            DataError: there is no room on the disk for a set of such images.
        """
        if self.shape is None:
            self._begin(pixels)
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise DataError(
                f"an image is {pixels.dtype} {pixels.shape}, not uint8 {self.shape}", str(self.path)
            )
        self._file.write(np.ascontiguousarray(pixels).data)
        self.written += 1

    def _begin(self, pixels: np.ndarray) -> None:
        needed, free = self.num_rows * pixels.nbytes, shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise DataError(
                f"the decoded images need {needed / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free",
                str(self.path.parent),
                "set GCP_CACHE_DIR to a larger disk, or data.image_size to a smaller size",
            )
        self.shape = pixels.shape
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.num_rows, *pixels.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and (self.written != self.num_rows or self.shape is None):
            raise DataError(f"{self.written} of {self.num_rows} images were decoded", str(self.path))

    def array(self) -> np.ndarray:
        """What was written, memory-mapped; call it after the ``with`` block."""
        return np.load(self.path, mmap_mode="r")


@dataclass(frozen=True)
class RowFile:
    """Rows of a uint8 array in a file. It is small, and each process opens the file itself.

    Attributes:
        path: the file; ``offset``: bytes before the first row.
        shape: ``(N, H, W, C)``.
    """

    path: str
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def behind(cls, array: np.ndarray) -> RowFile | None:
        """The file that a memory-mapped array shows as a whole; None for an array in memory."""
        base: object = array.base  # numpy says it is an array; of a memory map it is the map
        if not isinstance(array, np.memmap) or not isinstance(base, mmap) or not array.flags.c_contiguous:
            return None
        if array.filename is None or array.dtype != np.uint8:
            return None
        return cls(str(array.filename), int(array.offset), tuple(array.shape))

    def read(self, rows: Tensor) -> Tensor:
        """uint8 ``(B, H, W, C)``: the images in these rows (int64 ``(B,)``, any order).

        Raises:
            DataError: the file is gone or has been cut.
        """
        wanted = rows.numpy()
        out = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        if len(wanted) == 0:
            return torch.from_numpy(out)
        size = out[0].nbytes
        # Neighbouring rows come in one read: a split in its order is read in long pieces.
        starts = np.flatnonzero(np.append(True, np.diff(wanted) != 1))
        try:
            with open(self.path, "rb", buffering=0) as file:
                for start, stop in zip(starts, [*starts[1:], len(wanted)]):
                    file.seek(self.offset + int(wanted[start]) * size)
                    _fill(file, out[start:stop].data.cast("B"))
        except OSError as exc:
            raise DataError(f"the decoded images cannot be read: {exc}", self.path) from exc
        return torch.from_numpy(out)


def _fill(file: io.FileIO, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        got = file.readinto(buffer[done:])
        if not got:
            raise OSError("it ends too early; delete it to decode again")
        done += got


class _Batches(Dataset):
    """Item -> images. An item travels to a worker as arrays: tensors would travel as open files."""

    def __init__(self, source: RowFile) -> None:
        self._source = source

    def __getitem__(self, item: _Item) -> Tensor:
        rows, drawn = item
        images = self._source.read(torch.from_numpy(rows))
        if drawn is None:
            return images
        offsets, mirrored, padding = drawn
        flips = None if mirrored is None else torch.from_numpy(mirrored)
        return apply_crops(images, Crops(torch.from_numpy(offsets), flips, padding))


_Item = tuple[np.ndarray, tuple[np.ndarray, np.ndarray | None, int] | None]


class _Items:
    """The sampler: drawn in this process, in order, as the workers ask for more."""

    def __init__(self, drawn: Iterable[tuple[Tensor, Crops | None]]) -> None:
        self._drawn = drawn

    def __iter__(self) -> Iterator[_Item]:
        for rows, crops in self._drawn:
            if crops is None:
                yield rows.numpy(), None
            else:
                mirrored = None if crops.mirrored is None else crops.mirrored.numpy()
                yield rows.numpy(), (crops.offsets.numpy(), mirrored, crops.padding)


def stream(
    source: RowFile, items: Iterable[tuple[Tensor, Crops | None]], workers: int, pin: bool = False
) -> Iterator[Tensor]:
    """For each (rows, crops) the images uint8 ``(B, H, W, C)``, in order, read ahead by ``workers`` processes.

    At most ``2 * workers`` batches are in memory besides the one in use. 0 workers read in this process.

    Args:
        pin: copy to page-locked memory, from where a GPU can fetch.
    """
    methods = multiprocessing.get_all_start_methods()
    loader = DataLoader(
        _Batches(source),
        sampler=_Items(items),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=pin,
        # Fork: a worker is ready in milliseconds, and it only reads files.
        multiprocessing_context="fork" if workers and "fork" in methods else None,
        # A generator of its own: the loader would otherwise draw from the one that dropout uses.
        generator=torch.Generator(),
    )
    return iter(loader)


def should_stream(config: DataConfig, num_bytes: int) -> bool:
    """Whether a set of ``num_bytes`` decoded bytes is streamed (``data.streaming``, ``data.memory_gib``)."""
    if config.streaming != "auto":
        return bool(config.streaming)
    if config.memory_gib is not None:
        return num_bytes > config.memory_gib * _GIB
    limit = MEMORY_SHARE * machine_memory()
    if has_gpu():
        own = torch.cuda.get_per_process_memory_fraction(0) * torch.cuda.get_device_properties(0).total_memory
        limit = min(limit, GPU_SHARE * own)
    return num_bytes > limit


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container if that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):  # no such limit, or the word "max"
            continue
    return total
