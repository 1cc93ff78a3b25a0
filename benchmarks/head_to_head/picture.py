"""The series of the races as tables and figures."""

from __future__ import annotations

import csv
from itertools import accumulate
from pathlib import Path
from typing import Any

#: Distinguishable with any colour vision; ours is drawn full, the peer's dashed.
_STYLE = {
    "ours": {"color": "#0072B2", "linestyle": "-", "label": "gcp-sweep"},
    "peer": {"color": "#D55E00", "linestyle": "--", "label": "Ray Tune + OptunaSearch + torch-pruning"},
}

#: The sides of a search race.
SEARCH_SIDES = {
    "paths": {"color": "#0072B2", "linestyle": "-", "marker": "o", "label": "gcp-sweep, paths"},
    "polished": {
        "color": "#CC79A7",
        "linestyle": "-.",
        "marker": "D",
        "label": "gcp-sweep, paths, then polish",
    },
    "guide": {
        "color": "#56B4E9",
        "linestyle": (0, (1, 1)),
        "marker": "s",
        "label": "gcp-sweep, three paths of the guide",
    },
    "peer": {**_STYLE["peer"], "marker": "x"},
    "singles": {"color": "#009E73", "linestyle": ":", "marker": "^", "label": "gcp-sweep, single trials"},
}
#: Where accuracy starts to count, as the title of its panel.
SEARCH_ANCHORS = {
    "from chance": "accuracy from chance",
    "usable": "accuracy from ten points below the unpruned net",
}


def draw(target: Path, rows: dict[str, list[dict[str, float]]], results: dict[str, Any]) -> None:
    """Write ``target.csv`` (side, seconds, trials, hypervolume) and ``target.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    write_table(target.with_suffix(".csv"), rows)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    quality, number, fronts = figure.subplots(1, 3)
    for side, style in _STYLE.items():
        minutes = [row["seconds"] / 60 for row in rows[side]]
        quality.step(minutes, [row["hypervolume"] for row in rows[side]], where="post", **style)
        number.step(minutes, [row["trials"] for row in rows[side]], where="post", **style)
        best = results["sides"][side]["front"]
        fronts.step(
            [point["macs"] / 1e6 for point in best],
            [point["val_accuracy"] for point in best],
            where="post",
            marker="o",
            markersize=3,
            **style,
        )
    quality.set(xlabel="wall time [min]", ylabel="hypervolume of the front → better", ylim=(0, None))
    number.set(xlabel="wall time [min]", ylabel="trials finished → better", ylim=(0, None))
    fronts.set(xlabel="MACs [million] ← better", ylabel="validation accuracy [%] → better")
    quality.legend(loc="lower right", fontsize=8)
    figure.savefig(target.with_suffix(".png"), dpi=130)


def draw_search(
    target: Path, rows: dict[str, list[dict[str, float]]], results: dict[str, Any], by: str = "seconds"
) -> None:
    """Write ``target.csv`` (every row of ``rows``) and ``target.png``: hypervolume over ``by``, last models and fronts.

    Args:
        by: the column of ``rows`` that is spent: ``seconds`` (drawn as minutes), or ``training cost``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    write_table(target.with_suffix(".csv"), rows)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    label, unit, end = {
        "seconds": ("wall time, minutes", 60, results.get("seconds per side")),
        "training cost": ("training cost, dense epochs", 1, results.get("cost")),
    }[by]
    for side, entries in rows.items():
        spent = [0.0, *(row[by] / unit for row in entries), end / unit]
        style = {name: value for name, value in SEARCH_SIDES[side].items() if name != "marker"}
        for name, panel in zip(SEARCH_ANCHORS, panels, strict=False):
            values = [0.0, *(row[f"hypervolume, {name}"] for row in entries)]
            panel.step(spent, [*values, values[-1]], where="post", **style)
        models = sorted(results["sides"][side]["models made"], key=lambda model: model["left"])
        shares = [100 * model["left"] for model in models]
        accuracies = [model["val_accuracy"] for model in models]
        dots = {name: value for name, value in SEARCH_SIDES[side].items() if name in ("color", "marker")}
        panels[2].plot(shares, accuracies, linestyle="none", markersize=4, alpha=0.5, **dots)
        panels[2].step(shares, list(accumulate(accuracies, max)), where="post", **style)
    for panel, title in zip(panels, SEARCH_ANCHORS.values(), strict=False):
        panel.set(xlabel=label, ylim=(0, None), title=title)
        panel.set_ylabel("hypervolume → better")
    panels[2].set(
        xlabel="share of the MACs left, % ← better",
        title="models above 60 %, and fronts",
        ylim=(60, None),
    )
    panels[2].set_ylabel("validation accuracy, % → better")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(target.with_suffix(".png"), dpi=130)


def write_table(path: Path, rows: dict[str, list[dict[str, float]]]) -> None:
    """A line for every row of every side."""
    columns = next(iter(entry for entries in rows.values() for entry in entries), {})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["side", *columns])
        writer.writeheader()
        for side, entries in rows.items():
            writer.writerows({"side": side, **entry} for entry in entries)
