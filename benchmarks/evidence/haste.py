"""HASTE on a trained ResNet-20 and on its pruned half: accuracy against multiply-adds per image, hashing counted.

One path gives both nets: a dense phase, then one event (``frs``, half of the MACs) and a cycle. It is kept in
``--work``, so a second call only measures. Every number of bits L is measured with several draws of the projections on
the same validation images, spread evenly over the 5,000. Beside it: what is centred before hashing (our choice was made
by this table), and the time of the two ways to evaluate the sum.

    OMP_NUM_THREADS=1 python -m benchmarks.evidence.haste --data DATA --work FOLDER --out ... --figure docs/results
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from gcp_core.checkpoint import load_model
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.data import Splits, evaluation_batches, load_splits
from gcp_core.haste import Hashing, measure_haste, swap, swappable
from gcp_core.haste.hashing import CENTRES
from gcp_core.records.results import Snapshot
from gcp_core.training import run_trial

NETS = ("unpruned", "pruned")
_BATCH = 50


def path_config(options: argparse.Namespace) -> TrialConfig:
    """A dense phase, one event, one cycle."""
    return TrialConfig(
        seed=options.seed,
        data=DataConfig("parquet", options.data, train_images=options.train_images, val_images=5_000),
        model=ModelConfig("resnet20"),
        train=TrainConfig(schedule="cycles", batch_size=64, lr=0.1, eval_images=1000, device="cpu"),
        prune=PruneConfig(
            criterion="frs", start=options.dense_epochs, interval=options.cycle_epochs, levels=(0.5,)
        ),
    )


def snapshots(options: argparse.Namespace) -> tuple[Snapshot, ...]:
    """The two nets, trained now or by an earlier call."""
    sizes = (options.train_images, options.dense_epochs, options.cycle_epochs)
    folder = options.work / f"resnet20-{'-'.join(map(str, sizes))}-seed-{options.seed}"
    return run_trial(path_config(options), checkpoint_dir=folder, latency=False).snapshots


def validation(splits: Splits, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``number`` validation images, spread evenly."""
    positions = torch.arange(number) * len(splits.val) // number
    return evaluation_batches(splits.val.subset(positions), splits.normalise, _BATCH, False)


def curve(model: nn.Module, splits: Splits, options: argparse.Namespace) -> dict[str, Any]:
    """The net as it is, and a row for every number of bits: mean over the draws, lowest and highest accuracy."""
    example = torch.zeros(1, 3, 32, 32)
    found = swappable(model, example)
    settings = [Hashing(bits, seed=draw) for bits in options.bits for draw in range(options.draws)]
    measured = measure_haste(
        model, found, settings, validation(splits, options.images), clock=time.process_time
    )
    rows = []
    for bits in options.bits:
        own = [one for one in measured.hashed if one.bits == bits]
        accuracies = [one.accuracy for one in own]
        row = {
            "bits": bits,
            "accuracy": [round(f(accuracies), 2) for f in (statistics.mean, min, max)],
            "macs_mean": round(statistics.mean(one.macs_mean for one in own)),
            "macs_sd": round(statistics.mean(one.macs_sd for one in own)),
            "macs_low": min(one.macs_low for one in own),
            "macs_high": max(one.macs_high for one in own),
            "parts": {name: round(statistics.mean(one.parts[name] for one in own)) for name in own[0].parts},
            "time_share": round(statistics.median(one.time_share for one in own), 1),
        }
        rows.append(row)
        print(row, flush=True)
    about = asdict(measured)
    del about["hashed"]
    return {**about, "replaced": len(found.replaced), "left": found.left, "rows": rows}


