"""What the relevance pass costs, in eval forwards of the same batch, on ResNet-56 with 32 x 32 images.

    OMP_NUM_THREADS=1 python -m benchmarks.core.relevance_pass --out benchmarks/results/relevance_pass.json

Both sides run alternately in one process on one thread: CPU time, medians, ratios within a round. CPU time hides what
other processes take, but not the cache and memory they share. The forward is plain NCHW inference; the batch is the
one that events score with. "In a series" is a batch of a scoring run (weights are split by sign once a run), "alone" a
single call. Runs of the sweep set malloc to keep freed blocks (``sweeps.driver.cluster``); set here or not, it is
recorded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from gcp_core.data.pipeline import SCORING_BATCH
from gcp_core.models import build_model
from gcp_core.relevance import channel_relevance, relevance_pass

GOAL = 4.2


def measure_cost(batch: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of CPU time per batch, and ratios to the forward of the same round."""
    torch.manual_seed(0)
    model = build_model("resnet56", 10).eval()
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))

    def forward() -> Tensor:
        with torch.inference_mode():
            return model(images)

    with relevance_pass(model) as run:
        subjects: dict[str, Callable[[], Any]] = {
            "forward": forward,
            "in a series": lambda: run(images, labels),
            "alone": lambda: channel_relevance(model, images, labels),
        }
        times: dict[str, list[float]] = {name: [] for name in subjects}
        for subject in subjects.values():
            subject()
        for _ in range(repeats):
            for name, subject in subjects.items():
                times[name].append(cpu_ms(subject))
    return {name: described(values, times["forward"], batch) for name, values in times.items()}


def described(values: list[float], forwards: list[float], batch: int) -> dict[str, Any]:
    """Median milliseconds, images per second and, in forwards, median and quartiles."""
    ratios = [value / forward for value, forward in zip(values, forwards)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    median = statistics.median(values)
    return {
        "median_ms": round(median, 1),
        "images_per_s": round(1000 * batch / median, 1),
        "forwards": round(middle, 3),
        "forwards_quartiles": [round(low, 3), round(high, 3)],
    }


def cpu_ms(subject: Callable[[], Any]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    subject()
    return 1000 * (time.process_time() - started)


def main() -> None:
    """Measure, print, and write as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    record.add_out(parser)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=SCORING_BATCH)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    cost = measure_cost(options.batch, options.repeats)
    results = {
        "model": "resnet56",
        "batch": options.batch,
        "repeats": options.repeats,
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        "cost": cost,
        "goal_forwards": GOAL,
        "met": cost["in a series"]["forwards"] <= GOAL,
    }
    record.write(options.out, results)


if __name__ == "__main__":
    main()
