"""Static figures: first a frozen record of what is shown, then the drawing, then the files.

matplotlib without pyplot: figures are created and returned, no global style is touched. Every figure is
written as PNG, SVG and a CSV of its data under one name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import text
from analysis.choose.constraints import Constraint
from analysis.front import pareto
from analysis.front.objectives import usable
from analysis.runs.models import of_the_search, word
from gcp_core.schema import FINALS, Direction

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with the common colour vision deficiencies.
INK = "#222222"
TRIAL = "#9aa5b1"
FRONT = "#0072B2"
BASELINE = "#D55E00"
CHOSEN = "#009E73"
LIMIT = "#CC79A7"
#: One colour per criterion, in every figure; others follow by name.
CRITERION_COLOURS = {"frs": "#0072B2", "l1": "#E69F00", "random": "#7f7f7f"}
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7f7f7f")

_NAMES = {
    "val_accuracy": "Validation accuracy",
    "test_accuracy": "Test accuracy",
    "macs": "Multiply-adds per image",
    "params": "Parameters",
    "latency_ms": "Latency, batch 1",
    "accuracy_drop": "Accuracy lost to the baseline",
    "device_hours": "Training cost",
}
_SCALED = {"macs": "MACs", "params": "parameters"}
#: Where the name of a chosen trial may stand, in points from its dot.
_PLACES = ((12, -22), (12, 16), (-12, -22), (-12, 16), (12, -44), (-12, -44), (12, 38), (-12, 38))


_WHO = ["sweep", "model", "trial", "level"]


@dataclass(frozen=True)
class FrontView:
    """What a front figure shows.

    Attributes:
        title, x, y: heading and the two columns.
        points: one row per shown model: ``sweep, model, trial, level, role, criterion, <x>, <y>``; role is trial, front,
            baseline or chosen; points are coloured by criterion where it varies, snapshots of a path joined by a line.
        goals: what the front is the front of (:func:`goals_of_view`).
        front: (sweep, model) of those on it, the chosen one included, near-ties (``pareto.distinct``) left out.
        steps: (sweep, model) of those at the corners of the steps: the best along the two axes.
        limits: (column, value, words) of the constraints that are lines in this view.
        x_scale: shown numbers are values / ``x_scale`` (``x_prefix`` names it).
    """

    title: str
    x: str
    y: str
    points: pd.DataFrame
    goals: dict[str, Direction]
    front: frozenset[tuple[str, str]]
    steps: frozenset[tuple[str, str]]
    limits: tuple[tuple[str, float, str], ...]
    x_scale: float
    x_prefix: str


def front_view(
    df: pd.DataFrame,
    x: str = "macs",
    y: str = "val_accuracy",
    *,
    chosen: str | tuple[str, str] | None = None,
    constraints: Sequence[Constraint] = (),
    title: str = "",
    band: float = pareto.BAND,
) -> FrontView:
    """Collect the points of the (x, y) view of a table; the front is that of :func:`goals_of_view`.

    ``chosen`` is the name of a model, or its sweep and its name.
    """
    import pandas as pd

    candidates = df[df["candidate"]]
    goals = goals_of_view(df, x, y)
    front = frozenset(keys_of(pareto.distinct(candidates, goals, band)))
    role = ["front" if key in front else "trial" for key in keys_of(candidates)]
    columns = [*_WHO, x, y]
    ends = ["val_accuracy_low", "val_accuracy_high"]
    if y == "val_accuracy" and set(ends) <= set(df.columns) and df[ends].notna().any(axis=None):
        columns += ends
    rows = candidates[columns].assign(role=role, criterion=candidates.get("prune.criterion", ""))
    base = df.loc[df["kind"] == "baseline", columns].assign(role="baseline", criterion="")
    points = pd.concat([rows, base], ignore_index=True)
    points = points[usable(points[[x, y]].to_numpy(dtype=float))]
    if chosen is not None:
        wanted = {chosen} if isinstance(chosen, tuple) else {k for k in keys_of(points) if k[1] == chosen}
        points.loc[among(points, wanted), "role"] = "chosen"
    steps = frozenset(keys_of(pareto.distinct(candidates, {y: _better(y), x: _better(x)}, band)))
    limits = limit_lines(candidates, constraints, (x, y))
    scale, prefix = cost_prefix(x, points[x].max())
    points = points[[*_WHO, "role", "criterion", *columns[len(_WHO) :]]].reset_index(drop=True)
    return FrontView(title, x, y, points, goals, front, steps, limits, scale, prefix)


def keys_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """What names each row among those of several sweeps: every sweep has a ``t0003``."""
    return list(zip(rows["sweep"].map(str), rows["model"].map(str)))


def among(rows: pd.DataFrame, keys: Collection[tuple[str, str]]) -> np.ndarray:
    """(n,) bool: which rows have one of these :func:`keys_of`."""
    return np.array([key in keys for key in keys_of(rows)], dtype=bool)


def goals_of_view(df: pd.DataFrame, x: str, y: str) -> dict[str, Direction]:
    """What the front in the (x, y) view is the front of: the sweep's objectives, as in every table and tag.

    Only a sweep of two objectives that is viewed along another cost has a front of its own there.
    """
    goals = dict(df.attrs.get("objectives") or {})
    if len(goals) > 2 or {x, y} == set(goals):
        return goals
    return {y: _better(y), x: _better(x)}


def limit_lines(
    candidates: pd.DataFrame, constraints: Sequence[Constraint], axes: Sequence[str]
) -> tuple[tuple[str, float, str], ...]:
    """(column, value, words) of the constraints that are lines along one of the ``axes``."""
    lines = []
    for constraint in constraints:
        bounds = constraint.bounds(candidates) if not isinstance(constraint.bound, str) else np.array([])
        column, bounds = _as_axis(constraint.column, bounds, candidates)
        if column in axes and len(bounds) and np.isfinite(bounds).any():
            lines.append((column, float(np.nanmedian(bounds)), str(constraint)))
    return tuple(lines)


def _as_axis(column: str, bounds: np.ndarray, df: pd.DataFrame) -> tuple[str, np.ndarray]:
    """A bound on the accuracy drop is a line in accuracy; on a removed share, one in cost."""
    if column == "accuracy_drop":
        return "val_accuracy", df["baseline_val_accuracy"].to_numpy(dtype=float) - bounds
    if column in ("macs_removed", "params_removed"):
        cost = column.removesuffix("_removed")
        return cost, df[f"baseline_{cost}"].to_numpy(dtype=float) * (1 - bounds)
    if column in ("macs_kept", "params_kept"):
        cost = column.removesuffix("_kept")
        return cost, df[f"baseline_{cost}"].to_numpy(dtype=float) * bounds
    return column, bounds


def cost_prefix(column: str, largest: float) -> tuple[float, str]:
    """Divisor and decimal prefix with which the numbers of a count column stay short: ``(1e6, "M")``."""
    if column not in _SCALED:
        return 1.0, ""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= size:
            return size, prefix
    return 1.0, ""


def _better(column: str) -> Direction:
    return FINALS[column].better or "min"


def axis_label(column: str, prefix: str = "") -> str:
    """Name, unit and an arrow that points to better values: ``Validation accuracy (%) - better ↑``."""
    unit = f"{prefix} {_SCALED[column]}".strip() if column in _SCALED else FINALS[column].unit
    name = _NAMES.get(column, column.replace("_", " "))
    return f"{name} ({unit})"


def new_figure(width: float = 7.2, height: float = 4.6) -> tuple[Figure, Axes]:
    """A figure with one plain set of axes, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)
    return figure, axes


