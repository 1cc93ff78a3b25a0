"""Train a model of a sweep once more, alone, from its ledger entry, and compare the weights bit by bit.

A path is trained up to the snapshot that is asked for, whether it was paused, taken up again or continued beyond its
target on the way: none of that changes a weight.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcp_core import schema
from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.factory import load_factory
from gcp_core.schema import model_id, snapshot_artifact
from sweeps.records import spool
from sweeps.records.job import Record, read_outcome
from sweeps.records.layout import trial_path
from sweeps.records.ledger import read_records, read_snapshots
from sweeps.records.provenance import collect, differences
from sweeps.storage.place import Place, open_sweep
from sweeps.storage.weights import put_back
from sweeps.worker.trial import DEFAULT_RUNNER

_ENDED_WITH_WEIGHTS = ("complete", "stopped", "infeasible")


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        trial_id: ``t0007``, of a snapshot ``t0007@3``.
        recorded, weights_sha256: of the final weights, then and now.
        equal: whether they are the same.
        changed: what differs between then and now and can change weights, one line each.
        first_epoch: the first epoch whose training loss differs, 0 if none does (or no history is left).
        error: why the training ended without weights this time, empty if it did not.
        restored: the file that has these weights again; empty = none was asked for, or they differ.
    """

    trial_id: str
    equal: bool
    recorded: str
    weights_sha256: str
    changed: list[str]
    first_epoch: int
    error: str = ""
    restored: str = ""

    def text(self) -> str:
        """For people."""
        if self.equal:
            lines = [f"{self.trial_id}: the same weights, bit by bit (sha256 {self.recorded[:16]}...)"]
            lines += [f"  although {change}" for change in self.changed]
            return "\n".join([*lines, *([f"  put back: {self.restored}"] if self.restored else [])])
        lines = [
            f"{self.trial_id}: different weights",
            f"  recorded  {self.recorded}",
            f"  replayed  {self.weights_sha256 or f'none: {self.error}'}",
        ]
        if self.first_epoch:
            lines.append(f"  the training loss differs first in epoch {self.first_epoch}")
        lines += [f"  changed   {change}" for change in self.changed]
        if not self.changed:
            lines.append("  nothing that is recorded has changed; on a GPU, training is not bit-reproducible")
        return "\n".join(lines)


def replay(
    sweep: str | os.PathLike[str],
    model: str,
    report: Callable[[Any], None] | None = None,
    runner: str = DEFAULT_RUNNER,
    restore: bool = False,
) -> Replay:
    """Train a trial (``t0007``) or a path up to a snapshot (``t0007@3``; without a number its last one) again, in a
    temporary folder, sharing nothing with other trials.

    Args:
        report: called after every epoch.
        runner: the ``package.module:function`` that the sweep was run with.
        restore: if the weights are the same, put them back where they were dropped or cleaned.

    Raises:
        ConfigError: no such sweep, trial or snapshot, or a trial without final weights.
        DataError, ModelError: the trial's data or model cannot be had here.
    """
    place = open_sweep(sweep)
    asked = _asked(place, model)
    record, outcome = asked.record, read_outcome(asked.record.job.folder)
    losses: dict[int, float] = {}

    def epoch(row: Any) -> bool:
        losses[row.epoch] = row.metrics["train/loss"]
        if report is not None:
            report(row)
        return record.status == "stopped" and asked.level is None and row.epoch >= asked.last

    function = load_factory(runner, "runner", ConfigError)
    # What the training prints is for people; the standard output belongs to the answer.
    with tempfile.TemporaryDirectory(prefix="gcp-replay-") as folder, contextlib.redirect_stdout(sys.stderr):
        result = function(asked.config, report=epoch, checkpoint_dir=folder)
        now = collect(asked.config.threads, Path(folder))
        equal = result.weights_sha256 == asked.recorded
        restored = _restore(place, asked, Path(folder)) if restore and equal else ""
    rows = outcome.history if outcome is not None else spool.rows(Path(record.job.folder))
    then = {int(row["epoch"]): row.get("train/loss", math.nan) for row in rows}
    differing = [e for e in sorted(losses) if e in then and losses[e] != then[e]]
    return Replay(
        trial_id=asked.name,
        equal=equal,
        recorded=asked.recorded,
        weights_sha256=result.weights_sha256,
        changed=differences(record.provenance, now),
        first_epoch=differing[0] if differing else 0,
        error=result.error or "",
        restored=restored,
    )


@dataclass(frozen=True)
class _Asked:
    """What is to be trained again: ``config`` ends with it, after the epoch ``last``; ``level`` None = no snapshot."""

    name: str
    record: Record
    level: int | None
    config: TrialConfig
    last: int
    recorded: str


def _asked(place: Place, model: str) -> _Asked:
    trial_id, at, _ = model.partition("@")
    record = _record(place, trial_id)
    if record.job.config.is_path:
        return _snapshot(place, record, model)
    if at:
        raise ConfigError("is no path: it has no snapshots", trial_id, f"gcp-sweep replay SWEEP {trial_id}")
    outcome = read_outcome(record.job.folder)
    recorded = record.weights_sha256 or (outcome.weights_sha256 if outcome is not None else "")
    if record.status not in _ENDED_WITH_WEIGHTS or not recorded:
        raise ConfigError(
            f"ended as {record.status}, without weights to compare",
            trial_id,
            record.error or "it may still run",
        )
    config = record.job.config
    last = int(record.finals.get("epochs", config.train.epochs))
    return _Asked(trial_id, record, None, config, last, recorded)


def _snapshot(place: Place, record: Record, model: str) -> _Asked:
    """Of a path; its training is capped where the snapshot was taken, which changes none of its weights."""
    trial_id, at, _ = model.partition("@")
    config = place.config
    known = read_snapshots(place.folder, config.name, config.search.objectives, config.database)
    taken = {model_id(trial_id, one.snap.level): one.snap for one in known.get(trial_id, ())}
    if not taken:
        reason = record.error or "it may still run"
        raise ConfigError(f"is {record.status}, and has no finished model yet", trial_id, reason)
    if not at:
        model = max(taken, key=lambda name: taken[name].level)
    if model not in taken:
        names = list(taken)
        hint = f"it has {names[0] if len(names) == 1 else f'{names[0]} .. {names[-1]}'}"
        raise ConfigError("the path has no such snapshot", model, hint)
    snap = taken[model]
    train = dataclasses.replace(record.job.config.train, epochs=snap.epoch)
    path = dataclasses.replace(record.job.config, train=train)
    return _Asked(model, record, snap.level, path, snap.epoch, snap.weights_sha256)


def _restore(place: Place, asked: _Asked, folder: Path) -> str:
    """Put the weights back; a file that is there is left as it is. The file."""
    inside = (
        schema.ARTIFACT_WEIGHTS
        if asked.level is None
        else snapshot_artifact(asked.level, schema.ARTIFACT_WEIGHTS)
    )
    target = place.folder / trial_path(asked.record.job.trial_id) / inside
    if not target.exists():
        put_back(place.exchange, str(target.relative_to(place.folder)), folder / inside)
    return str(target)


def _record(place: Place, trial_id: str) -> Record:
    folder, config = place.folder, place.config
    kinds = ("trial", "baseline", "confirm")
    lists = read_records(folder, config.name, config.search.objectives, kinds, config.database)
    found = {record.job.trial_id: record for records in lists for record in records}
    if trial_id not in found:
        hint = did_you_mean(trial_id, found) if found else "it has no trials yet"
        raise ConfigError(f"the sweep has no trial {trial_id!r}", str(folder), hint)
    return found[trial_id]
