"""Does a training step get faster when channels go? Steps of pruned ResNet-56 against the dense one.

    MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456 \\
        OMP_NUM_THREADS=1 python -m benchmarks.core.half_width_step --out benchmarks/results/half_width_step.json

Every network starts as the same dense model with its optimiser and is really pruned (surgery moves weights and
momentum): all groups to half their width in each residual mode, and ``scatter`` and ``inner`` also down to the MACs of
``coupled`` at half widths. Batch 128, one thread, float32, channels-last, fused SGD and the malloc settings of a sweep's
workers: what a trial runs with. Every round gives each network a few steps in turn, so that the machine's other work
slows all alike; CPU time of the process, medians of rounds, ratios within a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks import record
from gcp_core.config import TrainConfig
from gcp_core.cost import measure_cost
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, Ranking, select_channels
from gcp_core.pruning.surgery import apply_plan, remove_channels
from gcp_core.steps import loss_of
from gcp_core.training.epoch import build_optimizer

GOAL = 0.45
EXAMPLE = torch.zeros(1, 3, 32, 32)


@dataclass(frozen=True)
class Net:
    """A network in training and what one image costs it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    macs: int


def dense(name: str) -> Net:
    """The dense model after one step, so that there is momentum to move."""
    torch.manual_seed(0)
    model = build_model(name, 10).to(memory_format=torch.channels_last).train()
    net = Net(model, build_optimizer(model, TrainConfig()), measure_cost(model, EXAMPLE).macs)
    step(net, *batch(8))
    return net


def halved(name: str, residual: str) -> Net:
    """Every group of the mode loses the first half of its units."""
    net = dense(name)
    groups = find_groups(net.model, EXAMPLE, residual=residual)
    gone = {group.name: list(range(group.size // 2)) for group in groups.groups}
    remove_channels(
        net.model, gone, example_input=EXAMPLE, optimizer=net.optimizer, residual=residual, strict=True
    )
    return Net(net.model, net.optimizer, measure_cost(net.model, EXAMPLE).macs)


def cut_to(name: str, residual: str, macs: int) -> Net:
    """Every group of the mode loses the same share, until ``macs`` are left."""
    net = dense(name)
    groups = find_groups(net.model, EXAMPLE, residual=residual)
    scores = {layer: torch.arange(size).double() for layer, size in groups.scored_layers().items()}
    budget = Budget(ratio=0.99, limit=float(macs), ranking=Ranking(allocator="uniform"))
    apply_plan(net.model, select_channels(scores, groups, budget), net.optimizer)
    return Net(net.model, net.optimizer, measure_cost(net.model, EXAMPLE).macs)


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and labels."""
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return images.to(memory_format=torch.channels_last), torch.arange(size) % 10


def step(net: Net, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One training step as a trial makes it."""
    loss = loss_of(net.model(images), labels, 0.0)
    net.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    net.optimizer.step()


def measure(nets: dict[str, Net], size: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """CPU milliseconds per step, one number a round."""
    images, labels = batch(size)
    times: dict[str, list[float]] = {label: [] for label in nets}
    for net in nets.values():
        step(net, images, labels)
    for _ in range(rounds):
        for label, net in nets.items():
            times[label].append(cpu_ms(lambda n=net: [step(n, images, labels) for _ in range(steps)]) / steps)
    return times


def cpu_ms(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return 1000 * (time.process_time() - started)


def main() -> None:
    """Build, prune, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="per network and round")
    record.add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    nets = {"dense": dense(options.model)}
    nets |= {f"{mode}, half widths": halved(options.model, mode) for mode in ("coupled", "scatter", "inner")}
    macs = nets["coupled, half widths"].macs
    nets |= {f"{mode}, same MACs": cut_to(options.model, mode, macs) for mode in ("scatter", "inner")}
    times = measure(nets, options.batch, options.rounds, options.steps)
    table = {}
    for label, values in times.items():
        ratios = [value / whole for value, whole in zip(values, times["dense"])]
        table[label] = {
            "macs_left": nets[label].macs / nets["dense"].macs,
            "params_left": measure_cost(nets[label].model, EXAMPLE).params
            / measure_cost(nets["dense"].model, EXAMPLE).params,
            "median_ms": round(statistics.median(values), 1),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)],
        }
    best = table["coupled, half widths"]["ratio"]
    record.write(
        options.out,
        {
            "model": options.model,
            "batch": options.batch,
            "clock": "CPU time of the process",
            "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
            "networks": table,
            "goal": GOAL,
            "met": best <= GOAL,
        },
    )


if __name__ == "__main__":
    main()
