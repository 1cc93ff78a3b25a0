"""A study's paths in a picture and a CSV: accuracy at shares of the MACs, a row for each training, a dot for each seed.

python -m benchmarks.evidence.study_figure methods --out docs/results

``front_race`` is drawn from its record (``benchmarks/head_to_head/front_race.py``), studies from their tables.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.show.figures import SERIES
from benchmarks.evidence.study_tables import REFERENCE, TABLES
from benchmarks.evidence.trainings import read
from benchmarks.record import RESULTS
from benchmarks.yardstick import SHARES

#: Shares of the MACs that have a panel each, of studies that compare what removes units; of the others all four.
SHOWN = (0.5, 0.2, 0.1)
COMPARED = ("criteria", "criteria_resnet", "methods", "repair")
#: Points of accuracy that a panel shows below the reference, and at least above it.
BELOW, ABOVE = 5.0, 3.0
#: What is drawn; of the other studies there is a table only, or another figure.
DRAWN = (*COMPARED, "settings_12", "settings_18", "settings_30", "front_race")
#: Not methods, but what methods are held against.
CONTROLS = ("path, random", "path, shuffled:frs", "path, uniform l1")
#: Sides of the record of ``front_race`` and what they are called.
BY_HAND = {
    "ours: t0000": "a path, repaired",
    "steps: taylor": "steps, Taylor",
    "steps: magnitude": "steps, magnitude",
    "one_shot": "one cut per size",
}


def rows(what: str) -> list[dict[Any, Any]]:
    """A row for every training with values at its shares, best at a fifth of the MACs first."""
    return sorted(by_hand() if what == "front_race" else of_study(what), key=lambda row: -row[0.2]["mean"])


def of_study(study: str) -> list[dict[Any, Any]]:
    """Its trainings that have values at shares of the MACs."""
    table = TABLES[study](read(study))
    shares = SHOWN if study in COMPARED else SHARES
    return [
        {"training": name, "cost": values["cost"], **{s: values[_at(s)] for s in shares}}
        for name, values in table.get("accuracy", table).items()
        if _at(shares[0]) in values
    ]


def by_hand() -> list[dict[Any, Any]]:
    """The sides of the race with fronts that were written by hand."""
    sides = json.loads((RESULTS / "front_race.json").read_text())["results"]["sides"]
    return [
        {
            "training": name,
            "cost": sides[side]["training cost"]["mean"],
            **{share: sides[side][f"val accuracy {_at(share)}"] for share in SHARES},
        }
        for side, name in BY_HAND.items()
    ]


def _at(share: float) -> str:
    return f"at {share:.0%} of the MACs"


def _shares(found: list[dict[Any, Any]]) -> list[float]:
    return [key for key in found[0] if isinstance(key, float)]


def _reference(found: list[dict[Any, Any]]) -> str:
    """What the others are held against: ``frs`` where it is there, else the first."""
    return next((row["training"] for row in found if row["training"] == REFERENCE), found[0]["training"])


def draw(found: list[dict[Any, Any]]) -> Figure:
    """One panel a share; seeds are small dots, their mean a large one. What lies far below is a number at the edge, and a
    single seed that does an arrow there.
    """
    shares, reference = _shares(found), _reference(found)
    figure = Figure(figsize=(9.5, 0.27 * len(found) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shares), sharey=True)
    names = [row["training"] for row in found]
    for share, panel in zip(shares, panels, strict=True):
        centre = next(row[share]["mean"] for row in found if row["training"] == reference)
        least = centre - BELOW
        most = max([centre + ABOVE, *(value + 0.2 for row in found for value in row[share]["seeds"])])
        panel.axvline(centre, color=SERIES[0], linewidth=0.8, alpha=0.5)
        for place, row in enumerate(found):
            colour, values = _colour(row["training"], reference), row[share]
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


def _colour(name: str, reference: str) -> str:
    if name == reference:
        return SERIES[0]
    return "#8a8a8a" if name in CONTROLS else "#222222"


def write_csv(found: list[dict[Any, Any]], target: Path) -> None:
    """Means and half widths of their 95 % intervals."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        shown = [f"{what} at {share:.0%}" for share in _shares(found) for what in ("mean", "half width")]
        writer.writerow(["training", "dense epochs", *shown])
        for row in found:
            values = [row[share][what] for share in _shares(found) for what in ("mean", "half_width")]
            writer.writerow([row["training"], row["cost"], *values])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=DRAWN)
    parser.add_argument("--out", type=Path, required=True, help="folder of the picture and the CSV")
    args = parser.parse_args()
    found = rows(args.what)
    target = args.what if args.what == "front_race" else f"study_{args.what}"
    write_csv(found, args.out / f"{target}.csv")
    draw(found).savefig(args.out / f"{target}.png", dpi=130)


if __name__ == "__main__":
    main()
