"""What the relevance pass costs, in eval forwards of the same batch; with --coverage, on which networks it runs.

    OMP_NUM_THREADS=1 python benchmarks/relevance_pass.py [--coverage] --out benchmarks/results/relevance_pass.json

Both sides run alternately in one process on one thread; CPU time, medians. The forward is plain NCHW inference. "In a
series" is a batch of a scoring run (weights are split by sign once a run), "alone" a single call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import record
import torch
from torch import Tensor, nn

from gcp_core.errors import RelevanceError
from gcp_core.models import build_model
from gcp_core.relevance import channel_relevance, relevance_pass

GOAL = 4.2

#: One of each kind of torchvision classifier; larger members of a family consist of the same blocks.
COVERAGE = {
    **dict.fromkeys(("alexnet", "squeezenet1_0", "squeezenet1_1"), 128),
    **dict.fromkeys(("vgg11", "vgg16_bn", "googlenet", "densenet121", "densenet169"), 96),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2"), 96),
    **dict.fromkeys(
        ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0"), 96
    ),
    **dict.fromkeys(("efficientnet_b0", "efficientnet_b1", "efficientnet_v2_s", "convnext_tiny"), 96),
    **dict.fromkeys(("regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"), 96),
    "inception_v3": 299,
}


def main() -> None:
    """Print the tables, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    record.add_out(parser)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--coverage", action="store_true", help="also run the torchvision classifiers (minutes)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"cost": measure_cost(arguments.batch, arguments.repeats)}
    print_cost(results["cost"])
    if arguments.coverage:
        results["coverage"] = [coverage(name, side) for name, side in COVERAGE.items()]
    record.write(arguments.out, results)


def measure_cost(batch: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of CPU time per batch on ResNet-56 with 32 x 32 images, and ratios of medians."""
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
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "model": "resnet56",
        "batch": batch,
        "repeats": repeats,
        "median_ms": median,
        "min_ms": {name: min(values) for name, values in times.items()},
        "forwards": {name: median[name] / median["forward"] for name in ("in a series", "alone")},
        "images_per_s": {name: 1000 * batch / value for name, value in median.items()},
        "goal_forwards": GOAL,
    }


def print_cost(cost: dict[str, Any]) -> None:
    print(f"ResNet-56, batch {cost['batch']}, one thread, {cost['repeats']} repeats; goal <= {GOAL} forwards")
    print(f"{'':14}{'median ms':>10}{'min ms':>9}{'images/s':>10}{'forwards':>10}")
    for name, value in cost["median_ms"].items():
        ratio = cost["forwards"].get(name, 1.0)
        print(
            f"{name:14}{value:10.1f}{cost['min_ms'][name]:9.1f}{cost['images_per_s'][name]:10.0f}{ratio:10.2f}"
        )


def coverage(name: str, side: int) -> dict[str, Any]:
    """Whether relevance is finite on a network with plausible batch norms, and how well its sum is kept.

    ``stem_sum`` is the relevance at the first layer's output as a share of what enters the network from the logits,
    times the size of the global pool (the method spreads a pool's relevance undivided).
    """
    torch.manual_seed(0)
    model = build_model(f"torchvision:{name}", 10).eval()
    fit_norms(model, torch.randn(4, 3, side, side))
    images, labels = torch.randn(2, 3, side, side), torch.tensor([1, 7])
    positions: dict[str, int] = {}

    def at(layer: str) -> Callable[..., None]:
        return lambda module, args, output: positions.update({layer: output[0, 0].numel()})

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    handles = [module.register_forward_hook(at(layer)) for layer, module in layers]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    started = time.process_time()
    row: dict[str, Any] = {"model": name, "side": side}
    try:
        found = channel_relevance(model, images, labels)
        first = next(iter(found))
        row |= {"finite": True, "layers": len(found)}
        row["stem_sum"] = (found[first].double().sum(1) * positions[first]).tolist()
        row["stem_abs_sum"] = (found[first].double().abs().sum(1) * positions[first]).tolist()
    except RelevanceError as error:
        row |= {"finite": False, "error": str(error)}
    row["seconds"] = time.process_time() - started
    print({k: [round(v, 3) for v in value] if isinstance(value, list) else value for k, value in row.items()})
    return row


def fit_norms(model: nn.Module, images: Tensor) -> None:
    """Random scales and shifts, and the statistics of one batch: as after some training."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(0.5 + torch.rand(module.num_features, generator=generator))
            module.bias.data.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    model.eval()


def cpu_ms(subject: Callable[[], Any]) -> float:
    """CPU time of one call: other processes on a shared machine disturb it less than they do wall time."""
    started = time.process_time()
    subject()
    return 1000 * (time.process_time() - started)


if __name__ == "__main__":
    main()
