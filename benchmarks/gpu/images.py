"""Images for the kit: CIFAR-10 in one file that needs nothing but NumPy to be read, or made ones.

    python -m benchmarks.gpu.images FOLDER_WITH_PARQUET_FILES gpu_data     # where pyarrow and Pillow are installed

A machine lent for an hour has torch and little else: the parquet files are unpacked before, and the folder travels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from gcp_core.config import DataConfig
from gcp_core.data.images import RawData
from gcp_core.errors import DataError

FILE = "cifar10.npz"
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def packed(config: DataConfig) -> RawData:
    """What :func:`main` has written into ``data.path``."""
    file = Path(config.path or ".") / FILE
    try:
        with np.load(file) as arrays:
            return RawData.build(*(arrays[name] for name in _ARRAYS), where=str(file))
    except (OSError, KeyError, ValueError) as exc:
        hint = "python -m benchmarks.gpu.images FOLDER_WITH_PARQUET_FILES gpu_data"
        raise DataError(f"cannot be read: {exc}", str(file), hint) from exc


def made(config: DataConfig) -> RawData:
    """50,000 images of CIFAR-10's shape (fewer with ``data.train_images``): a class has a colour, the rest is noise."""
    number = 2 * (config.train_images or 25_000)
    rng = np.random.default_rng(0)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % 10
        colour = rng.integers(0, 256, (10, 1, 1, 3))
        noise = rng.integers(-60, 61, (size, 32, 32, 3))
        return np.clip(colour[labels] + noise, 0, 255).astype(np.uint8), labels

    return RawData.build(*split(number), *split(max(100, number // 5)), where="made images")


def main() -> None:
    """Unpack the parquet files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parquet", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    from gcp_core.data.parquet import load_parquet

    raw = load_parquet(DataConfig("parquet", path=str(args.parquet)))
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez(args.out / FILE, **{name: getattr(raw, name) for name in _ARRAYS})
    print(f"{args.out / FILE}: {len(raw.train_images)} + {len(raw.test_images)} images")


if __name__ == "__main__":
    main()
