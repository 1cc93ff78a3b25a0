"""Paths are compared at equal cost: which ones cost too much, and how long their unpruned twin is trained."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from sweeps.config.paths import foreseen_cost
from sweeps.config.search import SearchConfig
from sweeps.config.space import Dimension, Point, Space

#: The leaves that decide about :func:`sweeps.config.paths.foreseen_cost`.
_DECIDING = (
    "prune.start",
    "prune.interval",
    "prune.ratio",
    "prune.ratio_of",
    "prune.levels",
)
#: So many of their combinations are looked at, and so many values of one without steps.
_MOST, _FINE = 512, 17
#: A path's baseline has at least so many epochs, whatever the path costs.
_FEWEST = 1
_EPS = 1e-9


def too_dear(path: TrialConfig, max_path_cost: float | None) -> bool:
    """Whether a trial is a path that is foreseen to cost more than ``max_path_cost`` dense epochs (None = no limit)."""
    return max_path_cost is not None and path.is_path and foreseen_cost(path) > max_path_cost + _EPS


def check_costs(space: Space, search: SearchConfig) -> None:
    """Refuse a ``search.max_path_cost`` that no path keeps, or that a point of the user's own exceeds."""
    if search.max_path_cost is None:
        return
    for number, point in enumerate(search.points):
        path = space.resolve(space.canonical(point))
        if too_dear(path, search.max_path_cost):
            raise ConfigError(
                f"the path at {_text(point)} costs {foreseen_cost(path):.4g} dense epochs, more than"
                f" search.max_path_cost allows: {search.max_path_cost:g}",
                f"search.points.{number}",
                "raise search.max_path_cost, or leave the point out",
            )
    cost, cheapest = min(_costs(space), key=lambda found: found[0])
    if cost > search.max_path_cost + _EPS:
        at = f", at {_text(cheapest)}" if cheapest else ""
        raise ConfigError(
            f"{search.max_path_cost:g} dense epochs are too few: the cheapest path costs {cost:.4g}{at}",
            "search.max_path_cost",
            "raise it, or search shorter dense phases and cycles; null = no limit",
        )


def with_baseline(space: Space, epochs: int | None, max_path_cost: float | None = None) -> tuple[Space, int]:
    """The space whose trials know how long their unpruned twin is trained, and that number of epochs.

    None = equal compute: as many epochs of the unpruned model as ``max_path_cost`` allows a path, or as the most
    expensive path of the space costs if that is less or there is no limit.
    """
    if epochs is None:
        dearest = max(cost for cost, _ in _costs(space))
        if max_path_cost is not None:
            dearest = min(dearest, max_path_cost)
        epochs = max(_FEWEST, math.ceil(dearest - _EPS))
    return dataclasses.replace(space, base={**space.base, "baseline_epochs": epochs}), epochs


def _costs(space: Space) -> Iterator[tuple[float, Point]]:
    """Every cost of a path that the space has, and where; of many a part, the corners among them."""
    deciding = [dimension for dimension in space.dimensions if dimension.path in _DECIDING]
    rest = {path: value for path, value in space.first().items() if path not in _DECIDING}
    for values in _combinations(deciding):
        point = {dimension.path: value for dimension, value in zip(deciding, values, strict=True)}
        yield foreseen_cost(space.resolve({**rest, **point})), point


def _combinations(dimensions: list[Dimension]) -> Iterator[tuple[Any, ...]]:
    values = [_values(dimension) for dimension in dimensions]
    if math.prod(map(len, values)) <= _MOST:
        yield from itertools.product(*values)
        return
    rng = random.Random(0)
    yield from itertools.islice(itertools.product(*((v[0], v[-1]) for v in values)), _MOST)
    yield from (tuple(map(rng.choice, values)) for _ in range(_MOST))


def _values(dimension: Dimension) -> list[Any]:
    if dimension.size() is not None:
        return dimension.values()
    low, high = dimension.low, dimension.high
    return [dimension.canonical(low + (high - low) * i / (_FINE - 1)) for i in range(_FINE)]


def _text(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in point.items()) or "the first point"
