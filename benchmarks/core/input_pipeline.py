"""Which share of an epoch is forward, backward and step? The rest is the input pipeline.

The clock runs inside the real training loop: the time spent waiting for each batch is taken out of the epoch's time.
A set in memory, and the same set streamed from disk by workers.

    python -m benchmarks.core.input_pipeline --path /data/cifar10 --out benchmarks/results/input_pipeline.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from unittest import mock

from benchmarks import record
from gcp_core import training
from gcp_core.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from gcp_core.cost.latency import threads
from gcp_core.data import training_batches
from gcp_core.training.setup import build_setup

GOAL = 0.95


class Clock:
    """Wraps the batch generator and adds up the time spent inside it."""

    def __init__(self) -> None:
        self.waited = 0.0

    def __call__(self, *args: object, **kwargs: object) -> Iterator:
        batches = iter(training_batches(*args, **kwargs))
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def epoch_share(setup: object, model: object, optimizer: object, epoch: int) -> tuple[float, float]:
    """Seconds of one epoch, and the share of them that is not waiting for a batch."""
    clock = Clock()
    with mock.patch("gcp_core.training.setup.training_batches", clock):
        start = time.perf_counter()
        training.train_epoch(model, optimizer, setup, epoch)
        seconds = time.perf_counter() - start
    return seconds, 1 - clock.waited / seconds


def main() -> None:
    """One warm-up epoch each, then epochs in turn; medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    record.add_out(parser)
    options = parser.parse_args()
    runs = {}
    for name, streaming in (("in memory", False), ("streamed", True)):
        data = DataConfig(
            name="parquet",
            path=options.path,
            train_images=options.images,
            streaming=streaming,
            workers=options.workers,
        )
        train = TrainConfig(epochs=options.epochs + 1, batch_size=128)
        setup = build_setup(TrialConfig(data=data, model=ModelConfig(options.model), train=train, prune=None))
        model = setup.new_model()
        runs[name] = (setup, model, training.build_optimizer(model, train))
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with threads(1):
        for epoch in range(1, options.epochs + 2):
            for name, run in runs.items():
                measured[name].append(epoch_share(*run, epoch))
    results = {
        name: {
            "epoch_s": [round(seconds, 3) for seconds, _ in values[1:]],
            "compute_share": statistics.median(share for _, share in values[1:]),
        }
        for name, values in measured.items()
    }
    share = results["in memory"]["compute_share"]
    record.write(options.out, {"model": options.model, **results, "goal": GOAL, "met": share >= GOAL})


if __name__ == "__main__":
    main()
