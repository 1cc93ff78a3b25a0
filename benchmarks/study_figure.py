"""A study's paths in a picture and a CSV: accuracy at shares of the MACs, a row for each training, a dot for each seed.

python benchmarks/study_figure.py methods --out docs/results
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study_tables import REFERENCE, TABLES
from trainings import read

from analysis.show.figures import SERIES

#: Shares of the MACs that have a panel each.
SHOWN = (0.5, 0.2, 0.1)
#: Points of accuracy that a panel shows below the reference, and at least above it.
BELOW, ABOVE = 5.0, 3.0
#: Studies with the reference; of the others there is a table only, or another figure.
DRAWN = ("criteria", "criteria_resnet", "methods", "repair")
#: Not methods, but what methods are held against.
CONTROLS = ("path, random", "path, shuffled:frs", "path, uniform l1")


def rows(study: str) -> list[dict[str, Any]]:
    """A row for every training with values at shares, best at a fifth of the MACs first."""
    found = []
    for name, values in TABLES[study](read(study))["accuracy"].items():
        if _at(SHOWN[0]) in values:
            found.append({"training": name, "cost": values["cost"], **{s: values[_at(s)] for s in SHOWN}})
    return sorted(found, key=lambda row: -row[SHOWN[1]]["mean"])


def _at(share: float) -> str:
    return f"at {share:.0%} of the MACs"


def draw(found: list[dict[str, Any]]) -> Figure:
    """One panel a share; seeds are small dots, their mean a large one. What lies far below is a number at the edge, and a
    single seed that does an arrow there.
    """
    figure = Figure(figsize=(9.5, 0.27 * len(found) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    names = [row["training"] for row in found]
    for share, panel in zip(SHOWN, panels, strict=True):
        centre = next(row[share]["mean"] for row in found if row["training"] == REFERENCE)
        least = centre - BELOW
        most = max([centre + ABOVE, *(value + 0.2 for row in found for value in row[share]["seeds"])])
        panel.axvline(centre, color=SERIES[0], linewidth=0.8, alpha=0.5)
        for place, row in enumerate(found):
            colour, values = _colour(row["training"]), row[share]
            if values["mean"] < least:
                panel.text(
                    least, place, f" \u25c2 {values['mean']:.1f}", color=colour, va="center", fontsize=9
                )
                continue
            seen = [value for value in values["seeds"] if value >= least]
            panel.plot(seen, [place] * len(seen), ".", color=colour, alpha=0.45)
            if len(seen) < len(values["seeds"]):
                panel.plot(least, place, "<", color=colour, alpha=0.45, markersize=5, clip_on=False)
            panel.plot(values["mean"], place, "o", color=colour, markersize=6)
        panel.set_xlim(least, most)
        panel.set_title(f"{share:.0%} of the MACs", fontsize=10)
        panel.set_xlabel("validation accuracy, %")
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(left=False)
    panels[0].set_yticks(range(len(names)), [name.removeprefix("path, ") for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _colour(name: str) -> str:
    if name == REFERENCE:
        return SERIES[0]
    return "#8a8a8a" if name in CONTROLS else "#222222"


def write_csv(found: list[dict[str, Any]], target: Path) -> None:
    """Means and half widths of their 95 % intervals."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        shown = [f"{what} at {share:.0%}" for share in SHOWN for what in ("mean", "half width")]
        writer.writerow(["training", "dense epochs", *shown])
        for row in found:
            values = [row[share][what] for share in SHOWN for what in ("mean", "half_width")]
            writer.writerow([row["training"], row["cost"], *values])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=DRAWN)
    parser.add_argument("--out", type=Path, required=True, help="folder of the picture and the CSV")
    args = parser.parse_args()
    found = rows(args.study)
    write_csv(found, args.out / f"study_{args.study}.csv")
    draw(found).savefig(args.out / f"study_{args.study}.png", dpi=130)


if __name__ == "__main__":
    main()
