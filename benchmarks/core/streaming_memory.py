"""How much memory does a set need that is larger than the memory it is given? Decoding once, then whole epochs.

A parquet file of JPEG images is made, far larger decoded than encoded; ``data.memory_gib`` is set below that, so it is
streamed. Measured is by how much the memory of the process grows (its share of anonymous and shared pages; mapped file
pages are the system's to take back), worker processes included: while decoding ten times a second, then at every batch.
It may depend on the batch, the row group and what a worker process copies, but not on the size of the set.

    python -m benchmarks.core.streaming_memory --out benchmarks/results/streaming_memory.json
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import record
from gcp_core.config import DataConfig
from gcp_core.data import load_splits, training_batches

#: Memory that a set four times as large may take, over that of the set.
GOAL = 1.25
#: Growths below this are noise (the allocator keeps what it got).
FLOOR_MIB = 64
MIB = 1 << 20


def make_parquet(folder: Path, number: int, side: int) -> int:
    """``number`` training images ``side`` x ``side``, a few hundred to a row group; bytes of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng = np.random.default_rng(0)
    kind = pa.schema([("img", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())])
    for split, count in (("train", number), ("test", 16)):
        with pq.ParquetWriter(folder / f"{split}.parquet", kind) as writer:
            for start in range(0, count, 256):
                labels = list(range(start, min(start + 256, count)))
                rows = []
                for _ in labels:
                    coarse = rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
                    file = io.BytesIO()
                    Image.fromarray(coarse).resize((side, side), 2).save(file, "JPEG", quality=85)
                    rows.append({"bytes": file.getvalue()})
                table = {"img": rows, "label": [label % 4 for label in labels]}
                writer.write_table(pa.Table.from_pydict(table, schema=kind))
    return (folder / "train.parquet").stat().st_size


def held_bytes() -> int:
    """Proportional anonymous and shared memory of this process and its children."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    return sum(_pss(process) for process in (str(own), *children))


def _pss(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # a worker that has just ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


class Peak:
    """The largest :func:`held_bytes` since the start, above what was held then; seen ten times a second."""

    def __init__(self) -> None:
        self._before = self._most = held_bytes()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> int:
        self._over.set()
        self._watcher.join()
        return max(self._most, held_bytes()) - self._before

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._most = max(self._most, held_bytes())


def epoch(config: DataConfig, batch_size: int) -> tuple[float, float]:
    """Read one augmented epoch: growth in MiB, seen at every batch, and seconds."""
    splits = load_splits(config)
    options = {"batch_size": batch_size, "augment": "crop_flip", "padding": 8, "seed": 0, "epoch": 1}
    before, most, start = held_bytes(), 0, time.perf_counter()
    for _ in training_batches(splits.train, splits.normalise, **options):
        # Between batches no process starts or ends; while one does, shares of pages do not add up.
        most = max(most, held_bytes())
    return (most - before) / MIB, time.perf_counter() - start


def measure(images: int, side: int, batch_size: int, workers: int) -> dict[str, float | bool]:
    """One set in a fresh process: decode it, read an epoch without workers, then one with workers; MiB."""
    decoded = images * side**2 * 3
    with tempfile.TemporaryDirectory() as place:
        os.environ["GCP_CACHE_DIR"] = str(Path(place) / "cache")
        encoded = make_parquet(Path(place), images, side)
        limits = {"memory_gib": 0.1 * decoded / (1 << 30), "path": place}
        results: dict[str, float | bool] = {
            "images": images,
            "encoded": encoded / MIB,
            "decoded": decoded / MIB,
        }
        peak = Peak()
        splits = load_splits(DataConfig("parquet", workers=0, **limits))
        results |= {"streamed": splits.train.source is not None, "decoding": peak.stop() / MIB}
        for number in (0, workers):
            growth, seconds = epoch(DataConfig("parquet", workers=number, **limits), batch_size)
            results |= {f"epoch_{number}_workers": growth, f"epoch_s_{number}_workers": seconds}
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in results.items()}


def main() -> None:
    """A set and one four times as large; the memory that each of them takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    record.add_out(parser)
    options = parser.parse_args()
    rest = (options.side, options.batch_size, options.workers)
    # Not multiprocessing.Pool: its processes may not start any of their own.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        small, large = (pool.submit(measure, options.images * n, *rest).result() for n in (1, 4))
    stages = ("decoding", "epoch_0_workers", f"epoch_{options.workers}_workers")
    growth = {name: round(float(large[name]) / max(float(small[name]), FLOOR_MIB), 2) for name in stages}
    results = {
        "memory_mib": {"set": small, "set four times as large": large},
        "float_batch_mib": round(options.batch_size * options.side**2 * 12 / MIB, 1),
        "larger_over_smaller": growth,
        "load_average": round(os.getloadavg()[0], 1),
        "goal": GOAL,
        "met": bool(small["streamed"] and large["streamed"]) and max(growth.values()) <= GOAL,
    }
    record.write(options.out, results)


if __name__ == "__main__":
    main()
