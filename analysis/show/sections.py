"""Report sections that rest on statistics: how sure the front is, and which parameters mattered.

Each says in a sentence why it is not available when the data cannot carry it; it never fails the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis import text
from analysis.choose.advice import advise
from analysis.evidence.assurance import WARNING, Assurance
from analysis.evidence.importance import METHOD, cells, findings, importance
from analysis.show import page
from gcp_core.errors import GcpError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.front.anchors import Anchors

_SHOWN = 15


def sureness(df: pd.DataFrame, found: Assurance) -> str:
    """Configurations with their mean, spread and the chance to stand on the front, and what fresh seeds confirmed."""
    head = "<h2>How sure is the front</h2>"
    if found.groups is None:
        return (
            f'{head}<p class="soft">Not known: {page.escape(found.reason)}. {WARNING[0].upper()}{WARNING[1:]}. '
            "<code>gcp-analyze select ... --write-config best.yaml</code> writes the config that confirms a choice.</p>"
        )
    columns = list(df.attrs["objectives"])
    shown = found.groups.sort_values("probability", ascending=False).head(_SHOWN)
    header = ["first trial", "seeds", *(f"{c}: mean" for c in columns), *(f"{c}: std" for c in columns)]
    rows = [
        [
            row["trial"],
            row["n"],
            *(text.quantity(c, row[c]) for c in columns),
            *(text.spread(c, row[f"{c}_std"]) if row["n"] > 1 else "-" for c in columns),
            f"{100 * row['probability']:.0f} %",
            "yes" if row["robust"] else "",
        ]
        for row in shown.to_dict("records")
    ]
    spreads = ", ".join(f"{text.spread(name, value)} of {name}" for name, value in found.std.items())
    return (
        f'{head}<p class="soft">Per configuration over all its seeds, fresh ones included. Spread between seeds: '
        f"{page.escape(spreads)}, pooled over {text.plural(found.replicated, 'configuration')}. Chance: share of 1,000 "
        "bootstrap draws over seeds in which it is on the front. Robust: on the front of the means less one standard "
        "error.</p>" + page.grid([*header, "chance on the front", "robust"], rows)
    )


def confirmed(found: Assurance) -> str:
    """Selected against confirmed: what the search believed and what fresh seeds gave; "" without confirm runs."""
    if not found.confirmed:
        return ""
    rows = [
        (
            c.trial,
            text.quantity("macs", c.macs),
            f"{c.selected:.2f} %",
            c.n,
            f"{c.mean:.2f} %",
            f"{c.low:.2f} to {c.high:.2f} %",
            f"{c.drop:+.2f}",
        )
        for c in found.confirmed
    ]
    header = ["trial", "MACs", "selected at", "fresh seeds", "their mean", "80 % interval", "lost, points"]
    return (
        "<h2>Selected and confirmed</h2>"
        '<p class="soft">The search chose by the first number; the others are runs of the same configuration on seeds it '
        "had not seen. They never take part in choosing.</p>" + page.grid(header, rows)
    )


def what_mattered(df: pd.DataFrame, target: str = "val_accuracy") -> str:
    """Importance of the searched parameters with its range, and whether there is any evidence for it."""
    head = "<h2>What mattered</h2>"
    try:
        found = importance(df, target)
    except GcpError as error:
        return f'{head}<p class="soft">Not available: {page.escape(error.message)}.</p>'
    return (
        f'{head}<p>{page.escape(findings(found))}</p><p class="soft">Measured by {METHOD}. Importance and range come '
        "from the same draws of trials. Evidence: in at most one of twenty shuffled sweeps would any parameter seem as "
        "important; no evidence does not mean no influence.</p>" + page.grid(*cells(found))
    )


def what_next(df: pd.DataFrame, scales: Anchors) -> str:
    """Where the front is thin and which configurations would aim there."""
    head = "<h2>What to try next</h2>"
    try:
        found = advise(df, df.attrs["objectives"], scales)
    except GcpError as error:
        return f'{head}<p class="soft">No advice: {page.escape(error.message)}.</p>'
    gaps = "".join(f"<li>{page.escape(gap.words)}</li>" for gap in found.gaps)
    header = list(found.points[0]) if found.points else []
    rows = [[text.parameter(point[name]) for name in header] for point in found.points]
    points = (
        page.grid(header, rows) if rows else "<p>Everything between the ends of these gaps ran already.</p>"
    )
    return (
        f'{head}<p class="soft">The widest gaps of the front, and configurations half way between their ends that have '
        "not run yet. <code>gcp-analyze advise SWEEP --write next.yaml</code> writes them as the points that the next "
        f"sweep tries first.</p><ul>{gaps}</ul>{points}"
    )
