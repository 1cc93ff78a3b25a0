"""Report sections that rest on statistics: how sure the front is, and which parameters mattered.

Each is a record of what ``templates/report.html`` shows. ``missing`` says in a sentence why a section is not available
when the data cannot carry it; a section never fails the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis import text
from analysis.choose.advice import advise
from analysis.evidence.assurance import WARNING, Assurance
from analysis.evidence.importance import METHOD, cells, findings, importance
from analysis.evidence.noise import extent
from analysis.front.pareto import front
from analysis.plain import rows_of
from analysis.runs.models import one_per_trial, word
from analysis.show.page import Table
from gcp_core.errors import GcpError
from gcp_core.schema import ModelName

if TYPE_CHECKING:
    import pandas as pd

    from analysis.front.anchors import Anchors

_SHOWN = 15
_NOTHING = Table((), ())


@dataclass(frozen=True)
class Sureness:
    """Configurations that may be on the front, with mean and spread over their seeds, and how many surely are not."""

    warning: str
    missing: str = ""
    spreads: str = ""
    replicated: str = ""
    out: str = ""
    left: int = 0
    table: Table = _NOTHING


@dataclass(frozen=True)
class Mattered:
    """Importance of the searched parameters with its range, and whether there is any evidence for it."""

    findings: str = ""
    method: str = ""
    missing: str = ""
    table: Table = _NOTHING


@dataclass(frozen=True)
class Advice:
    """Where the front is thin, in sentences, and which configurations would aim there."""

    missing: str = ""
    gaps: tuple[str, ...] = ()
    points: Table = _NOTHING


#: Why a path has ended, in words for people.
_ENDS = {
    "target": "its target is reached",
    "cap": "it reached its cap on the epochs",
    "floors": "the minimum widths leave nothing to remove",
    "constraint": "it breaks a limit that more pruning cannot repair",
    "stopped": "it was stopped",
    "paused": "it rests",
}


def paths(df: pd.DataFrame) -> Table | None:
    """One row per path of the search, deepest last model first: how far it went, what that cost, and why no further."""
    rows = df[(df["kind"] == "trial") & df["level"].notna()]
    if rows.empty or "path_ended" not in df.columns or not (rows["path_ended"] != "").any():
        return None
    best = set(front(df, df.attrs["objectives"]).index)
    on_front = rows.index.to_series().isin(best).groupby([rows["sweep"], rows["trial"]]).sum()
    last = one_per_trial(rows).sort_values(["macs", "trial"], kind="stable")
    header = ["last model", "status", "MACs left", "training cost", "models on the front", "why no further"]
    cells = [
        [
            row["model"],
            row["trial_status"],
            text.quantity("macs_kept", 1 - row.get("macs_removed", math.nan)),
            text.quantity("train_cost", row.get("train_cost")),
            int(on_front[row["sweep"], row["trial"]]),
            row["path_decision"] or row["error"] or _ENDS.get(row["path_ended"], row["path_ended"]),
        ]
        for row in rows_of(last)
    ]
    return Table(header, cells)


def sureness(df: pd.DataFrame, found: Assurance) -> Sureness:
    """How sure each configuration's place on the front is, over all its seeds."""
    warning = f"{WARNING[0].upper()}{WARNING[1:]}"
    if found.groups is None:
        return Sureness(warning, missing=found.reason)
    columns = list(df.attrs["objectives"])
    open_ = found.groups[~found.groups["ruled_out"]]
    shown = open_.sort_values(["robust", "n", columns[0]], ascending=False, kind="stable").head(_SHOWN)
    header = [f"first {word(df)}", "seeds", *(f"{c}: mean" for c in columns), *(f"{c}: std" for c in columns)]
    rows = [
        [
            row["model"],
            row["n"],
            *(text.quantity(c, row[c]) for c in columns),
            *(text.spread(c, row[f"{c}_std"]) if row["n"] > 1 else "-" for c in columns),
            "yes" if row["robust"] else "",
        ]
        for row in shown.to_dict("records")
    ]
    return Sureness(
        warning,
        spreads=", ".join(f"{text.spread(name, value)} of {name}" for name, value in found.std.items()),
        replicated=text.plural(found.replicated, "configuration"),
        out=f"{len(found.groups) - len(open_)} of {extent(found.groups)}",
        left=len(open_),
        table=Table([*header, "robust"], rows),
    )


def confirmed(found: Assurance) -> Table:
    """Selected against confirmed: what the search believed and what fresh seeds gave; empty without confirm runs."""
    rows = [
        (
            c.model,
            text.quantity("macs", c.macs),
            f"{c.selected:.2f} %",
            f"{c.n} of {c.n + c.failed}" if c.failed else c.n,
            f"{c.mean:.2f} %" if c.n else "-",
            f"{c.low:.2f} to {c.high:.2f} %" if math.isfinite(c.low) else "-",
            f"{c.drop:+.2f}" if c.n else "-",
        )
        for c in found.confirmed
    ]
    first = "model" if any(ModelName.parse(c.model).level is not None for c in found.confirmed) else "trial"
    header = [first, "MACs", "selected at", "fresh seeds", "their mean", "80 % interval", "lost, points"]
    return Table(header, rows)


def what_mattered(df: pd.DataFrame, target: str = "val_accuracy") -> Mattered:
    """Importance of the searched parameters with its range, and whether there is any evidence for it."""
    try:
        found = importance(df, target)
    except GcpError as error:
        return Mattered(missing=error.message)
    return Mattered(findings(found), METHOD, table=Table(*cells(found)))


def what_next(df: pd.DataFrame, scales: Anchors) -> Advice:
    """Where the front is thin and which configurations would aim there."""
    try:
        found = advise(df, df.attrs["objectives"], scales)
    except GcpError as error:
        return Advice(missing=error.message)
    header = list(found.points[0]) if found.points else []
    rows = [[text.parameter(point[name]) for name in header] for point in found.points]
    return Advice(gaps=tuple(gap.words for gap in found.gaps), points=Table(header, rows))
