"""What a sweep's config means where its trials are paths (``train.schedule: cycles``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gcp_core.config import CYCLES, TrialConfig
from gcp_core.errors import ConfigError
from sweeps.config.search import SearchConfig
from sweeps.config.space import Dimension


def is_of_paths(tree: Mapping[str, Any]) -> bool:
    """Whether a config's trials are paths."""
    train = tree.get("train")
    return isinstance(train, Mapping) and train.get("schedule") == CYCLES


def check_given(tree: Mapping[str, Any]) -> None:
    """Refuse what was written down and has no meaning; once defaults are filled in nobody can tell any more."""
    train, prune = (
        tree.get(part) if isinstance(tree.get(part), Mapping) else {} for part in ("train", "prune")
    )
    schedule = train.get("schedule")
    if isinstance(schedule, Mapping) and CYCLES in (schedule.get("choice") or ()):
        raise ConfigError(
            "paths and single trials cannot be searched together",
            "train.schedule",
            "two sweeps, then compare",
        )
    if schedule == CYCLES and prune.get("until") is not None:
        raise ConfigError(
            "has no meaning with train.schedule: cycles", "prune.until", "target says how deep a path goes"
        )
    search = tree.get("search")
    for name in ("min_gain", "max_path_cost"):
        if schedule != CYCLES and isinstance(search, Mapping) and search.get(name) is not None:
            raise ConfigError(
                "only paths have it: a single trial is one step, trained whole or not at all",
                f"search.{name}",
                "leave it out, or train.schedule: cycles",
            )
    if prune.get("levels") is not None:
        for name in ("target", "ratio", "ratio_of"):
            if prune.get(name) is not None:
                raise ConfigError(
                    f"levels and {name} cannot both be given", "prune.levels", f"leave prune.{name} out"
                )


def without_rungs(search: SearchConfig, tree: Mapping[str, Any]) -> SearchConfig:
    """Rungs stop trials that would be poor at their end; a path is worth something at every step."""
    given = tree.get("search")
    if isinstance(given, Mapping) and given.get("stopping") == "rungs":
        raise ConfigError(
            "paths are not stopped at rungs: each of their models counts",
            "search.stopping",
            "none, or leave it out",
        )
    return dataclasses.replace(search, stopping="none")


def deep_as_searched(base: dict[str, Any], dimensions: list[Dimension]) -> list[Dimension]:
    """A searched target is how deep paths go at most: each goes to the upper end, and its snapshots on the way are the
    answers for the targets below. So no training is spent on choosing one.
    """
    kept = [dimension for dimension in dimensions if dimension.path != "prune.target"]
    for dimension in dimensions:
        if dimension.path == "prune.target":
            base["prune"]["target"] = max(value for value in dimension.extremes() if value is not None)
    return kept


def foreseen_cost(path: TrialConfig) -> float:
    """Training multiply-adds of a path in epochs of the unpruned model, without scoring, by its levels alone.

    With ``ratio_of: units`` the levels are not known; a cut of r of the units counts as r of the MACs.
    """
    prune, train = path.prune, path.train
    cap = math.inf if train.epochs is None else train.epochs
    removed, cost, epochs = 0.0, float(prune.start), prune.start
    units = dataclasses.replace(prune, ratio_of="cost") if prune.ratio_of == "units" else prune
    depth = prune.depth() if prune.depth() is not None else 0.99
    while removed < depth - 1e-9 and epochs + prune.interval <= cap:
        level = units.next_level(removed)
        if level is None or level <= removed or cost > 10_000:
            break
        removed, epochs = level, epochs + prune.interval
        cost += prune.interval * (1 - removed)
    return cost
