"""What the report's script is given: every finished model, its parameters, the courses of training, layer widths."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from analysis.errors import Unreachable
from analysis.front import pareto
from analysis.plain import plain, plain_trial, rows_of
from analysis.runs import table
from analysis.runs.artifacts import sweep_of
from analysis.runs.epochs import courses
from analysis.runs.models import word
from analysis.runs.widths import layer_widths, manifest_of, natural
from analysis.show import figures
from gcp_core.errors import GcpError
from gcp_core.schema import FINALS, LOCAL_UI

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.constraints import Constraint
    from analysis.choose.recommend import Recommendation

log = logging.getLogger(__name__)
#: Parameters that get an axis or a column where room is short.
SHOWN_PARAMS = 8
#: Models whose layers are read, and trials whose epochs are.
_WIDTHS, _COURSES = 40, 200

_COLUMNS = (
    "val_accuracy", "macs", "params", "macs_kept", "params_kept", "latency_ms", "accuracy_drop", "latency_low_ms",
    "latency_high_ms",
)  # fmt: skip


def payload(
    df: pd.DataFrame,
    recommended: Recommendation,
    history: pd.DataFrame | None,
    constraints: Sequence[Constraint],
    band: float,
) -> dict[str, Any]:
    """Everything the page's script needs, ready for JSON."""
    varying = table.varying(df)
    picked = set(recommended.choice.rows.index) if recommended.choice is not None else set()
    candidates = df[df["candidate"]]
    axes = cost_axes(df)
    return {
        "sweeps": len(df.attrs["sweeps"]),
        "word": word(df),
        "band": band,
        "trials": _entries(candidates, df, varying, picked),
        "baselines": _entries(df[(df["kind"] == "baseline") & df["macs"].notna()], df, varying, set()),
        "varying": varying,
        "views": {
            axis: [
                {"name": n, "better": d} for n, d in figures.goals_of_view(df, axis, "val_accuracy").items()
            ]
            for axis in axes
        },
        "limits": [
            {"column": column, "value": value, "words": words}
            for column, value, words in figures.limit_lines(candidates, constraints, (*axes, "val_accuracy"))
        ],
        "limit": plain(recommended.limit),
        "compared": recommended.compared,
        "asked": recommended.basis == "asked",
        "finals": [
            {"name": n, "unit": FINALS[n].unit, "words": FINALS[n].text} for n in FINALS if n in df.columns
        ],
        "axes": [{"name": name, "label": figures.axis_label(name)} for name in axes],
        "parallel": _parallel(candidates, varying),
        "progress": {}
        if history is None
        else {name: [plain(v) for v in history[name]] for name in history.columns},
        "maxDrop": max_drop(df),
        "courses": [vars(course) for course in courses(df, _COURSES)],
        "widths": _widths(df, recommended, band),
    }


def cost_axes(df: pd.DataFrame) -> list[str]:
    """The costs that some finished model has a value of."""
    rows = df[df["candidate"]]
    found = [n for n in ("macs", "params", "latency_ms") if n in df.columns and rows[n].notna().any()]
    return found or ["macs"]


def max_drop(df: pd.DataFrame) -> float:
    """A whole number of points that no finished model loses more than."""
    worst = df.loc[df["candidate"], "accuracy_drop"].max()
    return float(int(worst) + 1) if worst == worst and worst > 0 else 1.0


def run_link(df: pd.DataFrame, row: dict[str, Any]) -> str:
    """The run's page in the MLflow UI ("" for a table without runs). Whoever follows it says who they are: the page holds
    no user or password of the tracking address.
    """
    entry = sweep_of(df, row)
    if not row.get("run_id") or not entry.get("tracking_uri"):
        return ""
    uri = urlsplit(str(entry["tracking_uri"]))
    host = uri.netloc.rpartition("@")[2]
    base = f"{uri.scheme}://{host}{uri.path}".rstrip("/") if uri.scheme in ("http", "https") else LOCAL_UI
    return f"{base}/#/experiments/{entry['experiment_id']}/runs/{row['run_id']}"


def _entries(
    rows: pd.DataFrame, df: pd.DataFrame, config: list[str], picked: Iterable[Any]
) -> list[dict[str, Any]]:
    columns = [*_COLUMNS, *(name for name in df.attrs["objectives"] if name not in _COLUMNS)]
    entries = []
    for index, row in zip(rows.index, rows_of(rows)):
        entry = {name: plain(row.get(name)) for name in columns} | plain_trial(row, config)
        if entry["accuracy_drop"] is not None:
            # As two sums of per cents have it: in binary 97.4 - 97.1 is more than the 0.3 of the page's slider.
            entry["accuracy_drop"] = round(entry["accuracy_drop"], 9)
        entry["key"] = f"{index}"
        entry["chosen"] = index in picked
        entry["link"] = run_link(df, row)
        entries.append(entry)
    return entries


def _parallel(rows: pd.DataFrame, varying: list[str]) -> list[dict[str, Any]]:
    """Axes of the parallel coordinates: what was searched, then cost and accuracy."""
    import pandas as pd

    axes: list[dict[str, Any]] = []
    for name in varying[:SHOWN_PARAMS]:
        numeric = pd.api.types.is_numeric_dtype(rows[name]) and not pd.api.types.is_bool_dtype(rows[name])
        # As the page writes them: JSON has true where Python has True.
        words = [plain(value) for value in rows.loc[rows[name].notna(), name].unique()]
        values = (
            None if numeric else sorted({json.dumps(w) if isinstance(w, bool) else str(w) for w in words})
        )
        axes.append({"name": name, "label": name.split(".", 1)[-1], "values": values})
    axes.append({"name": "macs", "label": "MACs", "values": None})
    axes.append({"name": "val_accuracy", "label": "val acc %", "values": None})
    return axes


def _widths(df: pd.DataFrame, recommended: Recommendation, band: float) -> dict[str, Any]:
    """Layers of the models that one may want side by side: the choice, its runners-up and the front.

    ``of``: key of a model -> what is left of each layer that lost something; ``layers``: the layers with their full
    widths; ``missing``: why there is none.
    """
    import pandas as pd

    rows = (
        pareto.distinct(df, df.attrs["objectives"], band).sort_values("macs")
        if df["candidate"].any()
        else df.head(0)
    )
    if recommended.choice is not None:
        rows = pd.concat([recommended.choice.rows, recommended.choice.runners_up, rows])
    rows = df.loc[rows.index.unique()[:_WIDTHS]]
    before: dict[str, int] = {}
    found: dict[str, dict[str, int]] = {}
    why = "no model has a manifest, or nothing was removed"
    for index, row in rows.iterrows():
        try:
            manifest = manifest_of(df, row)
            layers = layer_widths(manifest) if manifest else None
        except Unreachable as error:  # each further question would wait for as long
            log.warning("widths of layers are left out: %s", error)
            why = str(error)
            break
        except GcpError as error:
            why = str(error)
            continue
        if layers is not None:
            found[str(index)] = {layer.layer: layer.after for layer in layers}
            before |= {layer.layer: layer.before for layer in layers}
    return {
        "of": found if before else {},
        "layers": [{"layer": name, "before": before[name]} for name in sorted(before, key=natural)],
        "missing": "" if before else why,
    }
