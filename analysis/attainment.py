"""Attainment surfaces: which accuracy at which cost was reached by a quarter, half, three quarters of the
seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis import pareto
from analysis.figures import SERIES, axis_label, cost_prefix, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Seeds below which quartiles mean little: best, median and worst are shown instead.
_FEW = 5


def attainment(parts: Mapping[str, pd.DataFrame], objectives: pareto.Objectives) -> pd.DataFrame:
    """Points of the attainment surfaces per label (empirical attainment function, Grunert da Fonseca et al.
    2001).

    Columns: ``label, level`` (share of seeds that reached the point or better: 25, 50, 75 %; with fewer than
    five seeds the best, median and worst), ``band`` (best, median, worst), and the objectives in their own
    units.
    """
    import moocore
    import pandas as pd

    frames = []
    for label, part in parts.items():
        seeds = sorted(part["seed"].dropna().unique())
        points, sets = [], []
        for i, seed in enumerate(seeds, start=1):
            values, _ = pareto.costs(part[part["seed"] == seed], objectives)
            best = values[pareto.nondominated(values)]
            points.append(best)
            sets.append(np.full(len(best), i))
        # moocore minimises and takes the share of runs that attain a point, in per cent.
        levels = (25.0, 50.0, 75.0) if len(seeds) >= _FEW else (100.0 / len(seeds), 50.0, 100.0)
        surface = moocore.eaf(np.vstack(points), sets=np.concatenate(sets), percentiles=sorted(set(levels)))
        rows = pd.DataFrame(surface[:, :-1], columns=list(objectives))
        for column, direction in objectives.items():
            if direction == "max":
                rows[column] = -rows[column]
        rows.insert(0, "level", surface[:, -1])
        bands = {round(level, 6): band for level, band in zip(levels, ("best", "median", "worst"))}
        rows.insert(0, "band", [bands.get(round(v, 6), "median") for v in rows["level"]])
        rows.insert(0, "label", label)
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)


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


def attainment_difference(a: pd.DataFrame, b: pd.DataFrame, objectives: pareto.Objectives) -> pd.DataFrame:
    """Rectangles of the objective space with ``difference``: share of seeds of ``a`` minus that of ``b``
    that reach it.

    Columns ``<cost>_low, <cost>_high, <benefit>_low, <benefit>_high, difference`` (-1..1); only where they
    differ.
    """
    import moocore
    import pandas as pd

    sides = []
    for part in (a, b):
        rows = []
        for i, (_, group) in enumerate(part.groupby("seed"), start=1):
            values, _ = pareto.costs(group, objectives)
            best = values[pareto.nondominated(values)]
            rows.append(np.column_stack([best, np.full(len(best), i)]))
        sides.append(np.vstack(rows))
    found = moocore.eafdiff(sides[0], sides[1], rectangles=True)
    names = list(objectives)
    frame = pd.DataFrame(
        {
            f"{names[0]}_low": found[:, 0], f"{names[1]}_low": found[:, 1],
            f"{names[0]}_high": found[:, 2], f"{names[1]}_high": found[:, 3],
        }
    )  # fmt: skip
    for name, direction in objectives.items():
        if direction == "max":
            low, high = -frame[f"{name}_high"], -frame[f"{name}_low"]
            frame[f"{name}_low"], frame[f"{name}_high"] = low, high
    # moocore gives the difference in numbers of intervals; the largest possible is the number of runs.
    frame["difference"] = found[:, 4] / max(a["seed"].nunique(), b["seed"].nunique())
    return frame


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
