"""After the search: the front's members are trained again on fresh seeds, because chosen values flatter.

The best of many noisy measurements is biased upwards; a fresh seed is not chosen by anything. A path is trained again
down to its deepest snapshot on the front and no further, so that its fresh snapshots confirm those of the front one by
one: a cap on its epochs ends it exactly there, and is no part of what names a path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from gcp_core.errors import required
from gcp_core.schema import Direction
from sweeps.records.job import Job, Record
from sweeps.records.ledger import SnapshotRecord
from sweeps.strategy.twins import model_of

#: Trial id -> its snapshots, as the ledger holds them.
Snapshots = Mapping[str, Sequence[SnapshotRecord]]


def finalists(
    trials: Sequence[Record], objectives: Mapping[str, Direction], snapshots: Snapshots | None = None
) -> list[Record]:
    """The configurations with a model on the front of the finished, feasible models, one record each.

    Seeds do not make another configuration, and of configurations that made the same model the first one counts, as in
    every table. The record of a path ends with its deepest model on the front.
    """
    from analysis.front.objectives import minimised, usable
    from analysis.front.pareto import nondominated

    models = [model for record in trials for model in _models(record, snapshots)]
    values = np.array([model.values for model in models], dtype=float).reshape(len(models), len(objectives))
    keep = usable(values)
    models = [model for model, good in zip(models, keep, strict=True) if good]
    on_front = nondominated(minimised(values[keep], objectives.values()))
    by_config: dict[str, Record] = {}
    deepest: dict[str, int] = {}
    seen: set[str] = set()
    for model, chosen in zip(models, on_front, strict=True):
        if not chosen or model.same in seen:
            continue
        seen |= {model.same} if model.same else set()
        name = model.record.job.config.config_id()
        by_config.setdefault(name, model.record)
        deepest[name] = max(deepest.get(name, 0), model.epoch)
    return [_cut(record, deepest[name]) for name, record in by_config.items()]


def confirm_runs(
    trials: Sequence[Record],
    objectives: Mapping[str, Direction],
    seeds: int,
    snapshots: Snapshots | None = None,
    searched: int = 0,
) -> list[Record]:
    """Every finalist once per fresh seed: the ``seeds`` numbers that follow the largest one the search may use.

    The records are the finalists' own with another seed in config and point; seed by seed, so that baselines and
    trials of one seed are neighbours.

    Args:
        searched: the largest seed of the space; a longer search would come to it, and it would be fresh no more.
    """
    chosen = finalists(trials, objectives, snapshots)
    used = max(searched, *(record.job.config.seed for record in trials), 0)
    return [_reseeded(record, used + 1 + i) for i in range(seeds) for record in chosen]


def taken_further(runs: Sequence[Record], known: Sequence[Record]) -> list[Job]:
    """The jobs of paths that an earlier confirmation has trained less deep than ``runs`` asks for: they continue.

    Args:
        known: confirmation runs in the ledger.
    """
    caps = {run.key: run.job.config for run in runs if run.job.config.is_path}
    return [
        dataclasses.replace(record.job, config=caps[record.key])
        for record in known
        if record.key in caps and record.reopens
        if required(caps[record.key].train.epochs, "the cap") > record.finals.get("epochs", 0)
    ]


@dataclasses.dataclass(frozen=True)
class _Model:
    """A candidate. ``epoch`` is the one that it ends, 0 = a single trial's; equal ``same`` are one model."""

    record: Record
    values: tuple[float, ...]
    epoch: int = 0
    same: str = ""


def _models(record: Record, snapshots: Snapshots | None) -> list[_Model]:
    """A path that failed keeps its finished models; any other trial has one if it is complete."""
    if record.job.config.is_path and snapshots is not None:
        return [
            _Model(record, one.values, one.snap.epoch, one.snap.weights_sha256)
            for one in snapshots.get(record.job.trial_id, ())
            if one.snap.status == "complete" and one.values is not None
        ]
    if record.status != "complete" or record.values is None:
        return []
    same = model_of(record.weights_sha256, record.job.config.seed, record.finals)
    return [_Model(record, record.values, same=same)]


def _cut(record: Record, epoch: int) -> Record:
    """The record of a path that ends with ``epoch``; any other one as it is."""
    if not epoch:
        return record
    config = record.job.config
    capped = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epoch))
    return dataclasses.replace(record, job=dataclasses.replace(record.job, config=capped))


def _reseeded(record: Record, seed: int) -> Record:
    point = {path: (seed if path == "seed" else value) for path, value in record.job.point.items()}
    job = dataclasses.replace(
        record.job, config=dataclasses.replace(record.job.config, seed=seed), point=point
    )
    return dataclasses.replace(record, job=job, key=job.config.key())
