"""Pareto definitions written the slow and obvious way; every value is to be minimised."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """At least as good everywhere and better somewhere."""
    return all(x <= y for x, y in zip(a, b)) and any(x < y for x, y in zip(a, b))


def front(points: np.ndarray) -> list[bool]:
    return [not any(dominates(q, p) for q in points) for p in points]


def ranks(points: np.ndarray) -> list[int]:
    """1 = the front, 2 = the front of what is left, ..."""
    result = [0] * len(points)
    left, rank = list(range(len(points))), 1
    while left:
        best = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        for i in best:
            result[i] = rank
        left = [i for i in left if i not in best]
        rank += 1
    return result


def hypervolume(points: np.ndarray, reference: Sequence[float]) -> float:
    """Inclusion-exclusion over the boxes between each point and the reference (for a handful of points)."""
    boxes = [p for p in points if all(x < r for x, r in zip(p, reference))]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for group in combinations(boxes, size):
            corner = np.max(group, axis=0)
            total += (-1) ** (size + 1) * float(np.prod(np.asarray(reference) - corner))
    return total


def hypervolume_by_cells(points: np.ndarray, reference: Sequence[float]) -> float:
    """Sum of the cells of the grid through all coordinates whose lower corner some point dominates."""
    axes = [np.unique([*(p[d] for p in points if p[d] < r), r]) for d, r in enumerate(reference)]
    total = 0.0
    for cell in np.ndindex(*(len(axis) - 1 for axis in axes)):
        low = [axis[i] for axis, i in zip(axes, cell)]
        if any(all(x <= y for x, y in zip(p, low)) for p in points):
            total += float(np.prod([axis[i + 1] - axis[i] for axis, i in zip(axes, cell)]))
    return total