def draw_front(view: FrontView) -> Figure:
    """All trials faint, the front as steps, the baseline as a star, constraints as lines, the chosen trial
    named.
    """
    figure, axes = new_figure()
    points = view.points.assign(_x=view.points[view.x] / view.x_scale)
    of = dict(iter(points.groupby("role")))
    colours = _criterion_colours(view.points)
    _draw_paths(axes, points, view, colours)
    if "trial" in of:
        faint = [colours.get(name, TRIAL) for name in of["trial"]["criterion"]]
        axes.scatter(
            of["trial"]["_x"], of["trial"][view.y], s=22, c=faint, alpha=0.5, linewidths=0,
            label=None if colours else f"{word(points)}s",
        )  # fmt: skip
    _draw_steps(axes, points, view, colours)
    _draw_baseline(axes, of.get("baseline"), view)
    for column, value, words in view.limits:
        _draw_limit(axes, view, column, value, words)
    row = of["chosen"].iloc[0] if "chosen" in of else None
    if row is not None:
        axes.scatter(
            [row["_x"]], [row[view.y]], s=150, facecolors="none", edgecolors=CHOSEN, linewidths=2.2, zorder=6
        )
    _zoom(axes, points, view)
    axes.set_xlabel(f"{axis_label(view.x, view.x_prefix)}   {_arrow(view.x, 'x')}", color=INK)
    axes.set_ylabel(f"{axis_label(view.y)}   {_arrow(view.y, 'y')}", color=INK)
    if view.title:
        axes.set_title(view.title, loc="left", fontsize=11, color=INK)
    # A white ground: the words of an upright limit may stand behind the legend.
    axes.legend(loc="lower right", fontsize=9, facecolor="white", edgecolor="none", framealpha=0.9)
    if row is not None:
        _annotate(axes, row["_x"], row[view.y], f"chosen: {row['model']}", CHOSEN)
    return figure


