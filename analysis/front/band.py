"""The noise band of a front: models that are not surely off it, given how many images their accuracy was counted on.

What is counted on a few thousand images is off by chance. A model whose accuracy lies below the front's by less than
that may be on it; one that another model beats even at the upper end of its interval is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from analysis.front.objectives import Objectives, minimised
from analysis.front.pareto import nondominated
from analysis.runs.sampling import interval
from gcp_core.schema import LATENCIES

#: Objectives that are an accuracy, or a fixed number less one.
_ACCURACIES = ("val_accuracy", "accuracy_drop")
#: Models compared with the front at a time.
_CHUNK = 1024


def slack(finals: Mapping[str, float], names: Iterable[str], images: float) -> np.ndarray:
    """(m,) how much better each value of a model may truly be, in its own unit, 0 where it is known exactly.

    Accuracies: up to the upper end of Wilson's 95 % interval on so many ``images``; latencies: the measurement's noise.
    """
    high = interval(np.array([finals.get("val_accuracy", np.nan)]), np.array([images]))[1][0]
    above = float(high - finals.get("val_accuracy", np.nan))
    noise = finals.get("latency_noise", 0.0)
    found = [
        above if name in _ACCURACIES else finals[name] * noise if name in LATENCIES else 0.0 for name in names
    ]
    return np.nan_to_num(np.array(found, dtype=float), nan=0.0)


def beaten(values: np.ndarray, slacks: np.ndarray, front: np.ndarray, objectives: Objectives) -> np.ndarray:
    """(n,) the member of ``front`` that beats each model even at the good end of its values, -1 where none does.

    Args:
        values, slacks: (n, m), columns in the order of ``objectives``; a model with a NaN is never beaten.
        front: (k, m) values of models that may be on a front; not all of them need be on it.

    >>> goals = {"val_accuracy": "max", "macs": "min"}
    >>> models = np.array([[90.0, 50.0], [89.0, 50.0], [80.0, 60.0], [80.0, 40.0]])
    >>> beaten(models, np.array([[2.0, 0.0]] * 4), models, goals)
    array([-1, -1,  0, -1])
    """
    result = np.full(len(values), -1)
    if not len(values) or not len(front):
        return result
    losses = minimised(values, objectives.values()) - slacks
    rivals = minimised(front, objectives.values())
    members = np.flatnonzero(nondominated(rivals))
    for at in range(0, len(losses), _CHUNK):
        some = losses[at : at + _CHUNK, None, :]
        beats = (rivals[members] <= some).all(axis=2) & (rivals[members] < some).any(axis=2)
        first = members[np.argmax(beats, axis=1)]
        result[at : at + _CHUNK] = np.where(beats.any(axis=1), first, -1)
    return result
