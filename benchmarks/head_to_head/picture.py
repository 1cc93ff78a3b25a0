"""The head-to-head's series as a table and a figure."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

#: Distinguishable with any colour vision; ours is drawn full, the peer's dashed.
_STYLE = {
    "ours": {"color": "#0072B2", "linestyle": "-", "label": "gcp-sweep"},
    "peer": {"color": "#D55E00", "linestyle": "--", "label": "Ray Tune + OptunaSearch + torch-pruning"},
}


def draw(target: Path, rows: dict[str, list[dict[str, float]]], results: dict[str, Any]) -> None:
    """Write ``target.csv`` (side, seconds, trials, hypervolume) and ``target.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _write_table(target.with_suffix(".csv"), rows)
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


def _write_table(path: Path, rows: dict[str, list[dict[str, float]]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["side", "seconds", "trials", "hypervolume"])
        writer.writeheader()
        for side, entries in rows.items():
            writer.writerows({"side": side, **entry} for entry in entries)
