"""Threshold allocation: groups from the input up, each loses as much as accuracy after compensation allows.

Each group's number of units is found by binary search: the most that may go while accuracy AFTER compensation stays at or
above a threshold, which falls linearly from the baseline to the tolerated accuracy, one step per group. No training.
Source: Xie et al., "Pruning with Compensation", arXiv 2108.13728 (abstract), and its authors' code (pseudopruner). Ours:
units instead of shares, and the count of evaluations (each is to be charged).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gcp_core.errors import ConfigError


@dataclass(frozen=True)
class Allocation:
    """What a search found.

    Attributes:
        removed: units that go, by group (groups that lose nothing have 0).
        accuracy: after all of it, per cent, as measured.
        evaluations: how often accuracy was measured.
    """

    removed: dict[str, int]
    accuracy: float
    evaluations: int


def falling_thresholds(baseline: float, tolerated: float, steps: int) -> list[float]:
    """``steps`` accuracies from one step below the baseline down to ``tolerated``, evenly spaced.

    >>> falling_thresholds(90.0, 88.0, 4)
    [89.5, 89.0, 88.5, 88.0]
    """
    return [baseline - (baseline - tolerated) * (step + 1) / steps for step in range(steps)]


def threshold_allocation(
    groups: Sequence[str],
    most: Mapping[str, int],
    accuracy_after: Callable[[Mapping[str, int]], float],
    *,
    baseline: float,
    tolerated: float,
) -> Allocation:
    """How many units each group loses.

    Binary search takes accuracy to fall with every unit; where it does not, a number that passes its threshold is still
    found, not always the largest one. A group whose smallest cut fails loses nothing.

    Args:
        groups: names in forward order.
        most: units that each may lose (0 = none).
        accuracy_after: ``{group: units removed}`` of a model cut and compensated accordingly -> accuracy in per cent; it
            decides which units go.
        baseline, tolerated: accuracy of the uncut model, and the one to end at.

    Raises:
        ConfigError: ``tolerated`` is above ``baseline``, or a group has no entry in ``most``.
    """
    if tolerated > baseline:
        raise ConfigError(f"{tolerated} is above the baseline of {baseline}", "tolerated")
    missing = [name for name in groups if name not in most]
    if missing:
        raise ConfigError("no number of units that it may lose", missing[0])
    removed = dict.fromkeys(groups, 0)
    accuracy, evaluations = baseline, 0
    for name, threshold in zip(groups, falling_thresholds(baseline, tolerated, max(len(groups), 1))):
        low, high = 0, most[name]
        while low < high:
            middle = (low + high + 1) // 2
            measured = accuracy_after({**removed, name: middle})
            evaluations += 1
            if measured >= threshold:
                low, accuracy = middle, measured
            else:
                high = middle - 1
        removed[name] = low
    return Allocation(removed, accuracy, evaluations)
