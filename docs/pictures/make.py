"""The pictures of the first page, drawn from recorded trainings: what one training leaves, and beside what it stands.

    python docs/pictures/make.py [--out docs/pictures]

First the path of seed 0 in ``benchmarks/data/cifar10_quick_paths.jsonl``, then the same setting on three seeds
beside the 48 single trials of ``benchmarks/data/cifar10_quick_trials.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "benchmarks" / "data"
SETTING = {"start": 4, "interval": 6, "restart": 1.0, "criterion": "frs"}
LEVELS = [0.3, 0.5, 0.65, 0.8, 0.9, 0.95]
INK, GREY, BLUE, ORANGE = "#222222", "#9aa5b1", "#0072B2", "#D55E00"


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def paths() -> list[dict[str, Any]]:
    """The recorded paths of the setting, one a seed."""
    found = [one for one in lines("cifar10_quick_paths.jsonl")[1:] if one["kind"] == "trial"]
    return [
        one
        for one in found
        if {name: one["settings"].get(name) for name in SETTING} == SETTING
        and one["settings"]["levels"] == LEVELS
    ]


def singles() -> tuple[list[float], list[float]]:
    """Share of the MACs (per cent) and validation accuracy of the 48 single trials."""
    rows = lines("cifar10_quick_trials.jsonl")
    dense = next(row["final"]["macs"] for row in rows if row["kind"] == "baseline")
    trials = [row["final"] for row in rows if row["kind"] == "trial"]
    return [100 * t["macs"] / dense for t in trials], [t["val_accuracy"] for t in trials]


def draw(*panels: Callable[[Any], None]) -> Figure:
    """The panels side by side."""
    figure = Figure(figsize=(5.4 * len(panels), 4.1), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, colors=INK)
        axes.grid(color="#ececec", linewidth=0.6)
        axes.set_axisbelow(True)
        panel(axes)
    return figure


def _course(axes: Any) -> None:
    """Validation accuracy after every epoch, the share of the MACs that is left, and the finished models."""
    path = paths()[0]
    epochs = range(1, len(path["accuracy"]) + 1)
    ends = [one["epoch"] for one in path["snapshots"]]
    kept = [100 * (1 - one["macs_removed"]) for one in path["snapshots"]]
    edges = [0, *ends]
    axes.stairs(kept, edges, fill=True, color="#e3e8ee")
    for end, share, first in zip(ends, kept, edges):
        axes.text((first + end) / 2, share + 1.5, f"{share:.0f} %", ha="center", fontsize=8, color="#66727f")
    axes.plot(epochs, path["accuracy"], color=BLUE, linewidth=1.6)
    axes.scatter(ends, [one["val_accuracy"] for one in path["snapshots"]], s=60, facecolors="white",
                 edgecolors=ORANGE, linewidths=2, zorder=4)  # fmt: skip
    for end in ends[:-1]:
        axes.axvline(end, color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_title("One training leaves seven finished models", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel("per cent", color=INK)
    axes.set_xlim(0, edges[-1] + 0.5)
    axes.set_ylim(0, 124)
    axes.set_yticks(range(0, 101, 20))
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.6, label="validation accuracy"),
        Line2D([], [], color=ORANGE, marker="o", markerfacecolor="white", markersize=7, markeredgewidth=2,
               linestyle="none", label="finished model"),
        Patch(color="#e3e8ee", label="multiply-adds left"),
        Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (3, 3)), label="channels are removed"),
    ]  # fmt: skip
    axes.legend(handles=handles, loc="upper right", ncols=2, fontsize=8.5, frameon=True, facecolor="white",
                edgecolor="none", framealpha=1.0)  # fmt: skip


def _front(axes: Any) -> None:
    """Accuracy against the share of the MACs that is left."""
    x, y = singles()
    best: list[tuple[float, float]] = []
    for share, accuracy in sorted(zip(x, y)):
        if not best or accuracy > best[-1][1]:
            best.append((share, accuracy))
    axes.scatter(x, y, s=16, color=GREY, linewidths=0, label="48 searched trainings, about 230 dense epochs")
    axes.step([p[0] for p in best], [p[1] for p in best], where="post", color="#66727f", linewidth=1.4)
    for place, path in enumerate(paths()):
        models = sorted((100 * (1 - s["macs_removed"]), s["val_accuracy"]) for s in path["snapshots"])
        axes.plot([m[0] for m in models], [m[1] for m in models], color=ORANGE, linewidth=1.2, alpha=0.7, marker="o",
                  markersize=5, markerfacecolor="white", markeredgewidth=1.6,
                  label="one training (three seeds), 15.5 dense epochs" if not place else None)  # fmt: skip
    axes.set_title("Its models beside a search of single trainings", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("multiply-adds left, %   ← better", color=INK)
    axes.set_ylabel("validation accuracy, %   better →", color=INK)
    axes.set_xlim(0, 104)
    axes.set_ylim(55, 77)
    axes.legend(loc="lower right", fontsize=8.5, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    pictures = {"one_path": (_course,), "one_front": (_front,), "one_training": (_course, _front)}
    for name, panels in pictures.items():
        draw(*panels).savefig(out / f"{name}.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
