"""What may be deleted from a sweep's folder: training states that no run needs, and weights that nobody wants.

Ledger, configs, logs, plans, MLflow's records and the epochs of unfinished trials always stay. So do the states of paths
that a raised target or a longer search may continue, unless the caller asks for them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.show.terminal import as_text, table
from gcp_core import schema
from gcp_core.errors import ConfigError
from gcp_core.schema import snapshot_artifact
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import existing_entry
from sweeps.records.job import Record
from sweeps.records.layout import ARTIFACTS, EPOCHS, STAGES, TRIALS, TUNE, trial_path
from sweeps.records.ledger import SnapshotRecord
from sweeps.storage.exchange import Exchange
from sweeps.storage.lock import run_lock
from sweeps.storage.place import open_sweep
from sweeps.storage.states import may_go_on

_log = logging.getLogger(__name__)
KEEP = ("all", "front", "none")


@dataclass(frozen=True)
class Cleaned:
    """What was removed (or would be removed).

    Attributes:
        keep: which weights were kept: ``all``, ``front`` (front, baselines and confirmation runs) or ``none``.
        removed: path relative to the sweep's folder -> bytes.
        kept_weights: models (trials, or snapshots of paths) whose weights were kept.
        note: what MLflow still keeps elsewhere.
        kept_states: training states from which paths may continue: path relative to the sweep's folder -> bytes.
    """

    folder: str
    keep: str
    dry_run: bool
    removed: dict[str, int]
    kept_weights: list[str]
    note: str
    kept_states: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(self.removed.values())

    def text(self) -> str:
        """For people."""
        verb = "would free" if self.dry_run else "freed"
        gone = [(f"{size / 1e6:.2f}", path) for path, size in self.removed.items()]
        lines = [as_text(table(["MB", "removed"], gone))] if gone else []
        kept = f"{len(self.kept_weights)} models" if len(self.kept_weights) != 1 else "1 model"
        lines.append(f"{verb} {self.bytes / 1e6:.2f} MB ({self.bytes:,} bytes) in {self.folder}")
        lines.append(f"weights kept of {kept} (--keep {self.keep})")
        if self.kept_states:
            paths = "1 path" if len(self.kept_states) == 1 else f"{len(self.kept_states)} paths"
            size = sum(self.kept_states.values()) / 1e6
            lines.append(
                f"training states kept of {paths}, {size:.2f} MB: a raised target continues from them"
                " (--states removes them; training then restarts from the nearest shared state)"
            )
        return "\n".join([*lines, *([self.note] if self.note else [])])


def clean(
    sweep: str | os.PathLike[str], keep: str = "all", dry_run: bool = False, states: bool = False
) -> Cleaned:
    """Remove what a sweep no longer needs, in its folder and in its object store.

    Args:
        keep: whose final weights stay; ``gcp-sweep replay`` trains the others again and puts them back.
        dry_run: count, remove nothing.
        states: also the states from which paths may continue; a raised target then trains again.

    Raises:
        ConfigError: no sweep there, a driver is running it, or ``states`` of one that is not complete.
    """
    if keep not in KEEP:
        raise ConfigError(f"{keep!r} is unknown", "--keep", f"allowed: {', '.join(KEEP)}")
    place = open_sweep(sweep)
    folder, config, entry = place.folder, place.config, existing_entry(place.folder)
    if states and entry.state != "complete":
        hint = "finish it with gcp-sweep run first, or leave --states out to remove everything else"
        raise ConfigError(f"the sweep is {entry.state} and continues from these states", "--states", hint)
    with run_lock(folder):
        place.exchange.refuse_second()
        with place.reading() as ledger:
            trials, baselines, confirmed = (ledger.records(kind) for kind in ("trial", "baseline", "confirm"))
            taken, polished = ledger.snapshots(), ledger.polished()
        records = [*baselines, *trials, *confirmed]
        taken = {trial: [*own, *polished.get(trial, ())] for trial, own in taken.items()}
        models = [model for record in records for model in _models(record, taken)]
        wanted = {
            "all": {model.name for model in models},
            "front": {model.name for record in [*baselines, *confirmed] for model in _models(record, taken)}
            | front_of(config, trials, taken),
            "none": set(),
        }[keep]
        resting = [record for record in records if may_go_on(record) and not (states and record.finished)]
        over = [record for record in records if record not in resting]
        going = [*_states(folder, over), *_weights(folder, models, wanted)]
        removed = {str(path.relative_to(folder)): size_of(path) for path in going}
        remote = _in_store(place.exchange, over, models, wanted)
        removed |= {f"{place.exchange.url}/{path}": size for path, size in remote.items()}
        for path in () if dry_run else going:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        place.exchange.remove(*(() if dry_run else remote))
    there = place.exchange.sizes(TRIALS)
    kept = sorted(
        model.name
        for model in models
        if model.name in wanted and ((folder / model.weights).exists() or model.weights in there)
    )
    elsewhere = entry.tracking_uri is not None and not (folder / ARTIFACTS).exists()
    note = (
        f"MLflow keeps its own copies of the weights at {entry.tracking_uri}: delete the runs there, then `mlflow gc`"
        if keep != "all" and elsewhere
        else ""
    )
    kept_states = _kept_states(place.exchange, resting)
    return Cleaned(str(folder.absolute()), keep, dry_run, removed, kept, note, kept_states)


@dataclass(frozen=True)
class _Model:
    """A model that a trial has left.

    Attributes:
        weights: relative to the sweep's folder.
        taken: of a path's snapshot its level and the epochs it was polished for; None = a single trial's.
    """

    name: str
    weights: str
    record: Record
    taken: tuple[int, int] | None
    values: tuple[float, ...] | None


def _settled(model: _Model) -> bool:
    """Whether nobody is about to write its weights: its trial has ended or rests."""
    return model.record.finished or model.record.status == "paused"


def _models(record: Record, taken: Mapping[str, list[SnapshotRecord]]) -> list[_Model]:
    trial, place = record.job.trial_id, trial_path(record.job.trial_id)
    if not record.job.config.is_path:
        values = record.values if record.status == "complete" else None
        return [_Model(trial, f"{place}/{schema.ARTIFACT_WEIGHTS}", record, None, values)]
    return [
        _Model(
            known.snap.name(trial),
            f"{place}/{snapshot_artifact(known.snap.level, schema.ARTIFACT_WEIGHTS, known.snap.polish)}",
            record,
            (known.snap.level, known.snap.polish),
            known.values if known.snap.status == "complete" else None,
        )
        for known in taken.get(trial, ())
    ]


def front_of(
    config: SweepConfig, trials: list[Record], taken: Mapping[str, list[SnapshotRecord]] | None = None
) -> set[str]:
    """The finished models (trials, snapshots of paths) that no other one beats in every objective, by name."""
    from analysis.front.objectives import minimised
    from analysis.front.pareto import nondominated

    usable = [m for record in trials for m in _models(record, taken or {}) if m.values is not None]
    if not usable:
        return set()
    values = np.array([model.values for model in usable], dtype=float)
    mask = nondominated(minimised(values, config.search.objectives.values()))
    return {model.name for model, best in zip(usable, mask, strict=True) if best}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return path.lstat().st_size


def _states(folder: Path, over: list[Record]) -> Iterator[Path]:
    """Shared stages, Ray's scratch, and the epochs of trials that are over."""
    ended = (_folder(folder, record) / EPOCHS for record in over)
    return (path for path in (folder / STAGES, folder / TUNE, *ended) if path.exists())


