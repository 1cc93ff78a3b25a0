"""What each side of a comparison has spent, all of it: finished, stopped, failed, diverged and infeasible trials, and the
baselines that its answers rest on. Confirm runs are left out: they judge a choice and find nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.runs.models import added
from analysis.runs.table import as_words
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

#: What can be held equal. Baselines are no trials.
CURRENCIES = ("device_hours", "epochs", "train_cost", "trials")


def spending(
    df: pd.DataFrame, by: str, labels: Sequence[str], equal: str, unit: str = "seed"
) -> pd.DataFrame:
    """One row per run that a label and unit paid for, in the order in which the runs ended: ``label``, ``unit``,
    ``row`` (its index in ``df``), ``cost`` and ``spent`` (running sum of its label and unit).

    Of a path every snapshot is a run, which costs what its phase added to the one before; the first one counts as the
    trial. A baseline is charged in full to every label and unit whose trials it was paired with: each side would have
    needed it. A run that logged no cost (failed, lost) costs what the other runs of its sweep did in such a wall time: in
    device-hours, epochs or ``train_cost``. Runs that have not ended cost nothing yet.

    Args:
        equal: one of :data:`CURRENCIES`; ``nothing`` counts trials.
    """
    import pandas as pd

    if equal not in (*CURRENCIES, "nothing"):
        raise ConfigError(f"{equal!r} cannot be held equal", "--equal", ", ".join(CURRENCIES) + " or nothing")
    price = costs_of(df, "trials" if equal == "nothing" else equal)
    trials = df[(df["kind"] == "trial") & (df["status"] != "running" if "status" in df.columns else True)]
    frames = []
    for label in labels:
        for value, own in trials[as_words(trials[by]) == label].groupby(unit, sort=True):
            paid = pd.concat([own, _baselines(df, own, by, labels)])
            ordered = paid.sort_values(["ended", "model"], kind="stable", na_position="last")
            cost = price[ordered.index].to_numpy()
            frames.append(
                pd.DataFrame(
                    {
                        "label": label,
                        "unit": value,
                        "row": ordered.index,
                        "cost": cost,
                        "spent": np.cumsum(cost),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def costs_of(df: pd.DataFrame, equal: str) -> pd.Series:
    """What every run of ``df`` cost, in one of :data:`CURRENCIES` (baselines are no trials)."""
    import pandas as pd

    if equal == "trials":
        first = ~df.sort_values("level", kind="stable", na_position="first").duplicated(["sweep", "trial"])
        return ((df["kind"] == "trial") & first.reindex(df.index)).astype(float)
    wall = (df["ended"] - df["started"]).dt.total_seconds() / 3600 if "started" in df.columns else np.nan
    wall = pd.Series(wall, index=df.index, dtype=float)
    # A snapshot's wall time is no measure: when its run was begun says nothing about when its phase was.
    wall = wall.where(df["level"].isna())
    hours = added(df, _column(df, "device_hours"))
    # Four cores, or a quarter of a GPU: an hour of wall time is as many device-hours as it was for the others.
    known = (hours > 0) & (wall > 0)
    devices = (hours[known] / wall[known]).groupby(df.loc[known, "sweep"]).median()
    hours = hours.fillna(wall * df["sweep"].map(devices).fillna(1.0))
    if equal == "device_hours":
        return hours.fillna(0.0)
    spent = added(df, _column(df, equal))
    known = (spent > 0) & (hours > 0)
    pace = (spent[known] / hours[known]).groupby(df.loc[known, "sweep"]).median()
    return spent.fillna(hours * df["sweep"].map(pace)).fillna(0.0)


def _column(df: pd.DataFrame, name: str) -> pd.Series:
    import pandas as pd

    if name not in df.columns:
        return pd.Series(np.nan, index=df.index)
    return pd.to_numeric(df[name], errors="coerce").astype(float)


def _baselines(df: pd.DataFrame, own: pd.DataFrame, by: str, labels: Sequence[str]) -> pd.DataFrame:
    """The baselines of these trials: of their sweeps and seeds, unless one has another label of its own or is known to
    belong to other trials (other data, model or training settings).
    """
    label = as_words(own[by]).iloc[0]
    base = df[(df["kind"] == "baseline") & df["sweep"].isin(own["sweep"].unique())]
    base = base[base["seed"].isin(own["seed"].unique())]
    words = as_words(base[by])
    # Of what only pruned trials have it has no value: that is no label.
    base = base[(words == label) | ~words.isin(labels) | base[by].isna()]
    if "baseline_trial" in df.columns:
        paired = df["baseline_trial"].dropna()
        elsewhere = set(paired) - set(own["baseline_trial"].dropna())
        base = base[~base["trial"].isin(elsewhere)]
    return base
