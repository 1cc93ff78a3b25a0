"""Is a pruned MobileNetV2 fast in onnxruntime? Dense, pruned, pruned with aligned widths, and pruned then padded.

All of them lose about the same share of MACs, at random, since only shapes matter here. Timed side by side, one image,
one thread: every round times each file once, and ratios are taken within a round. With one thread the process's CPU
time (the default clock) is what the wall clock would show on a quiet machine.

    python -m benchmarks.core.onnx_latency --out benchmarks/results/onnx_latency.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks import record
from gcp_core.cost import measure_cost
from gcp_core.cost.latency import onnx_forward, threads, time_side_by_side
from gcp_core.export import export_onnx
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.padding import padded_to_multiple
from gcp_core.pruning.selection import Budget, Ranking, select_channels
from gcp_core.pruning.surgery import apply_plan

GOAL = 0.45


def pruned(model: nn.Module, example: torch.Tensor, share: float, round_to: int) -> nn.Module:
    """The model without ``share`` of its MACs; random scores, every group loses the same share."""
    groups = find_groups(model, example)
    scores = {
        layer: torch.rand(size, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i, (layer, size) in enumerate(groups.scored_layers().items())
    }
    limit = (1 - share) * groups.cost()[0]
    budget = Budget(ratio=0.9, limit=limit, round_to=round_to, ranking=Ranking(allocator="uniform"))
    apply_plan(model, select_channels(scores, groups, budget))
    return model


def variants(name: str, example: torch.Tensor, share: float, folder: Path) -> dict[str, dict]:
    """Path, MACs and error of each ONNX file."""
    made = {}
    for label, round_to, multiple in (
        ("dense", None, 1),
        ("unaligned", 1, 1),
        ("aligned to 8", 8, 1),
        ("aligned to 16", 16, 1),
        ("unaligned, padded to 8", 1, 8),
        ("unaligned, padded to 16", 1, 16),
    ):
        torch.manual_seed(0)
        model = build_model(name, 1000).eval()
        if round_to is not None:
            pruned(model, example, share, round_to)
        exported = export_onnx(model, example, folder / f"{len(made)}.onnx", multiple=multiple)
        made[label] = {
            "path": exported.path,
            "macs": measure_cost(padded_to_multiple(model, example, multiple), example).macs,
            "groups_padded": len(exported.grown),
            "onnx_error": exported.error,
        }
    return made


def main() -> None:
    """Build, export, time; print medians and ratios to dense."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="torchvision:mobilenet_v2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--share", type=float, default=0.7, help="share of the MACs to remove")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu")
    record.add_out(parser)
    options = parser.parse_args()
    example = torch.zeros(1, 3, options.size, options.size)
    load = os.getloadavg()[0]
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    with threads(1), tempfile.TemporaryDirectory() as folder:
        made = variants(options.model, example, options.share, Path(folder))
        image = torch.randn(1, 3, options.size, options.size)
        forwards = {label: onnx_forward(entry.pop("path"), 1) for label, entry in made.items()}
        calls = {label: lambda f=f: f(image) for label, f in forwards.items()}
        times = time_side_by_side(calls, options.rounds, 5, clock)
    for label, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        ratios = [a / b for a, b in zip(values, times["dense"])]
        made[label] |= {
            "ms": [round(v, 3) for v in (low, median, high)],
            "fastest_ms": round(min(values), 3),
            "macs_left": made[label]["macs"] / made["dense"]["macs"],
            "time_ratio": statistics.median(ratios),
            "time_ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
            "fastest_ratio": min(values) / min(times["dense"]),
        }
    best = min(entry["time_ratio"] for label, entry in made.items() if "8" in label or "16" in label)
    record.write(
        options.out,
        {
            "clock": options.clock,
            "rounds": options.rounds,
            "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
            "variants": made,
            "goal": GOAL,
            "best_aligned_or_padded": best,
            "met": best <= GOAL,
            "largest_onnx_error": max(entry["onnx_error"] for entry in made.values()),
        },
    )


if __name__ == "__main__":
    main()
