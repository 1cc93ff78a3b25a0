"""After the search: the front's members are trained again on fresh seeds, because chosen values flatter.

The best of many noisy measurements is biased upwards; a fresh seed is not chosen by anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from gcp_core.schema import Direction
from sweeps.records.job import Record


def finalists(trials: Sequence[Record], objectives: Mapping[str, Direction]) -> list[Record]:
    """The front of the finished, feasible trials: one record per configuration (seeds do not make another one)."""
    from analysis.front.objectives import minimised, usable
    from analysis.front.pareto import nondominated

    candidates = [r for r in trials if r.status == "complete" and r.values is not None]
    values = np.array([r.values for r in candidates], dtype=float).reshape(len(candidates), len(objectives))
    keep = usable(values)
    candidates = [record for record, good in zip(candidates, keep, strict=True) if good]
    on_front = nondominated(minimised(values[keep], objectives.values()))
    by_config: dict[str, Record] = {}
    for record, chosen in zip(candidates, on_front, strict=True):
        if chosen:
            by_config.setdefault(record.job.config.config_id(), record)
    return list(by_config.values())


def confirm_runs(trials: Sequence[Record], objectives: Mapping[str, Direction], seeds: int) -> list[Record]:
    """Every finalist once per fresh seed: the ``seeds`` numbers that follow the largest one the search has used.

    The records are the finalists' own with another seed in config and point; seed by seed, so that baselines and
    trials of one seed are neighbours.
    """
    chosen = finalists(trials, objectives)
    used = max((record.job.config.seed for record in trials), default=0)
    return [_reseeded(record, used + 1 + i) for i in range(seeds) for record in chosen]


def _reseeded(record: Record, seed: int) -> Record:
    point = {path: (seed if path == "seed" else value) for path, value in record.job.point.items()}
    job = dataclasses.replace(
        record.job, config=dataclasses.replace(record.job.config, seed=seed), point=point
    )
    return dataclasses.replace(record, job=job, key=job.config.key())
