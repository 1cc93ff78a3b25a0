"""Threshold allocation: groups from the input up, each loses as much as accuracy after compensation allows.

Each group's number of units is found by binary search: the most that may go while accuracy AFTER compensation stays at or
above a threshold, which falls linearly from the baseline to the tolerated accuracy, one step per group. No training.
Source: Xie et al., "Pruning with Compensation", arXiv 2108.13728 (abstract), and its authors' code (pseudopruner). Ours:
units instead of shares, and the count of evaluations (each is to be charged).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.allocators.masks import without_units
from gcp_core.criteria.base import Batches
from gcp_core.criteria.consumers.compensation import compensation
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups
from gcp_core.relevance import untouched
from gcp_core.repairs.least_squares import compensate, consumers_of


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


@dataclass(frozen=True)
class CompensationThreshold:
    """Widths by :func:`threshold_allocation`; see :func:`compensation_threshold` for the options.

    Attributes:
        removed: units that each group may lose, as :meth:`look` found.
        forwards: what the look cost per image; before it a guess, ten evaluations of one fit each.
    """

    tolerated: float
    sampling_stride: int
    removed: Mapping[str, int] = field(default_factory=dict)
    forwards: float = 50.0
    needs: str = "data"
    per_unit: bool = False

    def look(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> CompensationThreshold:
        """The search on these images. Which units go is what the compensation-aware order says, while it lasts."""
        ranking = compensation(sampling_stride=self.sampling_stride)
        orders = ranking.orders(model, groups, batches)

        def gone(removed: Mapping[str, int]) -> dict[str, list[int]]:
            found = {}
            for name, number in removed.items():
                if number:
                    size = groups.group(name).size
                    found[name] = sorted({*range(size)} - {*orders[name].keep(size - number)})
            return found

        def accuracy_after(removed: Mapping[str, int]) -> float:
            units = gone(removed)
            # On a copy: another look at the same model must find it as it was.
            patched = copy.deepcopy(model)
            reading = consumers_of(patched, groups.plan(units))
            compensate(patched, reading, batches, sampling_stride=self.sampling_stride, warn=False)
            with without_units(patched, groups, units):
                return _accuracy(patched, batches)

        found = threshold_allocation(
            [name for name in orders if groups.group(name).size > 1],
            {name: groups.group(name).size - 1 for name in orders},
            accuracy_after,
            baseline=(whole := _accuracy(model, batches)),
            tolerated=max(whole - self.tolerated, 0.0),
        )
        fit = 1 + 9 / self.sampling_stride**2
        forwards = ranking.forwards + 1 + found.evaluations * (fit + 1)
        return CompensationThreshold(self.tolerated, self.sampling_stride, found.removed, forwards)

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """What the search left of each group, at least its floor."""
        return {
            group.name: max(budget.floor(group), group.size - self.removed.get(group.name, 0))
            for group in groups.groups
        }


def compensation_threshold(tolerated: float = 2.0, sampling_stride: int = 2) -> CompensationThreshold:
    """Group by group as much goes as accuracy after compensation allows, down to ``tolerated`` points below the present.

    Args:
        tolerated: points of accuracy on the scoring images.
        sampling_stride: of every fit, see :func:`gcp_core.repairs.least_squares.compensate`.
    """
    if isinstance(tolerated, bool) or not isinstance(tolerated, int | float) or not 0 <= tolerated <= 100:
        raise ConfigError(f"{tolerated!r} is not in 0..100", "prune.allocator_options.tolerated")
    if isinstance(sampling_stride, bool) or not isinstance(sampling_stride, int) or sampling_stride < 1:
        where = "prune.allocator_options.sampling_stride"
        raise ConfigError(f"{sampling_stride!r} is not a whole number >= 1", where)
    return CompensationThreshold(float(tolerated), sampling_stride)


def _accuracy(model: nn.Module, batches: Batches) -> float:
    """Per cent, in evaluation mode."""
    right = count = 0
    with untouched(model), torch.no_grad():
        for images, labels in batches:
            right += int((model(images).argmax(1) == labels).sum())
            count += len(images)
    return 100 * right / count
