"""What a model of one size costs, and how good it is: single trials, models of paths, and what was made of those.

    python -m benchmarks.evidence.cost_figure --out docs/results

Reads the study ``epochs`` and, for widths trained anew, ``methods``. The first panel is about having all sizes: the cost
of everything together, and the mean of the accuracies. The others have a size each; a model of a path costs there what
the path has cost up to it, as if nobody wanted the larger ones, which come with it. What follows from such a model (a
polish, its widths trained from scratch) costs that, too. A picture and a CSV.
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

from analysis.show.figures import SERIES
from benchmarks.evidence.study_tables import REFERENCE, own
from benchmarks.evidence.trainings import read
from benchmarks.yardstick import SHARES, SLACK, summary

PLAIN, REPAIRED, POLISHED = "model of a path", "model of a repaired path", ", polished"
SCRATCH = "its widths, trained from scratch"
#: Label and mark of everything that is drawn; what is made the same way has the same colour.
MARKS = {
    "single trial": "s",
    PLAIN: "o",
    REPAIRED: "D",
    f"{PLAIN}{POLISHED}": "^",
    f"{REPAIRED}{POLISHED}": "v",
    SCRATCH: "*",
}


#: Costs that are written below a panel: of one size, of all.
TICKS = (([4, 8, 16, 32], ["4", "8", "16", "32"]), ([15, 20, 30, 45], ["15", "20", "30", "45"]))


@dataclass(frozen=True)
class Point:
    """One way to a model of one size (to all of them, if ``share`` is 0).

    ``cost``: dense epochs, the mean over the seeds. ``accuracy``: each seed's.
    """

    share: float
    kind: str
    training: str
    cost: float
    accuracy: dict[str, Any]


def charged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with widths trained from scratch at what they and the path that has found them have cost; a polish's row
    says that already.
    """
    found = {(row["training"], row["seed"], row["level"]): row["train_cost"] for row in rows if own(row)}
    return [
        {**row, "train_cost": row["train_cost"] + found[row["training"], row["seed"], row["level"]]}
        if "anew" in row
        else row
        for row in rows
    ]


def points(rows: list[dict[str, Any]]) -> list[Point]:
    """All models of the sizes that are compared, seeds together."""
    found: dict[tuple[float, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        share = _share(row)
        if share is not None:
            found[share, _kind(row), row["training"]].append(row)
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


def together(rows: list[dict[str, Any]]) -> list[Point]:
    """What all sizes cost together, and the mean of their accuracies; ``share`` is 0."""
    seeds: dict[tuple[str, str], dict[int, dict[float, dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in rows:
        share = _share(row)
        if share is not None:
            # Single trials of equal length belong together, whatever their size.
            name = row["training"].partition(", ")[2] if row["level"] is None else row["training"]
            seeds[_kind(row), name][row["seed"]][share] = row
    found = []
    for (kind, name), some in seeds.items():
        if any(len(models) < len(SHARES) for models in some.values()):
            continue
        path = seeds.get((REPAIRED if "repaired" in name else PLAIN, name), {})
        costs = [_cost_of_all(kind, models, path.get(seed, {})) for seed, models in some.items()]
        means = [
            round(statistics.mean(row["val_accuracy"] for row in models.values()), 2)
            for _, models in sorted(some.items())
        ]
        found.append(Point(0.0, kind, name, round(statistics.mean(costs), 2), summary(means)))
    return found


def _cost_of_all(
    kind: str, models: dict[float, dict[str, Any]], snapshots: dict[float, dict[str, Any]]
) -> float:
    """Dense epochs of all sizes: trainings of their own add up, a path's models share one, and so does what follows."""
    if kind.endswith(POLISHED) or kind == SCRATCH:
        path = max(row["train_cost"] for row in snapshots.values())
        return path + sum(row["train_cost"] - snapshots[share]["train_cost"] for share, row in models.items())
    shared = kind in (PLAIN, REPAIRED)
    return (max if shared else sum)(row["train_cost"] for row in models.values())


def _share(row: dict[str, Any]) -> float | None:
    """The size that a model has, of those that are compared."""
    return next((share for share in SHARES if abs(1 - row["macs_removed"] - share) <= 2 * SLACK), None)


def _kind(row: dict[str, Any]) -> str:
    if "anew" in row:
        return SCRATCH
    if row["level"] is None:
        return "single trial"
    kind = REPAIRED if "repaired" in row["training"] else PLAIN
    return kind if own(row) else f"{kind}{POLISHED}"


def draw(found: list[Point]) -> Figure:
    """Cost to the right, accuracy up; seeds are small, their mean is large."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + len(SHARES), sharey=True)
    for share, panel in zip((0.0, *SHARES), panels, strict=True):
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
        panel.set_xticks(*TICKS[share == 0])
        panel.minorticks_off()
        panel.set_title(f"{share:.0%} of the MACs" if share else "all four sizes, mean", fontsize=10)
        panel.set_xlabel("dense epochs up to it" if share else "dense epochs of all together")
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
            [
                "share of the MACs (0 = all four)",
                "what",
                "training",
                "dense epochs",
                "accuracy",
                "half width",
                "seeds",
            ]
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
    reference = charged([row for row in read("methods") if row["training"] == REFERENCE])
    anew = [row for row in reference if "anew" in row]
    epochs = charged(read("epochs"))
    found = sorted(
        [*together(epochs), *points([*epochs, *anew])],
        key=lambda p: (-p.share, list(MARKS).index(p.kind), p.cost),
    )
    write_csv(found, args.out / "study_epochs.csv")
    draw(found).savefig(args.out / "study_epochs.png", dpi=130)


if __name__ == "__main__":
    main()
