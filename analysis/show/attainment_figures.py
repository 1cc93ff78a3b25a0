"""Attainment surfaces as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis.show.figures import SERIES, axis_label, cost_prefix, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def draw_attainment(
    surfaces: pd.DataFrame, cost: str, benefit: str, colours: Mapping[str, str] | None = None
) -> Figure:
    """Median surfaces as steps, the band between best and worst level shaded; one colour per label."""
    figure, axes = new_figure()
    labels = list(dict.fromkeys(surfaces["label"]))
    colours = colours or dict(zip(labels, SERIES * (1 + len(labels) // len(SERIES))))
    scale, prefix = cost_prefix(cost, surfaces[cost].max())
    surfaces = surfaces.assign(**{cost: surfaces[cost] / scale})
    for label in labels:
        colour = colours[label]
        rows = surfaces[surfaces["label"] == label]
        curves = {}
        for band, points in rows.groupby("band"):
            ordered = points.sort_values([cost, benefit])
            curves[band] = (ordered[cost].to_numpy(), ordered[benefit].to_numpy())
        if {"best", "worst"} <= set(curves):
            grid = np.unique(np.concatenate([curves["best"][0], curves["worst"][0]]))
            grid = grid[grid >= curves["worst"][0].min()]
            low, high = (_step_at(grid, *curves[band]) for band in ("worst", "best"))
            axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.18, linewidth=0)
        if "median" in curves:
            axes.step(*curves["median"], where="post", color=colour, linewidth=1.9, label=str(label))
    axes.set_xlabel(f"{axis_label(cost, prefix)}   ← better")
    axes.set_ylabel(f"{axis_label(benefit)}   better →")
    axes.legend(
        loc="lower right", frameon=False, fontsize=9, title="median of seeds; band: quartiles or range"
    )
    return figure


def _step_at(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Best value reached at a cost of at most ``grid`` (NaN before the first point)."""
    at = np.searchsorted(x, grid, side="right") - 1
    return np.where(at >= 0, np.maximum.accumulate(y)[np.clip(at, 0, None)], np.nan)


def draw_difference(
    rectangles: pd.DataFrame, cost: str, benefit: str, first: tuple[str, str], second: tuple[str, str]
) -> Figure:
    """Where the first and where the second (name, colour) reaches more often; darker = by more of the seeds."""
    from matplotlib.patches import Rectangle

    figure, axes = new_figure()
    finite = rectangles.replace([np.inf, -np.inf], np.nan)
    right = np.nanmax([finite[f"{cost}_high"].max(), 1.05 * finite[f"{cost}_low"].max()])
    low, high = finite[f"{benefit}_low"].min(), finite[f"{benefit}_high"].max()
    bottom = low if low == low else finite[f"{benefit}_high"].min()
    scale, prefix = cost_prefix(cost, right)
    for row in rectangles.to_dict("records"):
        x0, x1 = row[f"{cost}_low"] / scale, min(row[f"{cost}_high"], right) / scale
        y0, y1 = max(row[f"{benefit}_low"], bottom), row[f"{benefit}_high"]
        colour = first[1] if row["difference"] > 0 else second[1]
        shade = min(1.0, abs(row["difference"]))
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=colour, alpha=0.85 * shade, linewidth=0)
        )
    axes.set_xlim(0.0, right / scale)
    margin = 0.05 * max(high - bottom, 0.1)
    axes.set_ylim(bottom - margin, high + margin)
    for name, colour in (first, second):
        axes.plot([], [], color=colour, linewidth=8, label=f"{name} reaches it more often")
    axes.set_xlabel(f"{axis_label(cost, prefix)}   ← better")
    axes.set_ylabel(f"{axis_label(benefit)}   better →")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return figure
