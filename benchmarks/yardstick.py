"""How fronts are measured: accuracy at or below a share of the MACs, hypervolume, means over seeds."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
from scipy import stats

from analysis.front.pareto import dominated_volume

#: Shares of the MACs that are left, at which accuracy is read.
SHARES = (0.5, 0.35, 0.2, 0.1)
#: Anchors of the hypervolume: the unpruned net of the recorded single trials, chance, ten points below that net.
TOP, CHANCE, USABLE = 73.24, 10.0, 63.24
#: Levels are exact to a unit: 49.5 % and 35.1 % are both what was asked for.
SLACK = 0.005

Models = list[tuple[float, float]]


def best_at(models: Models, share: float) -> float:
    """The best accuracy among models with at most that share of the MACs."""
    return max((accuracy for left, accuracy in models if left <= share + SLACK), default=math.nan)


def hypervolume(models: Models, bottom: float) -> float:
    """Share of the box that the models dominate."""
    losses = np.array([[(TOP - accuracy) / (TOP - bottom), left] for left, accuracy in models])
    return dominated_volume(losses)


def summary(values: list[float]) -> dict[str, Any]:
    """Each seed's value, their mean, and half the width of its 95 % interval (None for one seed)."""
    if len(values) == 1:
        return {"seeds": values, "mean": round(values[0], 3), "half_width": None}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"seeds": values, "mean": round(statistics.mean(values), 3), "half_width": round(half, 3)}