def _arrow(column: str, axis: str) -> str:
    if _better(column) == "max":
        return "better →"
    return "← better"


def _criterion_colours(points: pd.DataFrame) -> dict[str, str]:
    """A colour for each criterion, if there are several (and not more than colours)."""
    names = sorted({str(name) for name in points.loc[points["role"] != "baseline", "criterion"]})
    spare = [colour for colour in SERIES if colour not in CRITERION_COLOURS.values()]
    others = [name for name in names if name not in CRITERION_COLOURS]
    if len(names) < 2 or len(others) > len(spare):
        return {}
    return {name: CRITERION_COLOURS.get(name) or spare[others.index(name)] for name in names}


def _draw_paths(axes: Axes, points: pd.DataFrame, view: FrontView, colours: dict[str, str]) -> None:
    """A thin line through the snapshots of every path, in their order; polished ones are points beside it."""
    paths = of_the_search(points[points["level"].notna()]).sort_values("level")
    label: str | None = "path, from its dense phase on"
    for _, rows in paths.groupby(["sweep", "trial"], sort=True):
        if len(rows) > 1:
            colour = colours.get(rows["criterion"].iloc[0], TRIAL)
            axes.plot(
                rows["_x"], rows[view.y], color=colour, linewidth=0.8, alpha=0.6, zorder=1.5, label=label
            )
            label = None


def _draw_steps(axes: Axes, points: pd.DataFrame, view: FrontView, colours: dict[str, str]) -> None:
    """The front as attained: between two points only the worse of both accuracies is attained at the lower
    cost.
    """
    pool = points[points["role"].isin(["trial", "front", "chosen"])]
    best = pool[among(pool, view.steps)].sort_values("_x")
    if best.empty:
        return
    line = "#555555" if colours else FRONT
    front = pool[among(pool, view.front)]
    count = f"{len(front)} of {len(pool)} {word(pool)}s"
    own = set(view.goals) == {view.x, view.y}
    label = f"front ({count})" if own else "best along these two axes"
    axes.step(best["_x"], best[view.y], where="post", color=line, linewidth=1.6, zorder=3, label=label)
    shades = [colours.get(name, FRONT) for name in front["criterion"]]
    others = None if own else f"front of {', '.join(view.goals)} ({count})"
    axes.scatter(front["_x"], front[view.y], s=38, c=shades, zorder=4, label=others)
    if "val_accuracy_low" in front.columns:
        away = [front[view.y] - front["val_accuracy_low"], front["val_accuracy_high"] - front[view.y]]
        axes.errorbar(
            front["_x"], front[view.y], yerr=away, fmt="none", ecolor=line, alpha=0.55, elinewidth=1.1, capsize=2.5,
            zorder=3, label="95 % interval (validation images)",
        )  # fmt: skip
    for name, colour in colours.items():
        axes.scatter([], [], s=38, c=colour, label=f"criterion {name}")


def _draw_baseline(axes: Axes, rows: pd.DataFrame | None, view: FrontView) -> None:
    if rows is None or rows.empty:
        return
    y = rows[view.y].mean()
    label = "baseline" if len(rows) == 1 else f"baseline (mean of {len(rows)}, band: min to max)"
    axes.scatter([rows["_x"].mean()], [y], marker="*", s=190, c=BASELINE, zorder=5, label=label)
    axes.axhline(y, color=BASELINE, linewidth=0.8, linestyle=(0, (1, 2)))
    if len(rows) > 1:
        axes.axhspan(rows[view.y].min(), rows[view.y].max(), color=BASELINE, alpha=0.12, linewidth=0)


