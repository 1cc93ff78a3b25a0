"""Named objectives, each with a direction, and their values as numbers to be minimised.

Objectives are a mapping ``{column: "max" | "min"}`` in the caller's order. Rows with a value that is not finite, or of
magnitude >= 1e300 (how MLflow stores an infinity), are rejected before anything is computed: one NaN can otherwise
destroy a front. A frame with a boolean column ``candidate`` (as ``analysis.load`` returns it) is restricted to its
candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis.runs.store import HUGE
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import LATENCIES, Direction

if TYPE_CHECKING:
    import pandas as pd

Objectives = Mapping[str, Direction]


def check_objectives(df: pd.DataFrame, objectives: Objectives) -> None:
    """Raise ConfigError unless every objective is a column of ``df`` with a direction."""
    if not objectives:
        raise ConfigError(
            "no objective given", "objectives", 'for instance {"val_accuracy": "max", "macs": "min"}'
        )
    for column, direction in objectives.items():
        if column not in df.columns:
            raise ConfigError("no such column", f"objectives.{column}", did_you_mean(column, df.columns))
        if direction not in ("max", "min"):
            raise ConfigError(
                f"{direction!r} is not a direction", f"objectives.{column}", 'allowed: "max", "min"'
            )


def usable(values: np.ndarray) -> np.ndarray:
    """(n,) bool: rows of ``values`` (n, m) in which every number is finite and below 1e300 in magnitude."""
    with np.errstate(invalid="ignore"):
        return (np.isfinite(values) & (np.abs(values) < HUGE)).all(axis=1)


def costs(df: pd.DataFrame, objectives: Objectives) -> tuple[np.ndarray, np.ndarray]:
    """``(costs, keep)``: (k, m) float64 to be minimised of the k usable candidates, and their (n,) mask in
    ``df``. Latencies that cannot be told apart are equal (:func:`settled_latency`).
    """
    check_objectives(df, objectives)
    values = np.column_stack([_numbers(df, column) for column in objectives])
    keep = usable(values)
    if "candidate" in df.columns:
        keep &= df["candidate"].to_numpy(dtype=bool)
    for at, column in enumerate(objectives):
        if column in LATENCIES:
            values[keep, at] = settled_latency(df[keep], column)
    return minimised(values[keep], objectives.values()), keep


def settled_latency(df: pd.DataFrame, column: str = "latency_ms") -> np.ndarray:
    """(n,) float64 of one of ``LATENCIES``; values that cannot be told apart are equal, so that others decide.

    From the fastest on, every row whose interval (``latency_low_ms`` to ``latency_high_ms``; of a share what
    ``latency_noise`` makes of it) reaches into that of the fastest one has its value; the next one begins a new class.
    Without intervals the values are as they are.
    """
    values = _numbers(df, column)
    names = ["latency_low_ms", "latency_high_ms"] if column == "latency_ms" else ["latency_noise"]
    if not set(names) <= set(df.columns):
        return values
    ends = [_numbers(df, name) for name in names]
    if column != "latency_ms":
        ends = [values * (1 - ends[0]), values * (1 + ends[0])]
    low, high = np.fmin(values, ends[0]), np.fmax(values, ends[1])
    settled, left = values.copy(), np.isfinite(values)
    while left.any():
        fastest = int(np.argmin(np.where(left, values, np.inf)))
        same = left & (low <= high[fastest])
        settled[same] = values[fastest]
        left &= ~same
    return settled


def minimised(values: np.ndarray, directions: Iterable[str]) -> np.ndarray:
    """``values`` (n, m) with the maximised columns negated; adding 0.0 turns -0.0 into 0.0, so that ties
    stay ties.
    """
    signs = np.array([-1.0 if direction == "max" else 1.0 for direction in directions])
    return values * signs + 0.0


def _numbers(df: pd.DataFrame, column: str) -> np.ndarray:
    import pandas as pd

    try:
        return pd.to_numeric(df[column]).to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as exc:
        raise ConfigError("is not a column of numbers", f"objectives.{column}") from exc
