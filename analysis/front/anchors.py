"""Fixed scales for objectives: what counts as 0 and what as 1, and where each number comes from.

A hypervolume depends on its units. Scales taken from the data's own minimum and maximum would make two sweeps
incomparable, so they come from the task: the unpruned baseline, ten points below it, zero cost. From chance a hypervolume
barely sees accuracy: five points worse everywhere move it by a few hundredths only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis import text
from gcp_core.errors import ConfigError
from gcp_core.schema import LATENCIES, Direction

if TYPE_CHECKING:
    import pandas as pd

#: Costs whose worst anchor is the baseline's value and whose best is zero.
_COSTS = ("macs", "params", *LATENCIES, "device_hours", "train_cost")
#: Where the accuracy scale begins unless asked otherwise, in points below the mean baseline: worse is of no use.
USABLE = 10.0
#: What grows with the epochs of a training.
_OF_TRAINING = {"train_cost", "device_hours"}
_SHARES = ("macs_removed", "params_removed", "target_reached")


@dataclass(frozen=True)
class Anchor:
    """The worst (loss 1) and the best (loss 0) value of one column, and the reason for each."""

    worst: float
    best: float
    source: str


@dataclass(frozen=True)
class Anchors:
    """One anchor per column."""

    of: Mapping[str, Anchor]

    def losses(self, costs: np.ndarray, objectives: Mapping[str, Direction]) -> np.ndarray:
        """Scale minimised ``costs`` (n, m) to losses: 0 at the best anchor, 1 at the worst, lower =
        better.
        """
        signs = np.array([-1.0 if direction == "max" else 1.0 for direction in objectives.values()])
        best = np.array([self.of[column].best for column in objectives]) * signs
        worst = np.array([self.of[column].worst for column in objectives]) * signs
        return (costs - best) / (worst - best)

    def gain(self, column: str, values: np.ndarray) -> np.ndarray:
        """Scale ``values`` of one column to gains: 1 at the best anchor, 0 at the worst, higher = better."""
        anchor = self.of[column]
        return (np.asarray(values, dtype=float) - anchor.worst) / (anchor.best - anchor.worst)

    def describe(self) -> str:
        """One line that states every scale."""
        return "; ".join(
            f"{name} from {text.quantity(name, a.worst)} to {text.quantity(name, a.best)} ({a.source})"
            for name, a in self.of.items()
        )


def anchors_for(
    df: pd.DataFrame, objectives: Mapping[str, Direction], *, usable: float | None = USABLE
) -> Anchors:
    """The anchors of ``objectives`` for a table as ``analysis.load`` returns it.

    Accuracy runs from ``usable`` points below the mean baseline accuracy (not below chance) to that accuracy; with
    ``usable=None`` from chance (``df.attrs["chance"]``, per cent; 0 if unknown). Costs run from the baseline's value
    to 0. Baselines are those of the search, as while it runs. Without one the best unpruned snapshot of a path stands
    in (:func:`stand_in`). Without that too, or for a column without a natural scale, the worst value on the front plus
    a tenth of its range does. The source says so.
    """
    if usable is not None and not (np.isfinite(usable) and usable > 0):
        raise ConfigError(f"{usable!r} is not a number of points above 0", "usable", "or None: from chance")
    return Anchors(
        {column: _anchor(df, column, direction, usable) for column, direction in objectives.items()}
    )


def from_chance(anchors: Anchors, df: pd.DataFrame, objectives: Mapping[str, Direction]) -> Anchors | None:
    """The same scales with accuracy from chance, for comparison with older numbers; None if it is the same scale."""
    old = anchors_for(df, objectives, usable=None)
    return old if old.of != anchors.of else None


def stand_in(df: pd.DataFrame) -> pd.DataFrame:
    """The row used as the baseline until one has ended: the most accurate snapshot 0 of a path; may be empty.

    A baseline is trained for longer, so what training costs is scaled to its epochs (``baseline_epochs``).
    """
    if not {"kind", "level", "val_accuracy"} <= set(df.columns):
        return df.iloc[:0]
    unpruned = df[(df["kind"] == "trial") & (df["level"] == 0)]
    accuracy = unpruned["val_accuracy"].to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(accuracy).any():
        return df.iloc[:0]
    row = unpruned.iloc[[int(np.nanargmax(np.where(np.isfinite(accuracy), accuracy, np.nan)))]].copy()
    known = {"epochs", "baseline_epochs"} <= set(row.columns)
    longer = float(row["baseline_epochs"].iloc[0]) / float(row["epochs"].iloc[0]) if known else np.nan
    for column in _OF_TRAINING & set(row.columns):
        row[column] = row[column].astype(float) * longer
    return row


def _anchor(df: pd.DataFrame, column: str, direction: Direction, usable: float | None) -> Anchor:
    chance = float(df.attrs.get("chance", 0.0))
    rows, whose = _reference(df)
    mean = "mean baseline" if not whose else "baseline"
    if column in ("val_accuracy", "test_accuracy"):
        top = _value(rows, column, "mean")
        if top is not None and top > chance:
            if usable is None or top - usable <= chance:
                return Anchor(chance, top, f"chance, or 0 if unknown, to the {mean}{whose}")
            return Anchor(top - usable, top, f"{usable:g} points below the {mean}, to it{whose}")
    elif column == "accuracy_drop":
        top = _value(rows, "val_accuracy", "mean")
        if top is not None and top > chance:
            if usable is None or top - usable <= chance:
                return Anchor(top - chance, 0.0, f"as bad as chance to no loss{whose}")
            return Anchor(usable, 0.0, f"{usable:g} points to no loss")
    elif column in _COSTS:
        worst = _value(rows, column, "max")
        if worst is not None and worst > 0:
            return Anchor(worst, 0.0, f"baseline to nothing{whose}")
    elif column in _SHARES:
        return Anchor(0.0, 1.0, "none to all")
    return _from_data(df, column, direction)


def _reference(df: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """(the rows of baselines that have ended, or of what stands in; words that say so)."""
    if "kind" not in df.columns:
        return df.iloc[:0], ""
    rows = _of_the_search(df)
    if _value(rows, "val_accuracy", "max") is None:
        instead = stand_in(df)
        if len(instead):
            return instead, "; the best unpruned snapshot, until a baseline has ended"
    return rows, ""


def _of_the_search(df: pd.DataFrame) -> pd.DataFrame:
    """The baselines that trials of the search are compared with, all if that is not known: those of confirmation seeds
    come later, and would move the scale of a front that has not changed.
    """
    rows = df[df["kind"] == "baseline"]
    if not {"sweep", "trial", "baseline_trial"} <= set(df.columns):
        return rows
    trials = df[df["kind"] == "trial"]
    paired = set(zip(trials["sweep"], trials["baseline_trial"]))
    mine = np.array([key in paired for key in zip(rows["sweep"], rows["trial"])], dtype=bool)
    return rows[mine] if mine.any() else rows


def _value(rows: pd.DataFrame, column: str, how: str) -> float | None:
    """Mean or maximum of a column's finite values, None without any."""
    if column not in rows.columns:
        return None
    values = rows[column].to_numpy(dtype=float, na_value=np.nan)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return float(values.mean() if how == "mean" else values.max())


def _from_data(df: pd.DataFrame, column: str, direction: Direction) -> Anchor:
    from analysis.front.objectives import costs

    values, _ = costs(df, {column: direction})
    if not len(values):
        raise ConfigError("no trial has a finite value, so it has no scale", column)
    best, worst = float(values.min()), float(values.max())
    margin = 0.1 * (worst - best) or max(abs(worst), 1.0) * 0.1
    sign = -1.0 if direction == "max" else 1.0
    return Anchor(
        sign * (worst + margin),
        sign * best,
        "from these trials, worst plus a tenth to best; not comparable across sweeps",
    )
