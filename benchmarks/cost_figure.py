"""What a model of one size costs, and how good it is: single trials, models of paths, and what was made of those.

    python benchmarks/cost_figure.py --out docs/results

Reads the study ``epochs`` and, for widths trained anew, ``methods``. A model of a path costs what the path has cost up to
it; the path gives the larger ones for the same training. A picture and a CSV: a panel for every share of the MACs.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study_tables import REFERENCE, own
from trainings import read
from yardstick import SHARES, SLACK, summary

from analysis.show.figures import SERIES

#: Label and mark of everything that is drawn; what is made the same way has the same colour.
MARKS = {
    "single trial": "s",
    "model of a path": "o",
    "the same, repaired cuts": "D",
    "model of a path, polished": "^",
    "the same, repaired cuts, polished": "v",
    "its widths, trained from scratch": "*",
}


@dataclass(frozen=True)
class Point:
    """One way to a model of one size: its cost (mean over the seeds, dense epochs), and each seed's accuracy."""

    share: float
    kind: str
    training: str
    cost: float
    accuracy: dict[str, Any]


def points(rows: list[dict[str, Any]]) -> list[Point]:
    """All models of the sizes that are compared, seeds together."""
    found: dict[tuple[float, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        left = 1 - row["macs_removed"]
        near = [share for share in SHARES if abs(left - share) <= 2 * SLACK]
        if near:
            found[near[0], _kind(row), row["training"]].append(row)
    return [
        Point(
            share,
            kind,
            training,
            round(statistics.mean(row["train_cost"] for row in some), 2),
            summary([row["val_accuracy"] for row in sorted(some, key=lambda row: row["seed"])]),
        )
        for (share, kind, training), some in found.items()
    ]


def _kind(row: dict[str, Any]) -> str:
    if "anew" in row:
        return "its widths, trained from scratch"
    if row["level"] is None:
        return "single trial"
    kind = "the same, repaired cuts" if "repaired" in row["training"] else "model of a path"
    return kind if own(row) else f"{kind}, polished"


def draw(found: list[Point]) -> Figure:
    """Cost to the right, accuracy up; seeds are small, their mean is large."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SHARES), sharey=True, sharex=True)
    for share, panel in zip(SHARES, panels, strict=True):
        for at, (kind, mark) in enumerate(MARKS.items()):
            some = sorted((p for p in found if (p.share, p.kind) == (share, kind)), key=lambda p: p.cost)
            if not some:
                continue
            for point in some:
                seeds = point.accuracy["seeds"]
                panel.plot([point.cost] * len(seeds), seeds, ".", color=SERIES[at], alpha=0.35, markersize=4)
            line = "-" if kind == "single trial" else ""
            panel.plot(
                [p.cost for p in some],
                [p.accuracy["mean"] for p in some],
                line + mark,
                color=SERIES[at],
                linewidth=0.8,
                markersize=6,
                label=kind,
            )
        panel.set_xscale("log")
        panel.set_xticks([4, 8, 16, 32], ["4", "8", "16", "32"])
        panel.minorticks_off()
        panel.set_title(f"{share:.0%} of the MACs", fontsize=10)
        panel.set_xlabel("dense epochs up to it")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("validation accuracy, %")
    handles = {h.get_label(): h for panel in panels for h in panel.get_legend_handles_labels()[0]}
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def write_csv(found: list[Point], target: Path) -> None:
    """A line for every point: means over the seeds, half the width of the 95 % interval."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["share of the MACs", "what", "training", "dense epochs", "accuracy", "half width", "seeds"]
        )
        for p in found:
            accuracy = p.accuracy
            writer.writerow(
                [
                    p.share,
                    p.kind,
                    p.training,
                    p.cost,
                    accuracy["mean"],
                    accuracy["half_width"],
                    len(accuracy["seeds"]),
                ]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the picture and the CSV")
    args = parser.parse_args()
    anew = [row for row in read("methods") if row["training"] == REFERENCE and "anew" in row]
    found = sorted(
        points([*read("epochs"), *anew]), key=lambda p: (-p.share, list(MARKS).index(p.kind), p.cost)
    )
    write_csv(found, args.out / "study_epochs.csv")
    draw(found).savefig(args.out / "study_epochs.png", dpi=130)


if __name__ == "__main__":
    main()
