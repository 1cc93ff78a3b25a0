"""How the front grew: hypervolume after every finished trial and over the device time spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.front.anchors import Anchors
from analysis.front.objectives import Objectives, costs
from analysis.runs.models import added

if TYPE_CHECKING:
    import pandas as pd


def progress(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> pd.DataFrame:
    """One row per candidate in the order they ended: ``trials`` (1..n, of paths the finished models), ``device_hours``
    (running sum over all that ended so far, baselines and failures included; a snapshot adds what its cycle took),
    ``hypervolume`` (of the front so far), ``model``, ``trial``.
    """
    import pandas as pd

    rows = df.sort_values(["ended", "model"], kind="stable", na_position="last")
    hours = rows["device_hours"] if "device_hours" in rows else pd.Series(0.0, index=rows.index)
    spent = added(rows, hours).fillna(0.0).cumsum()
    _, keep = costs(rows, objectives)
    finished = rows[keep]
    losses = anchors.losses(costs(finished, objectives)[0], objectives)
    return pd.DataFrame(
        {
            "trials": np.arange(1, len(finished) + 1),
            "device_hours": spent[keep].to_numpy(dtype=float),
            "hypervolume": running_hypervolume(losses),
            "model": finished["model"].to_numpy(),
            "trial": finished["trial"].to_numpy(),
        }
    )


def running_hypervolume(losses: np.ndarray) -> np.ndarray:
    """(n,) hypervolume of the first 1, 2, ..., n rows of ``losses`` (n, m), reference 1 in every column.

    Recomputed only when a row enters the front, so n = 10,000 stays quick.
    """
    import moocore

    values = np.zeros(len(losses))
    front = np.empty((0, losses.shape[1] if losses.ndim == 2 else 0))
    current = 0.0
    for i, point in enumerate(losses):
        if (point < 1.0).all() and not (front <= point).all(axis=1).any():
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
            current = float(moocore.hypervolume(front, ref=np.ones(front.shape[1])))
        values[i] = current
    return values
