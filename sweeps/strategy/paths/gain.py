"""What the next steps of a path promise: expected growth of the hypervolume per training cost.

The next models of a path are foreseen (:mod:`.outlook`) at several quantiles of what is not known. The
mean growth of the hypervolume over them, looking one, two, ... all remaining steps ahead, is divided by what those steps
cost, and the best number of steps counts: so a step without any gain does not hide the one behind it (accuracy rises over
the first levels where the dense phase was short).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from sweeps.strategy.paths.outlook import ACCURACIES, Foreseen
from sweeps.strategy.paths.volume import Front

#: What is not known of a path is looked at in so many equally likely cases: its accuracies all turn out better, or all
#: worse, by so many standard deviations.
CASES = tuple(NormalDist().inv_cdf((i + 0.5) / 7) for i in range(7))
#: Nobody looks further ahead; cuts of next to nothing would make it take long.
FARTHEST = 16


@dataclass(frozen=True)
class Promise:
    """``gain``: expected growth of the hypervolume (share of the box) over the next ``steps`` steps, which cost ``cost``
    epochs of the unpruned model to train.
    """

    gain: float
    cost: float
    steps: int

    @property
    def rate(self) -> float:
        """Per cent of hypervolume per dense epoch."""
        return 100 * self.gain / self.cost if self.cost > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with rounded numbers."""
        return {
            "gain": round(self.gain, 8),
            "cost": round(self.cost, 4),
            "steps": self.steps,
            "rate": round(self.rate, 6),
        }


@dataclass(frozen=True)
class Bound:
    """A limit in numbers: ``upper`` = the value may not be above ``value``, else not below."""

    name: str
    upper: bool
    value: float


@dataclass(frozen=True)
class Scale:
    """Objectives as losses: 0 at the best anchor, 1 at the worst, so lower = better."""

    names: tuple[str, ...]
    worst: np.ndarray
    best: np.ndarray

    def losses(self, values: np.ndarray) -> np.ndarray:
        """(..., m) losses of values (..., m)."""
        return (values - self.best) / (self.worst - self.best)


def cases(foreseen: Mapping[str, Foreseen], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The values by name, each (cases, j): one row for each of :data:`CASES`."""
    apart = np.array(CASES)[:, None]
    return {
        name: foreseen[name].mean + apart * ACCURACIES.get(name, 0.0) * foreseen[name].spread
        for name in names
    }


def to_points(values: Mapping[str, np.ndarray], scale: Scale, bounds: Sequence[Bound]) -> np.ndarray:
    """(..., m) losses of foreseen models of values (...); infinite for those that break a limit or are not known."""
    points = scale.losses(np.stack([values[name] for name in scale.names], axis=-1))
    broken = ~np.isfinite(points).all(axis=-1)
    for bound in bounds:
        beyond = values[bound.name] - bound.value
        broken |= (beyond if bound.upper else -beyond) > 0
    points[broken] = np.inf
    return points


def promise(front: Front, points: np.ndarray, costs: Sequence[float]) -> Promise:
    """The best promise of a path's next steps.

    Args:
        front: of the models there are, and of those that are being trained.
        points: (cases, j, m) losses of the path's next models.
        costs: (j,) training costs of the steps, > 0.
    """
    gains = front.added(points).mean(axis=0)
    spent = np.cumsum(costs)
    best = int(np.argmax(gains / spent))
    return Promise(float(gains[best]), float(spent[best]), best + 1)