def _kept_states(exchange: Exchange, resting: list[Record]) -> dict[str, int]:
    """The states of paths that stay, here or in the store: path -> bytes."""
    there = exchange.sizes(TRIALS)
    found = {}
    for record in resting:
        path = f"{trial_path(record.job.trial_id)}/{EPOCHS}"
        here = exchange.root / path
        remote = sum(size for file, size in there.items() if file.startswith(f"{path}/"))
        size = size_of(here) if here.exists() else remote
        if record.job.config.is_path and size:
            found[path] = size
    return found


def _weights(folder: Path, models: list[_Model], wanted: set[str]) -> Iterator[Path]:
    """Weights of the unwanted models: in the trials' folders, and MLflow's copies in the sweep's folder."""
    unwanted = [model for model in models if _settled(model) and model.name not in wanted]
    for model in unwanted:
        if (folder / model.weights).exists():
            yield folder / model.weights
    keys = {(model.record.key, model.taken) for model in unwanted}
    for manifest in sorted((folder / ARTIFACTS).glob(f"*/artifacts/{schema.ARTIFACT_MANIFEST}")):
        file = manifest.parents[1] / schema.ARTIFACT_WEIGHTS
        if file.exists():
            about = json.loads(manifest.read_text(encoding="utf-8"))
            if (about.get("config_key"), _taken(about)) in keys:
                yield file


def _taken(manifest: Mapping[str, Any]) -> tuple[int, int] | None:
    """``taken`` of the model that a manifest describes."""
    snapshot, polish = manifest.get("snapshot"), manifest.get("polish") or {}
    return None if snapshot is None else (snapshot.get("level"), polish.get("epochs", 0))


def _in_store(
    exchange: Exchange, over: list[Record], models: list[_Model], wanted: set[str]
) -> dict[str, int]:
    """The same of an object store: path -> bytes."""
    ended = [record.job.trial_id for record in over]
    going = [STAGES, *(f"{trial_path(name)}/{EPOCHS}" for name in ended)]
    going += [m.weights for m in models if _settled(m) and m.name not in wanted]
    found = {**exchange.sizes(STAGES), **exchange.sizes(TRIALS)}
    sums = {
        path: sum(size for file, size in found.items() if file == path or file.startswith(f"{path}/"))
        for path in going
    }
    return {path: size for path, size in sums.items() if size}


def _folder(folder: Path, record: Record) -> Path:
    """The trial's folder where the sweep is now (it may have been moved)."""
    return folder / "trials" / record.job.trial_id
