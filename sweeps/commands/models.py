"""Finds what a user's name for a model means in the ledger: ``t0008``, ``t0007@3``, ``t0007@3+30``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import ModelName
from sweeps.records.job import Record, Snap
from sweeps.records.ledger import SnapshotRecord


def record_of(records: Sequence[Record], name: ModelName, folder: Path) -> Record:
    """The trial that a model belongs to.

    Raises:
        ConfigError: there is none.
    """
    found = {record.job.trial_id: record for record in records}
    if name.trial not in found:
        hint = did_you_mean(name.trial, found) if found else "it has no trials yet"
        raise ConfigError(f"the sweep has no trial {name.trial!r}", str(folder), hint)
    return found[name.trial]


def snap_of(
    record: Record,
    taken: Mapping[str, Sequence[SnapshotRecord]],
    name: ModelName,
    polished: Mapping[str, Sequence[SnapshotRecord]] | None = None,
) -> Snap:
    """The snapshot of that name, polished or the path's own.

    Raises:
        ConfigError: the trial is not a path, has other snapshots, or none polished for so long.
    """
    trial = record.job.trial_id
    if not record.job.config.is_path:
        raise ConfigError("is not a path, so it has no snapshots", trial, f"its model is named {trial}")
    own = [known.snap for known in taken.get(trial, ())]
    if not any(snap.level == name.level for snap in own):
        what = "names no snapshot" if name.level is None else "there is no such snapshot"
        raise ConfigError(f"{what}: {snapshots_of(trial, own)}", str(name), "name one of them" if own else "")
    found = [
        known.snap
        for known in (*taken[trial], *(polished or {}).get(trial, ()))
        if (known.snap.level, known.snap.polish) == (name.level, name.polish)
    ]
    if not found:
        source = ModelName(trial, name.level)
        hint = f"gcp-sweep polish SWEEP {source} train.epochs={name.polish}"
        raise ConfigError(f"{source} has not been polished for {name.polish} epochs", str(name), hint)
    return found[0]


def snapshots_of(trial: str, own: Sequence[Snap]) -> str:
    """``the path has 7 snapshots, t0007@0 .. t0007@6``."""
    number = {0: "no snapshot yet", 1: "one snapshot, "}.get(len(own), f"{len(own)} snapshots, ")
    return f"the path has {number}{span(trial, own)}"


def span(trial: str, own: Sequence[Snap]) -> str:
    """``t0007@0 .. t0007@6``, the name alone of a single one, nothing of none."""
    ends = dict.fromkeys(snap.name(trial) for snap in (*own[:1], *own[-1:]))
    return " .. ".join(ends)
