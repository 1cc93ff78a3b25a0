"""Plotly figures of a sweep for a notebook: the front, the paths, the search, and what mattered.

Every function takes the table of ``analysis.load`` and gives back a ``plotly.graph_objects.Figure``, which a notebook
shows and which can be changed like any other. The data is that of the report's figures; plotly is imported only here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.choose import constraints as hard
from analysis.evidence import importance as mattering
from analysis.front import progress as growth
from analysis.front.anchors import anchors_for
from analysis.plain import rows_of
from analysis.runs import table
from analysis.runs.models import of_the_search, word
from analysis.show import figures
from gcp_core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from analysis.show.figures import FrontView

_GRID = "#e6e6e6"
_FAINT = 0.45
#: Axes of the parallel coordinates beside accuracy and MACs; more cannot be told apart.
_SHOWN_PARAMETERS = 8
_LONGEST_NAME = 24


def front(
    df: pd.DataFrame,
    x: str = "macs",
    y: str = "val_accuracy",
    *,
    chosen: str | None = None,
    limits: Sequence[str] = (),
) -> Figure:
    """Every model with its accuracy and cost, the front as steps with 95 % intervals, the baseline as a star.

    Args:
        df: the table of ``analysis.load``.
        x, y: a cost and an accuracy, short names of final values.
        chosen: a model to mark, for instance ``choice.model``.
        limits: constraints to draw as lines, as ``gcp-analyze select`` takes them: ``"macs <= 50%"``.

    Raises:
        ConfigError: ``chosen`` is not a model of the table, or a limit cannot be understood.
    """
    _known(df, chosen)
    view = figures.front_view(
        df, x, y, chosen=chosen, constraints=[hard.parse(one, df.columns) for one in limits]
    )
    figure = _figure(
        f"{figures.axis_label(x, view.x_prefix)}, less is better", f"{figures.axis_label(y)}, more is better"
    )
    points = view.points.assign(shown=view.points[x] / view.x_scale)
    for _, rows in _paths(points):
        _line(figure, rows["shown"], rows[y], figures.TRIAL, "", width=1, legend=False)
    _dots(
        figure, points[points["role"] == "trial"], view, f"{word(df)}s", figures.TRIAL, size=7, opacity=_FAINT
    )
    best = points[figures.among(points, view.steps)].sort_values("shown")
    if len(best):
        _line(figure, best["shown"], best[y], figures.FRONT, "", shape="hv", legend=False)
    on = points[figures.among(points, view.front)].sort_values("shown")
    _dots(figure, on, view, f"front ({len(on)})", figures.FRONT, size=10)
    _dots(
        figure,
        points[points["role"] == "baseline"],
        view,
        "baseline",
        figures.BASELINE,
        size=16,
        symbol="star",
    )
    picked = points[points["role"] == "chosen"]
    ring = {"size": 18, "color": "rgba(0,0,0,0)", "line": {"color": figures.CHOSEN, "width": 3}}
    _dots(figure, picked, view, f"chosen: {chosen}", figures.CHOSEN, **ring)
    for column, value, words in view.limits:
        draw = figure.add_vline if column == x else figure.add_hline
        at = value / view.x_scale if column == x else value
        style = {"line_dash": "dash", "line_color": figures.LIMIT, "annotation_text": words}
        draw(at, **style)
    figure.update_xaxes(rangemode="tozero")
    return figure


def paths(df: pd.DataFrame, *, only: Sequence[str] = ()) -> Figure:
    """Accuracy of every path's snapshots over the epochs trained; the larger a dot, the more of the MACs are left.

    Args:
        df: the table of a sweep of paths.
        only: names of the paths to show, such as ``["t0003"]``; all by default.

    Raises:
        ConfigError: the sweep has no paths, or none of these names.
    """
    rows = of_the_search(df[(df["kind"] == "trial") & df["level"].notna() & df["candidate"]])
    if rows.empty:
        raise ConfigError(
            "the sweep has no paths with finished models", "paths", "analysis.plots.front shows it"
        )
    for name in only:
        if name not in set(rows["trial"]):
            raise ConfigError(
                "is not a path of this sweep", name, did_you_mean(name, sorted(set(rows["trial"])))
            )
    figure = _figure("Epochs trained", f"{figures.axis_label('val_accuracy')}, more is better")
    shown = rows[rows["trial"].isin(only)] if only else rows
    several = shown["sweep"].nunique() > 1
    for place, ((sweep, trial), part) in enumerate(shown.groupby(["sweep", "trial"], sort=True)):
        part = part.sort_values("level")
        left = 1 - part["macs_removed"].astype(float)
        name = f"{sweep}/{trial}" if several else str(trial)
        colour = figures.SERIES[place % len(figures.SERIES)]
        figure.add_scatter(
            x=_plain(part["epochs"]), y=_plain(part["val_accuracy"]), name=name, mode="lines+markers",
            line={"color": colour, "width": 1.5}, marker={"color": colour, "size": [round(7 + 15 * v, 1) for v in left]},
            text=[_hover(row) for row in rows_of(part)], hoverinfo="text",
        )  # fmt: skip
    figure.update_xaxes(rangemode="tozero")
    return figure


def parallel(df: pd.DataFrame) -> Figure:
    """Parallel coordinates: what was searched, then MACs and validation accuracy. A line is a finished model."""
    import pandas as pd

    rows = of_the_search(df[df["candidate"]])
    axes: list[dict[str, Any]] = []
    for name in table.varying(df)[:_SHOWN_PARAMETERS]:
        values = rows[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            axes.append({"label": name, "values": _plain(values.to_numpy(dtype=float, na_value=math.nan))})
            continue
        said = table.as_words(values)
        words = sorted(said.unique())
        named = {"tickvals": list(range(len(words))), "ticktext": words}
        axes.append({"label": name, "values": [words.index(v) for v in said], **named})
    scale, prefix = figures.cost_prefix("macs", rows["macs"].max())
    axes.append({"label": f"MACs ({prefix})" if prefix else "MACs", "values": _plain(rows["macs"] / scale)})
    axes.append({"label": "val. accuracy (%)", "values": _plain(rows["val_accuracy"])})
    figure = _figure("", "")
    figure.add_parcoords(
        dimensions=axes,
        line={"color": _plain(rows["val_accuracy"]), "colorscale": "Viridis", "showscale": True,
              "colorbar": {"title": "accuracy, %"}},
    )  # fmt: skip
    figure.update_layout(margin={"t": 60, "l": 60})
    return figure


def importance(df: pd.DataFrame, target: str = "val_accuracy") -> Figure:
    """How much of the variation goes with each searched parameter, with the range of ten draws.

    Bars without evidence are grey. Raises what ``analysis.importance.importance`` raises: fewer than ten trials, or
    nothing was searched.
    """
    found = mattering.importance(df, target).iloc[::-1]
    figure = _figure("Share of the variation that goes with it", "")
    share = found["importance"]
    figure.add_bar(
        x=_plain(share), y=list(found["parameter"]), orientation="h", showlegend=False,
        marker={"color": [figures.FRONT if yes else figures.TRIAL for yes in found["evidence"]]},
        error_x={"type": "data", "array": _plain(found["high"] - share), "arrayminus": _plain(share - found["low"]),
                 "color": figures.INK},
        text=["" if yes else "no evidence" for yes in found["evidence"]], hoverinfo="x+y",
    )  # fmt: skip
    figure.update_xaxes(range=[0, max(1.0, float(found["high"].max()))], tickformat=".0%")
    return figure


def progress(df: pd.DataFrame, by: str = "trials") -> Figure:
    """Hypervolume of the front so far, over finished models (``by="trials"``) or over ``"device_hours"``.

    Raises:
        ConfigError: ``by`` is neither.
    """
    labels = {"trials": f"Finished {word(df)}s", "device_hours": "Device hours spent"}
    if by not in labels:
        raise ConfigError(f"{by!r} is unknown", "by", did_you_mean(by, labels))
    goals = df.attrs["objectives"]
    history = growth.progress(df, goals, anchors_for(df, goals))
    figure = _figure(labels[by], "Hypervolume of the front, more is better")
    _line(figure, history[by], history["hypervolume"], figures.FRONT, "", shape="hv", legend=False)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure


def _figure(x: str, y: str) -> Figure:
    """An empty figure in the style of the report's, without plotly's own template (it weighs more than the data)."""
    try:
        from plotly.graph_objects import Figure
    except ImportError as error:
        raise ConfigError(
            "plotly is not installed", "analysis.plots", 'pip install "gcp-sweep[analysis]"'
        ) from error
    axis = {"gridcolor": _GRID, "zeroline": False, "linecolor": "#888888", "automargin": True}
    figure = Figure(layout={"template": "none"})
    figure.update_layout(
        height=420, plot_bgcolor="white", paper_bgcolor="white", font={"size": 13, "color": figures.INK},
        margin={"t": 30, "r": 20, "b": 55, "l": 65}, legend={"orientation": "h", "y": 1.1, "x": 0},
        xaxis={**axis, "title": {"text": x}}, yaxis={**axis, "title": {"text": y}},
    )  # fmt: skip
    return figure


def _line(
    figure: Figure,
    x: Any,
    y: Any,
    colour: str,
    name: str,
    *,
    width: float = 2,
    shape: str = "linear",
    legend: bool,
) -> None:
    line = {"color": colour, "width": width, "shape": shape}
    figure.add_scatter(
        x=_plain(x), y=_plain(y), mode="lines", line=line, name=name, showlegend=legend, hoverinfo="skip"
    )


def _dots(figure: Figure, rows: pd.DataFrame, view: FrontView, name: str, colour: str, **marker: Any) -> None:
    """Points with what they are when the mouse is over them; those of the front with their intervals."""
    if rows.empty:
        return
    bars = None
    if "val_accuracy_low" in rows.columns and marker.get("size") == 10:
        above, below = rows["val_accuracy_high"] - rows[view.y], rows[view.y] - rows["val_accuracy_low"]
        bars = {
            "type": "data",
            "array": _plain(above),
            "arrayminus": _plain(below),
            "thickness": 1,
            "color": colour,
        }
    figure.add_scatter(
        x=_plain(rows["shown"]), y=_plain(rows[view.y]), mode="markers", name=name, error_y=bars,
        marker={"color": colour, **marker}, text=[_hover(row) for row in rows_of(rows)], hoverinfo="text",
    )  # fmt: skip


def _paths(points: pd.DataFrame) -> Any:
    rows = of_the_search(points[points["level"].notna()]).sort_values("level")
    return ((trial, part) for trial, part in rows.groupby(["sweep", "trial"], sort=True) if len(part) > 1)


def _hover(row: dict[str, Any]) -> str:
    """What a point is: its name, accuracy and cost. Plotly reads HTML here, so names are escaped."""
    import html

    said = [f"<b>{html.escape(str(row['model'])[:_LONGEST_NAME])}</b>"]
    for name in ("val_accuracy", "macs", "params", "macs_kept", "train_cost"):
        value = row.get(name)
        if value is not None and value == value:
            of = " of the MACs" if name == "macs_kept" else " of training" if name == "train_cost" else ""
            said.append(f"{text.quantity(name, value)}{of}")
    return "<br>".join(said)


def _plain(values: Any) -> list[float | None]:
    """Numbers as a notebook keeps them: short, and null where there is none."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, values)]


def _known(df: pd.DataFrame, model: str | None) -> None:
    if model is not None and model not in set(df["model"]):
        raise ConfigError("no such model", model, did_you_mean(model, df["model"]))
