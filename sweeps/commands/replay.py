"""Train a trial of a sweep once more, alone, from its ledger entry, and compare the weights bit by bit."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.factory import load_factory
from sweeps.records.job import Record, read_outcome
from sweeps.records.ledger import read_records
from sweeps.records.provenance import collect, differences
from sweeps.storage.place import Place, open_sweep
from sweeps.worker.trial import DEFAULT_RUNNER

_ENDED_WITH_WEIGHTS = ("complete", "stopped", "infeasible")


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        recorded, weights_sha256: of the final weights, then and now.
        equal: whether they are the same.
        changed: what differs between then and now and can change weights, one line each.
        first_epoch: the first epoch whose training loss differs, 0 if none does (or no history is left).
        error: why the training ended without weights this time, empty if it did not.
    """

    trial_id: str
    equal: bool
    recorded: str
    weights_sha256: str
    changed: list[str]
    first_epoch: int
    error: str = ""

    def text(self) -> str:
        """For people."""
        if self.equal:
            lines = [f"{self.trial_id}: the same weights, bit by bit (sha256 {self.recorded[:16]}...)"]
            return "\n".join(lines + [f"  although {change}" for change in self.changed])
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
    trial_id: str,
    report: Callable[[Any], None] | None = None,
    runner: str = DEFAULT_RUNNER,
) -> Replay:
    """Train ``trial_id`` of a sweep again, in a temporary folder, sharing nothing with other trials.

    Args:
        report: called after every epoch.
        runner: the ``package.module:function`` that the sweep was run with.

    Raises:
        ConfigError: no such sweep or trial, or a trial without final weights.
        DataError, ModelError: the trial's data or model cannot be had here.
    """
    record = _record(open_sweep(sweep), trial_id)
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
    losses: dict[int, float] = {}

    def epoch(row: Any) -> bool:
        losses[row.epoch] = row.metrics["train/loss"]
        if report is not None:
            report(row)
        return record.status == "stopped" and row.epoch >= last

    function = load_factory(runner, "runner", ConfigError)
    # What the training prints is for people; the standard output belongs to the answer.
    with tempfile.TemporaryDirectory(prefix="gcp-replay-") as place, contextlib.redirect_stdout(sys.stderr):
        result = function(config, report=epoch, checkpoint_dir=place)
        now = collect(config.threads, Path(place))
    then = {int(row["epoch"]): row.get("train/loss", math.nan) for row in outcome.history} if outcome else {}
    differing = [e for e in sorted(losses) if e in then and losses[e] != then[e]]
    return Replay(
        trial_id=trial_id,
        equal=result.weights_sha256 == recorded,
        recorded=recorded,
        weights_sha256=result.weights_sha256,
        changed=differences(record.provenance, now),
        first_epoch=differing[0] if differing else 0,
        error=result.error or "",
    )


def _record(place: Place, trial_id: str) -> Record:
    folder, config = place.folder, place.config
    kinds = ("trial", "baseline", "confirm")
    lists = read_records(folder, config.name, config.search.objectives, kinds, config.database)
    found = {record.job.trial_id: record for records in lists for record in records}
    if trial_id not in found:
        hint = did_you_mean(trial_id, found) if found else "it has no trials yet"
        raise ConfigError(f"the sweep has no trial {trial_id!r}", str(folder), hint)
    return found[trial_id]