def _draw_limit(axes: Axes, view: FrontView, column: str, value: float, words: str) -> None:
    style: dict[str, Any] = {"color": LIMIT, "linewidth": 1.2, "linestyle": (0, (5, 3))}
    note: dict[str, Any] = {"color": "#8a3d68", "fontsize": 8}
    if column == view.x:
        axes.axvline(value / view.x_scale, **style)
        axes.text(
            value / view.x_scale, 0.02, f" {words}", rotation=90, va="bottom", ha="right",
            transform=axes.get_xaxis_transform(), **note,
        )  # fmt: skip
    else:
        axes.axhline(value, **style)
        axes.text(0.995, value, words, va="bottom", ha="right", transform=axes.get_yaxis_transform(), **note)


def _annotate(axes: Axes, x: float, y: float, words: str, colour: str) -> None:
    """Words beside a point, in the first place around it where they lie on no others and within the axes."""
    from matplotlib.text import Text

    others = [t for t in axes.findobj(Text) if t.get_visible() and t.get_text().strip()]
    note = axes.annotate(
        words, (x, y), xytext=_PLACES[0], textcoords="offset points", fontsize=9, fontweight="bold", color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9}, zorder=7,
        bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
    )  # fmt: skip
    axes.figure.canvas.draw()  # only a drawn figure knows where its words are
    taken = [t.get_window_extent() for t in others]
    for place in _PLACES:
        note.set_position(place)
        note.set_horizontalalignment("left" if place[0] > 0 else "right")
        box = Text.get_window_extent(note)
        inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
        if inside and not any(box.overlaps(other) for other in taken):
            return
    note.set_position(_PLACES[0])
    note.set_horizontalalignment("left")


def _zoom(axes: Axes, points: pd.DataFrame, view: FrontView) -> None:
    """Costs start at zero. One collapsed run must not flatten the rest: far below the front, points leave
    the view.
    """
    axes.set_xlim(left=0.0)
    if view.y not in ("val_accuracy", "test_accuracy"):
        return
    shown = points[points["role"] != "trial"][view.y]
    if shown.empty:
        shown = points[view.y]
    top, bottom = shown.max(), shown.min()
    if "val_accuracy_low" in points.columns:  # the bars of the front stay inside the view
        ends = points[points["role"].isin(["front", "chosen"])]
        top = np.nanmax([top, ends["val_accuracy_high"].max()])
        bottom = np.nanmin([bottom, ends["val_accuracy_low"].min()])
    margin = max(0.08 * (top - bottom), 0.3)
    floor = bottom - 3 * margin
    hidden = int((points[view.y] < floor).sum())
    low = floor if hidden else min(bottom, points[view.y].min()) - margin
    axes.set_ylim(low, min(top + 1.5 * margin, 100.0 + margin))
    if hidden:
        axes.text(
            0.99, 0.01, f"{text.plural(hidden, word(points))} below the view ↓", transform=axes.transAxes,
            ha="right", va="bottom", fontsize=8, color="#555555",
        )  # fmt: skip


def draw_progress(progress: pd.DataFrame, by: str = "trials") -> Figure:
    """Hypervolume so far over finished trials (``by="trials"``) or over device hours
    (``by="device_hours"``).
    """
    figure, axes = new_figure(7.2, 3.4)
    axes.step(progress[by], progress["hypervolume"], where="post", color=FRONT, linewidth=1.8)
    axes.set_xlabel("finished trials" if by == "trials" else "device hours spent")
    axes.set_ylabel("hypervolume of the front   better →")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return figure


def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write ``name.png``, ``name.svg`` and ``name.csv`` (the figure's data) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg", "csv")]
    render(figure, paths[0], paths[1])
    data.to_csv(paths[2], index=False, float_format=_digits)
    return paths


def render(figure: Figure, png: Path, svg: Path) -> None:
    """Write the picture itself."""
    figure.draw_without_rendering()
    # The layout is found: finding it again for each file takes as long as drawing it.
    figure.set_layout_engine(None)
    figure.savefig(png)
    # Without a date two runs on the same data give the same file.
    figure.savefig(svg, metadata={"Date": None})


def _digits(value: Any) -> str:  # pandas asks for "object"
    return text.digits(value)
