"""What pruning and 8 bits save on a device: a chosen snapshot beside its unpruned network, in every runtime.

Runs ``gcp-analyze bench`` on a finished sweep (``configs/cifar10_quick.yaml``): the snapshot whose MACs are nearest to
``--share`` of its baseline's. Torch, ONNX Runtime and ONNX Runtime in 8 bits take turns, at batch 1 and 64; medians with
95 % intervals, and validation accuracy by each runtime's own outputs.

    python -m benchmarks.core.chosen_latency runs/cifar10-quick --out benchmarks/results/chosen_latency.json

The default clock counts this process's own time, so work beside it does not count, but caches and memory are shared:
the record has the load average before and after. On a quiet machine, ``--clock wall`` gives times as users see them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import analysis
from analysis.ship.bench import Bench, Plan, bench
from analysis.ship.checkpoints import from_sweep
from benchmarks import record

#: Runtime -> its name in the table of docs/results.md.
NAMES = {
    "torch": "torch, eager",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime int8": "ONNX Runtime, int8",
}


def nearest(sweep: Path, share: float) -> tuple[Any, Any]:
    """The sweep's table, and the row of the finished model that has about this share of its baseline's MACs."""
    df = analysis.load(sweep)
    models = df[df["candidate"] & df["macs_kept"].notna()]
    return df, models.loc[(models["macs_kept"] - share).abs().idxmin()]


def table(result: Bench) -> list[dict[str, Any]]:
    """One line per runtime and batch: [low, median, high] of milliseconds and of pruned / unpruned."""
    lines = []
    for timed in result.timed:
        t = {name: _short(value) for name, value in asdict(timed.latency).items()}
        lines.append(
            {
                "runtime": timed.runtime,
                "batch": t["batch_size"],
                "unpruned_ms": [t["reference_low_ms"], t["reference_ms"], t["reference_high_ms"]],
                "pruned_ms": [t["low_ms"], t["median_ms"], t["high_ms"]],
                "pruned_over_unpruned": [t["share_low"], t["share"], t["share_high"]],
                "rounds": t["repeats"],
                "narrow": t["narrow"],
            }
        )
    return lines


def rows(lines: list[dict[str, Any]]) -> str:
    """The same as rows of the table in docs/results.md."""

    def told(ends: list[float]) -> str:
        low, middle, high = (f"{end:.3g}" for end in ends)
        return f"{middle} [{low}, {high}]"

    parts = ("unpruned_ms", "pruned_ms", "pruned_over_unpruned")
    return "\n".join(
        f"| {NAMES[line['runtime']]} | {line['batch']} | {' | '.join(told(line[part]) for part in parts)}"
        f"{'' if line['narrow'] else ' (wide)'} |"
        for line in lines
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Choose, measure, print; no judgement beyond what the intervals say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--share", type=float, default=0.35, help="of the baseline's MACs")
    parser.add_argument("--seconds", type=float, default=5.0, help="at most, per line")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu")
    parser.add_argument("--data-path", help="where the data lies here")
    record.add_out(parser)
    options = parser.parse_args()
    df, row = nearest(options.sweep, options.share)
    plan = Plan(
        runtimes=tuple(NAMES), seconds=options.seconds, clock=options.clock, data_path=options.data_path
    )
    with tempfile.TemporaryDirectory() as work:
        result = bench(from_sweep(df, row, Path(work)), plan)
    lines = table(result)
    print(rows(lines), file=sys.stderr)
    record.write(
        options.out,
        {
            "sweep": options.sweep.name,
            "model": result.model,
            "macs_kept": _short(float(row["macs_kept"])),
            "params_kept": _short(float(row["params_kept"])),
            "unpruned": result.dense,
            "machine": result.machine,
            "seconds_per_line": options.seconds,
            "times": lines,
            "val_accuracy": [
                {"runtime": a.runtime, "unpruned": a.dense, "pruned": a.model, "images": a.images}
                for a in result.accuracies
            ],
        },
    )


if __name__ == "__main__":
    main()
