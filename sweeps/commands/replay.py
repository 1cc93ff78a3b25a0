"""Train a trial of a sweep once more, alone, from its ledger entry, and compare the weights bit by bit.

Weights that were cleaned away are put back if they are the same. A polished snapshot is polished again, from the
snapshot in the sweep's folder or, where its weights are gone, from one that is trained again first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcp_core.config import TrialConfig
from gcp_core.errors import CheckpointError, ConfigError, required
from gcp_core.factory import load_factory
from gcp_core.schema import (
    ARTIFACT_WEIGHTS,
    ModelName,
    model_id,
    polish_place,
    snapshot_artifact,
    snapshot_place,
)
from sweeps.commands.models import record_of, snap_of, snapshots_of, span
from sweeps.commands.polish import weights_at_hand
from sweeps.records import spool
from sweeps.records.job import Record, Snap, read_outcome
from sweeps.records.layout import trial_path
from sweeps.records.ledger import Ledger
from sweeps.records.provenance import collect, differences
from sweeps.storage.place import Place, open_sweep
from sweeps.storage.weights import put_back
from sweeps.worker.gpu import in_place_of_trials
from sweeps.worker.trial import DEFAULT_RUNNER

_ENDED_WITH_WEIGHTS = ("complete", "stopped", "infeasible", "paused")


@dataclass(frozen=True)
class Replay:
    """The result.

    Attributes:
        model: what was asked for: a trial, a snapshot of a path (``t0007@3``), or that polished (``t0007@3+30``).
        recorded, weights_sha256: of the final weights (or the snapshot's), then and now.
        equal: whether they are the same, and with a whole path those of all its snapshots.
        changed: what differs between then and now and can change weights, one line each.
        first_epoch: the first epoch whose training loss differs, 0 if none does (or no history is left).
        error: why the training ended without weights this time, empty if it did not.
        snapshots: of a path, those that were trained again -> whether their weights are the same.
        restored: models whose weights were missing in the sweep's folder and are there again.
    """

    trial_id: str
    model: str
    equal: bool
    recorded: str
    weights_sha256: str
    changed: list[str]
    first_epoch: int
    error: str = ""
    snapshots: dict[str, bool] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        back = [f"  weights put back: {', '.join(self.restored)}"] if self.restored else []
        if self.equal:
            several = f" in all {len(self.snapshots)} snapshots" if len(self.snapshots) > 1 else ""
            lines = [f"{self.model}: the same weights, bit by bit{several} (sha256 {self.recorded[:16]}...)"]
            return "\n".join([*lines, *(f"  although {change}" for change in self.changed), *back])
        lines = [
            f"{self.model}: different weights",
            f"  recorded  {self.recorded}",
            f"  replayed  {self.weights_sha256 or f'none: {self.error}'}",
        ]
        if not all(self.snapshots.values()):
            first = next(name for name, same in self.snapshots.items() if not same)
            lines.append(f"  the first snapshot that differs is {first}")
        if self.first_epoch:
            lines.append(f"  the training loss first differs in epoch {self.first_epoch}")
        lines += [f"  changed   {change}" for change in self.changed]
        if not self.changed:
            lines.append("  nothing in the record has changed; on a GPU, training is not bit-reproducible")
        return "\n".join([*lines, *back])


@dataclass(frozen=True)
class _Task:
    """What is trained again. ``snapshots``: model -> what the ledger knows of it; ``last``: the epoch to stop after."""

    place: Place
    record: Record
    model: str
    recorded: str
    config: TrialConfig
    snapshots: dict[str, Snap]
    last: int | None


def replay(
    sweep: str | os.PathLike[str],
    model: str,
    report: Callable[[Any], None] | None = None,
    runner: str = DEFAULT_RUNNER,
) -> Replay:
    """Train a trial of a sweep again, in a temporary folder, sharing nothing with other trials.

    Args:
        model: a trial, or a snapshot of a path (``t0007@3``), which is trained as far as that snapshot, or that one
            polished (``t0007@3+30``).
        report: called after every epoch.
        runner: the ``package.module:function`` that the sweep was run with.

    Weights that are missing in the sweep's folder (``gcp-sweep clean``) are put back where the new ones are equal bit by
    bit; nothing else in the sweep is touched.

    Raises:
        ConfigError: no such sweep, trial or snapshot, or a trial without final weights.
        DataError, ModelError: the trial's data or model cannot be had here.
    """
    if ModelName.parse(model).polish:
        return _replay_polished(open_sweep(sweep), ModelName.parse(model), report, runner)
    task = _task(open_sweep(sweep), model)
    record = task.record
    outcome = read_outcome(record.job.folder, record.job.part)
    losses = _Losses(report)

    def epoch(row: Any) -> bool:
        losses(row)
        return task.last is not None and row.epoch >= task.last

    function = load_factory(runner, "runner", ConfigError)
    # What the training prints is for people; the standard output belongs to the answer.
    with (
        in_place_of_trials(task.place.config.resources.gpus),
        tempfile.TemporaryDirectory(prefix="gcp-replay-") as place,
        contextlib.redirect_stdout(sys.stderr),
    ):
        result = function(task.config, report=epoch, checkpoint_dir=place)
        now = collect(record.job.config.threads, Path(place))
        taken = {model_id(record.job.trial_id, one.level): one for one in getattr(result, "snapshots", ())}
        same = {
            name: name in taken and taken[name].weights_sha256 == known.weights_sha256
            for name, known in task.snapshots.items()
        }
        if ModelName.parse(model).level is not None:
            weights = taken[model].weights_sha256 if model in taken else ""
        else:
            weights = result.weights_sha256
        sound = {name: taken[name] for name in same if same[name]}
        if not record.job.config.is_path and weights == task.recorded:
            sound = {model: result}
        restored = [name for name, one in sound.items() if _restored(task.place, ModelName.parse(name), one)]
    rows = outcome.history if outcome is not None else spool.rows(Path(record.job.folder))
    return Replay(
        trial_id=record.job.trial_id,
        model=model,
        equal=weights == task.recorded and all(same.values()),
        recorded=task.recorded,
        weights_sha256=weights,
        changed=differences(record.provenance, now),
        first_epoch=losses.first_other(rows),
        error=result.error or "",
        snapshots=same,
        restored=restored,
    )


def _replay_polished(
    place: Place, name: ModelName, report: Callable[[Any], None] | None, runner: str
) -> Replay:
    """:func:`replay` of a snapshot that was polished."""
    with place.reading() as ledger:
        record = record_of(_records(ledger), name, place.folder)
        own, made = ledger.snapshots(), ledger.polished()
    source = snap_of(record, own, ModelName(name.trial, name.level))
    snap = snap_of(record, own, name, made)
    folder, config = place.folder / trial_path(name.trial), record.job.config
    losses = _Losses(report)
    from gcp_core.training.polish import polish  # brings torch

    digest, error, restored = "", "", []
    with (
        in_place_of_trials(place.config.resources.gpus),
        tempfile.TemporaryDirectory(prefix="gcp-replay-") as work,
        contextlib.redirect_stdout(sys.stderr),
    ):
        begin: Path | None = folder / snapshot_place(source.level)
        try:
            weights_at_hand(place, name.trial, source)
        except (ConfigError, CheckpointError):  # gone or damaged: trained again
            result = load_factory(runner, "runner", ConfigError)(
                _capped(config, source), report=losses, checkpoint_dir=work
            )
            taken = next((one for one in result.snapshots if one.level == source.level), None)
            begin = None if taken is None else taken.folder
            if taken is None or taken.weights_sha256 != source.weights_sha256:
                begin, error = (
                    None,
                    f"{source.name(name.trial)}, from which it was made, has other weights now",
                )
        if begin is not None:
            polished = polish(config, begin, snap.polish, report=losses, checkpoint_dir=work).model
            done = required(polished, "the model of a polish that nobody stops")
            digest = done.weights_sha256
            if digest == snap.weights_sha256 and _restored(place, name, done):
                restored.append(str(name))
        now = collect(config.threads, Path(work))
    rows = (
        *spool.rows(folder)[: source.epoch],
        *spool.rows(folder / polish_place(snap.level, snap.polish)),
    )
    return Replay(
        trial_id=name.trial,
        model=str(name),
        equal=digest == snap.weights_sha256,
        recorded=snap.weights_sha256,
        weights_sha256=digest,
        changed=differences(snap.provenance, now),
        first_epoch=losses.first_other(rows),
        error=error,
        snapshots={str(name): digest == snap.weights_sha256},
        restored=restored,
    )


def _task(place: Place, model: str) -> _Task:
    """What ``model`` names, as the ledger knows it."""
    name = ModelName.parse(model)
    trial_id, at = name.trial, name.level is not None
    with place.reading() as ledger:
        record = record_of(_records(ledger), name, place.folder)
        known = ledger.snapshots().get(trial_id, ())
    config = record.job.config
    snapshots = {model_id(trial_id, one.snap.level): one.snap for one in known}
    if at:
        if not config.is_path:
            raise ConfigError("is not a path, so it has no snapshots", model, f"its name is {trial_id}")
        if model not in snapshots:
            has = snapshots_of(trial_id, list(snapshots.values()))
            raise ConfigError(has, model, "name one of them" if snapshots else "")
        snap = snapshots[model]
        return _Task(place, record, model, snap.weights_sha256, _capped(config, snap), {model: snap}, None)
    outcome = read_outcome(record.job.folder)
    recorded = record.weights_sha256 or (outcome.weights_sha256 if outcome is not None else "")
    if record.status not in _ENDED_WITH_WEIGHTS or not recorded:
        hint = record.error or "it may still run"
        if snapshots:
            hint += f"; its snapshots can be replayed: {span(trial_id, list(snapshots.values()))}"
        raise ConfigError(f"ended as {record.status}, without weights to compare", trial_id, hint)
    # It may have rested before its target until the sweep was over.
    if snapshots and record.status != "stopped":
        config = _capped(config, list(snapshots.values())[-1])
    last = int(record.finals.get("epochs", config.train.epochs or 0)) if record.status == "stopped" else None
    return _Task(place, record, model, recorded, config, snapshots, last)


def _capped(path: TrialConfig, snap: Snap) -> TrialConfig:
    """A path that ends with that snapshot: under a cap it is the same path as far as it goes."""
    return dataclasses.replace(path, train=dataclasses.replace(path.train, epochs=snap.epoch))


def _restored(place: Place, name: ModelName, trained: Any) -> bool:
    """Put a model's weights back if they are missing; whether they were."""
    source = getattr(trained, "folder", None)
    inside = ARTIFACT_WEIGHTS
    if name.level is not None:
        inside = snapshot_artifact(name.level, ARTIFACT_WEIGHTS, name.polish)
    there = f"{trial_path(name.trial)}/{inside}"
    if source is None or (place.folder / there).exists() or place.exchange.has(there):
        return False
    put_back(place.exchange, there, Path(source) / Path(there).name)
    return True


class _Losses:
    """Training losses as they come, to be compared with those of then; ``report`` is called with every row."""

    def __init__(self, report: Callable[[Any], None] | None) -> None:
        self._report = report
        self._now: dict[int, float] = {}

    def __call__(self, row: Any) -> None:
        self._now[row.epoch] = row.metrics["train/loss"]
        if self._report is not None:
            self._report(row)

    def first_other(self, rows: Iterable[Mapping[str, float]]) -> int:
        """The first epoch whose loss was another one then, 0 if there is none (or no history is left)."""
        then = {int(row["epoch"]): row.get("train/loss", math.nan) for row in rows}
        return min((e for e, loss in self._now.items() if e in then and loss != then[e]), default=0)


def _records(ledger: Ledger) -> list[Record]:
    """All that the sweep has trained, of whatever kind."""
    return [record for kind in ("trial", "baseline", "confirm") for record in ledger.records(kind)]