def centres(model: nn.Module, splits: Splits, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Accuracy and multiply-adds by what is centred."""
    found = swappable(model, torch.zeros(1, 3, 32, 32))
    rows = []
    for centre in CENTRES:
        settings = [Hashing(bits, centre=centre) for bits in options.bits]
        measured = measure_haste(model, found, settings, validation(splits, options.centre_images))
        rows += [
            {
                "centre": centre,
                "bits": one.bits,
                "accuracy": one.accuracy,
                "macs_share": round(one.macs_mean / measured.macs, 3),
            }
            for one in measured.hashed
        ]
    return rows


@torch.no_grad()
def forms(model: nn.Module, splits: Splits, bits: int) -> dict[str, float]:
    """Processor milliseconds per image of the plain net, and of both ways to evaluate the sum: medians of 5 batches."""
    found = swappable(model, torch.zeros(1, 3, 32, 32))
    nets = {
        "plain": model,
        "means in the place of channels": swap(model, found, Hashing(bits)).model,
        "filters summed": swap(model, found, Hashing(bits), merged=True).model,
    }
    times: dict[str, list[float]] = {name: [] for name in nets}
    for images, _ in validation(splits, 5 * _BATCH):
        for name, net in nets.items():
            begun = time.process_time()
            net(images)
            times[name].append(1e3 * (time.process_time() - begun) / len(images))
    return {name: round(statistics.median(found), 2) for name, found in times.items()}


def picture(curves: dict[str, dict[str, Any]], target: Path) -> None:
    """Accuracy against multiply-adds per image; the numbers beside it as CSV."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4))
    axes = figure.subplots()
    for (name, found), colour in zip(curves.items(), ("#0072b2", "#d55e00"), strict=True):
        rows = found["rows"]
        macs = [row["macs_mean"] / 1e6 for row in rows]
        middle, low, high = zip(*(row["accuracy"] for row in rows), strict=True)
        axes.errorbar(
            macs,
            middle,
            xerr=[row["macs_sd"] / 1e6 for row in rows],
            yerr=(
                [m - b for m, b in zip(middle, low, strict=True)],
                [b - m for m, b in zip(middle, high, strict=True)],
            ),
            marker="o",
            color=colour,
            capsize=2,
            label=f"{name}, hashed with L bits",
        )
        for x, y, row in zip(macs, middle, rows, strict=True):
            # The last two points are close together.
            offset = (5, 6) if row is rows[-1] else (6, -12)
            axes.annotate(
                f"L {row['bits']}", (x, y), offset, textcoords="offset points", fontsize=8, color=colour
            )
        axes.plot(
            found["macs"] / 1e6,
            found["accuracy"],
            "*",
            color=colour,
            markersize=15,
            markeredgecolor="black",
            label=f"{name}, as it is",
        )
        axes.axvline(found["macs"] / 1e6, color=colour, linewidth=0.8, linestyle=":")
    axes.set_xlabel("multiply-adds per image, millions, hashing counted (bars: ± sd over images)   ← better")
    axes.set_ylabel("validation accuracy, %   better →")
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(0.89, 0))
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    target.mkdir(parents=True, exist_ok=True)
    figure.savefig(target / "haste.png", dpi=130)
    with (target / "haste.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["net", "bits", "accuracy", "accuracy_low", "accuracy_high", "macs_mean", "macs_sd", "time_share"]
        )
        for name, found in curves.items():
            writer.writerow(
                [name, "", found["accuracy"], found["accuracy"], found["accuracy"], found["macs"], 0, 1]
            )
            for row in found["rows"]:
                writer.writerow(
                    [name, row["bits"], *row["accuracy"], row["macs_mean"], row["macs_sd"], row["time_share"]]
                )


def main() -> None:
    """Train what is not there yet, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--work", type=Path, required=True, help="where the trained nets are kept")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6, 8, 12, 16], help="L")
    parser.add_argument("--draws", type=int, default=3, help="of the projections, for every L")
    parser.add_argument("--images", type=int, default=1000, help="validation images")
    parser.add_argument("--centre-images", type=int, default=500, help="the same for the table of centres")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--dense-epochs", type=int, default=8)
    parser.add_argument("--cycle-epochs", type=int, default=6)
    parser.add_argument("--figure", type=Path, help="folder for haste.png and haste.csv")
    record.add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = load_splits(path_config(options).data)
    curves, trained = {}, {}
    for name, snapshot in zip(NETS, snapshots(options), strict=True):
        trained[name] = {
            key: snapshot.finals[key] for key in ("val_accuracy", "macs", "params", "train_cost")
        }
        model = load_model(snapshot.folder).eval()
        curves[name] = curve(model, splits, options)
        if name == NETS[0]:
            by_centre, times = centres(model, splits, options), forms(model, splits, 8)
    keys = (
        "bits",
        "draws",
        "images",
        "centre_images",
        "seed",
        "train_images",
        "dense_epochs",
        "cycle_epochs",
    )
    results = {
        "settings": {key: getattr(options, key) for key in keys},
        "trained": trained,
        "curves": curves,
        "centres": by_centre,
        "ms_per_image_8_bits": times,
    }
    record.write(options.out, results)
    if options.figure is not None:
        picture(curves, options.figure)


if __name__ == "__main__":
    main()
