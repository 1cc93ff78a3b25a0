"""Report sections that rest on statistics: how sure the front is, and which parameters mattered.

Each says in a sentence why it is not available when the data cannot carry it; it never fails the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis import noise, page, text
from analysis.importance import METHODS, importance
from gcp_core.errors import GcpError

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 15


def sureness(df: pd.DataFrame) -> str:
    """Configurations with their mean, spread and the chance to stand on the front (needs several seeds)."""
    goals = df.attrs["objectives"]
    head = "<h2>How sure is the front</h2>"
    try:
        groups = noise.front_probability(df, goals)
        robust = set(noise.robust_front(groups, goals)["config_id"])
    except GcpError as error:
        return (
            f'{head}<p class="soft">Not known: {page.escape(error.message)}. A front of single-seed trials overstates '
            "accuracy, because the best of many noisy numbers is partly luck. "
            "<code>gcp-analyze select ... --write-config best.yaml</code> writes the config that confirms a choice.</p>"
        )
    shown = groups.sort_values("probability", ascending=False).head(_SHOWN)
    columns = list(goals)
    header = ["first trial", "seeds", *(f"{c}: mean" for c in columns), *(f"{c}: std" for c in columns)]
    rows = [
        [
            row["trial"],
            row["n"],
            *(text.quantity(c, row[c]) for c in columns),
            *(text.quantity(c, row[f"{c}_std"]) for c in columns),
            f"{100 * row['probability']:.0f} %",
            "yes" if row["config_id"] in robust else "",
        ]
        for row in shown.to_dict("records")
    ]
    return (
        f'{head}<p class="soft">Per configuration over its seeds. Chance: share of 1,000 bootstrap draws over seeds in '
        "which it is on the front. Robust: on the front of the means less one standard error.</p>"
        + page.grid([*header, "chance on the front", "robust"], rows)
    )


def what_mattered(df: pd.DataFrame, target: str = "val_accuracy") -> str:
    """Importance of the searched parameters, as bars with their spread."""
    head = "<h2>What mattered</h2>"
    try:
        found = importance(df, target, repeats=5)
    except GcpError as error:
        return f'{head}<p class="soft">Not available: {page.escape(error.message)}.</p>'
    rows = [
        (
            row["parameter"],
            f"{100 * row['importance']:.0f} %",
            f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %",
        )
        for row in found.to_dict("records")
    ]
    return (
        f'{head}<p class="soft">Share of the variation of {page.escape(target)} that goes with each searched parameter: '
        f"{page.escape(METHODS['fanova'])}; the range is over resampled trials. With few trials the ranges are wide, and "
        "a parameter whose range reaches 0 is not told apart from no influence.</p>"
        + page.grid(["parameter", "importance", "10 to 90 % of resamplings"], rows)
    )
