"""What a sweep's config means where its trials are paths (``train.schedule: cycles``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gcp_core.config import CYCLES, TrialConfig
from gcp_core.errors import ConfigError
from sweeps.config.search import SearchConfig
from sweeps.config.space import Dimension

#: Shares this close are the same share.
_NO_MORE = 1e-9
#: Where a path without a target ends at the latest, as far as can be foreseen: the floors end it.
_ALMOST_ALL = 0.99
#: How far a path goes: it may go on beyond both, so they are no part of what it is.
GOES_ON_BEYOND = ("prune.target", "train.epochs")
#: Nobody trains that long; cuts of next to nothing never come to an end.
_ENDLESS = 10_000


def is_of_paths(tree: Mapping[str, Any]) -> bool:
    """Whether a config's trials are paths."""
    train = tree.get("train")
    return isinstance(train, Mapping) and train.get("schedule") == CYCLES


def check_given(tree: Mapping[str, Any]) -> None:
    """Refuse keys that were given but have no meaning; once defaults are filled in, they can no longer be recognised."""
    parts = {part: tree.get(part) for part in ("train", "prune")}
    train, prune = (part if isinstance(part, Mapping) else {} for part in parts.values())
    schedule = train.get("schedule")
    if isinstance(schedule, Mapping) and CYCLES in (schedule.get("choice") or ()):
        raise ConfigError(
            "paths and single trials cannot be searched together",
            "train.schedule",
            "run two sweeps, then `gcp-analyze compare`",
        )
    if schedule == CYCLES and prune.get("until") is not None:
        raise ConfigError(
            "cannot be used with train.schedule: cycles", "prune.until", "target says how deep a path goes"
        )
    if schedule == CYCLES and "prune" in tree and tree["prune"] is None:
        raise ConfigError("a path prunes", "prune", "train.schedule: one_cycle trains without pruning")
    search = tree.get("search")
    for name in ("min_gain", "max_path_cost"):
        if schedule != CYCLES and isinstance(search, Mapping) and search.get(name) is not None:
            raise ConfigError(
                "is for paths only: a single trial has no steps to choose between",
                f"search.{name}",
                "leave it out, or use train.schedule: cycles",
            )
    if schedule != CYCLES and isinstance(search, Mapping) and search.get("keep") == "front":
        raise ConfigError(
            "is for paths only; the weights of single trials are kept until `gcp-sweep clean`",
            "search.keep",
            "leave it out, and `gcp-sweep clean --keep front` at the end",
        )
    if prune.get("levels") is not None:
        for name in ("target", "ratio", "ratio_of"):
            if prune.get(name) is not None:
                raise ConfigError(
                    f"levels and {name} cannot both be given", "prune.levels", f"leave prune.{name} out"
                )


def without_rungs(search: SearchConfig, tree: Mapping[str, Any]) -> SearchConfig:
    """Rungs stop trials that would end badly, but a path has value at every step."""
    given = tree.get("search")
    if isinstance(given, Mapping) and given.get("stopping") == "rungs":
        raise ConfigError(
            "paths cannot be stopped at rungs, because each of their models counts",
            "search.stopping",
            "none, or leave it out",
        )
    return dataclasses.replace(search, stopping="none", keep=search.keep or "front")


def deep_as_searched(base: dict[str, Any], dimensions: list[Dimension]) -> list[Dimension]:
    """A searched target or cap is how far paths go at most: each goes to the upper end (null = the floors, no cap), and
    its snapshots on the way are the answers for what is below. So no training is spent on choosing one, and two values
    of it would name one and the same path.
    """
    for dimension in dimensions:
        if dimension.path in GOES_ON_BEYOND:
            part, _, name = dimension.path.partition(".")
            ends = dimension.extremes()
            base[part][name] = None if None in ends else max(ends)
    return [dimension for dimension in dimensions if dimension.path not in GOES_ON_BEYOND]


@dataclass(frozen=True)
class Step:
    """What a path does between two of its snapshots.

    ``removed``: share of ``prune.of`` that is gone afterwards; ``cost``: what its training takes, in epochs of the
    unpruned model, without scoring.
    """

    removed: float
    cost: float


def steps_ahead(path: TrialConfig, removed: float | None = None, epoch: int = 0) -> Iterator[Step]:
    """What a path still does, by its levels alone: first to last step, each up to a snapshot.

    ``removed`` and ``epoch`` are those of its last snapshot; None = it has not begun, so the dense phase comes first. A
    share ``removed`` of ``prune.of`` counts as that share of the multiply-adds. With ``ratio_of: units`` the levels are
    not known; a cut of r of the units counts as r of the cost. Without a target it continues until one hundredth is left.
    """
    prune, train = path.pruning, path.train
    cap = math.inf if train.epochs is None else train.epochs
    if removed is None:
        removed, epoch = 0.0, prune.dense_epochs
        yield Step(removed, float(epoch))
    levels = dataclasses.replace(prune, ratio_of="cost") if prune.ratio_of == "units" else prune
    depth = prune.depth()
    depth = _ALMOST_ALL if depth is None else depth
    while removed < depth - _NO_MORE and epoch + prune.interval <= cap:
        level = levels.next_level(removed)
        if level is None or level <= removed:
            return
        removed, epoch = level, epoch + prune.interval
        yield Step(removed, prune.interval * (1 - removed))


def foreseen_cost(path: TrialConfig) -> float:
    """Training multiply-adds of a path in epochs of the unpruned model, without scoring: the sum of its steps."""
    cost = 0.0
    for step in steps_ahead(path):
        cost += step.cost
        if cost > _ENDLESS:
            break
    return cost
