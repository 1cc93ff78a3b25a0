"""How long one forward pass takes: warmed up, repeated, with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.evaluation import mode


@dataclass(frozen=True)
class Latency:
    """Milliseconds per forward pass: median and quartiles over ``repeats`` timed passes."""

    median_ms: float
    low_ms: float
    high_ms: float
    batch_size: int
    threads: int
    repeats: int


@contextmanager
def threads(number: int) -> Iterator[None]:
    """``number`` intra-op threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_calls(call: Callable[[], object], repeats: int, warmup: int) -> list[float]:
    """Milliseconds of each of ``repeats`` calls after ``warmup`` untimed ones."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


@torch.no_grad()
def measure_latency(
    model: nn.Module, example_input: Tensor, *, num_threads: int = 1, repeats: int = 30, warmup: int = 5
) -> Latency:
    """Eager-mode latency of ``model`` on ``example_input`` (its batch size counts), in eval mode.

    Latency varies 10-40 % with what else the machine does: compare medians measured side by side only.
    """

    def forward() -> None:
        model(example_input)
        if example_input.is_cuda:
            torch.cuda.synchronize(example_input.device)

    with threads(num_threads), mode(model, training=False):
        times = time_calls(forward, repeats, warmup)
    low, median, high = statistics.quantiles(times, n=4)
    return Latency(median, low, high, len(example_input), num_threads, repeats)
