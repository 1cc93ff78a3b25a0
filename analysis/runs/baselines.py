"""Which baseline each row is compared with: same data, model and seed, trained as the row's trial says it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.plain import rows_of
from gcp_core.config import CYCLES

if TYPE_CHECKING:
    import pandas as pd

#: Trials with equal values here (and an equal seed) share a baseline.
_PARTS = ("data.", "model.", "train.")
_SCHEDULE, _EPOCHS = "train.schedule", "train.epochs"
#: What only cycles have.
_OF_CYCLES = (_SCHEDULE, _EPOCHS, "train.restart", "train.pace")
#: Of a path: how long its baseline is trained; where unset, as long as its dense phase.
EPOCHS, _START = "baseline_epochs", "prune.start"


def paired(df: pd.DataFrame, finished: np.ndarray) -> np.ndarray:
    """(n,) int: position of each row's baseline, -1 where there is none.

    A single trial's has the same training. A path's is trained one-cycle; of several the one whose length its
    configuration names (``TrialConfig.baseline``), else the longest.

    Args:
        finished: (n,) bool: rows that are finished baselines.
    """
    names = [c for c in df.columns if c.startswith(_PARTS)]
    shared = [c for c in names if c not in _OF_CYCLES]
    used = ["sweep", "seed", *names, *(c for c in (EPOCHS, _START) if c in df.columns)]
    rows = rows_of(df[used])
    exact: dict[tuple, int] = {}
    loose: dict[tuple, list[int]] = {}
    for i in np.flatnonzero(finished):
        exact[_key(rows[i], names)] = int(i)
        if rows[i].get(_SCHEDULE) == "one_cycle":
            loose.setdefault(_key(rows[i], shared), []).append(int(i))

    def of_path(row: dict[str, Any]) -> int:
        found = loose.get(_key(row, shared), [])
        wanted = _number(row.get(EPOCHS)) or _number(row.get(_START))
        named = [i for i in found if _number(rows[i].get(_EPOCHS)) == wanted]
        return max(named or found, key=lambda i: _number(rows[i].get(_EPOCHS)) or 0.0, default=-1)

    return np.array(
        [of_path(row) if row.get(_SCHEDULE) == CYCLES else exact.get(_key(row, names), -1) for row in rows],
        dtype=int,
    )


def _key(row: dict[str, Any], names: list[str]) -> tuple[str, ...]:
    return (str(row["sweep"]), str(row["seed"]), *(str(row[n]) for n in names))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
