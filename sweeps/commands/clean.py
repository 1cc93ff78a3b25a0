"""What of a sweep's folder may go: training states that nobody will continue from, and weights nobody will take.

Ledger, configs, logs, plans, MLflow's records and the epochs of unfinished trials always stay.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcp_core import schema
from gcp_core.errors import ConfigError
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import existing_entry
from sweeps.records.job import Record
from sweeps.records.layout import ARTIFACTS, EPOCHS, STAGES, TRIALS, TUNE, trial_path
from sweeps.records.ledger import read_records
from sweeps.storage.exchange import Exchange
from sweeps.storage.lock import run_lock
from sweeps.storage.place import open_sweep

_log = logging.getLogger(__name__)
KEEP = ("all", "front", "none")


@dataclass(frozen=True)
class Cleaned:
    """What went (or would go).

    Attributes:
        keep: whose weights stay: ``all``, ``front`` (front, baselines and confirmation runs) or ``none``.
        removed: path relative to the sweep's folder -> bytes.
        kept_weights: trials whose weights stay.
        note: what MLflow still holds elsewhere.
    """

    folder: str
    keep: str
    dry_run: bool
    removed: dict[str, int]
    kept_weights: list[str]
    note: str

    @property
    def bytes(self) -> int:
        return sum(self.removed.values())

    def text(self) -> str:
        """For people."""
        verb = "would free" if self.dry_run else "freed"
        lines = [f"  {size / 1e6:10.2f} MB  {path}" for path, size in self.removed.items()]
        kept = f"{len(self.kept_weights)} trials" if len(self.kept_weights) != 1 else "1 trial"
        lines.append(f"{verb} {self.bytes / 1e6:.2f} MB ({self.bytes:,} bytes) in {self.folder}")
        lines.append(f"weights kept of {kept} (--keep {self.keep})")
        return "\n".join([*lines, *([self.note] if self.note else [])])


def clean(sweep: str | os.PathLike[str], keep: str = "all", dry_run: bool = False) -> Cleaned:
    """Remove what a sweep no longer needs, in its folder and in its object store.

    Args:
        keep: whose final weights stay; the others can be had again with ``gcp-sweep replay`` only.
        dry_run: count, remove nothing.

    Raises:
        ConfigError: no sweep there, or a driver is running it.
    """
    if keep not in KEEP:
        raise ConfigError(f"{keep!r} is unknown", "--keep", f"allowed: {', '.join(KEEP)}")
    place = open_sweep(sweep)
    folder, config, entry = place.folder, place.config, existing_entry(place.folder)
    with run_lock(folder):
        place.exchange.refuse_second()
        trials, baselines, confirmed = read_records(
            folder, config.name, config.search.objectives, ("trial", "baseline", "confirm"), config.database
        )
        records = [*baselines, *trials, *confirmed]
        wanted = {
            "all": {record.job.trial_id for record in records},
            "front": {record.job.trial_id for record in [*baselines, *confirmed, *front_of(config, trials)]},
            "none": set(),
        }[keep]
        going = [*_states(folder, records), *_weights(folder, records, wanted)]
        removed = {str(path.relative_to(folder)): size_of(path) for path in going}
        remote = _in_store(place.exchange, records, wanted)
        removed |= {f"{place.exchange.url}/{path}": size for path, size in remote.items()}
        for path in () if dry_run else going:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        place.exchange.remove(*(() if dry_run else remote))
    there = place.exchange.sizes(TRIALS)
    kept = sorted(
        record.job.trial_id
        for record in records
        if record.job.trial_id in wanted
        and (
            (_folder(folder, record) / schema.ARTIFACT_WEIGHTS).exists()
            or f"{trial_path(record.job.trial_id)}/{schema.ARTIFACT_WEIGHTS}" in there
        )
    )
    elsewhere = entry.tracking_uri is not None and not (folder / ARTIFACTS).exists()
    note = (
        f"MLflow keeps its own copies of the weights at {entry.tracking_uri}: delete the runs there, then `mlflow gc`"
        if keep != "all" and elsewhere
        else ""
    )
    return Cleaned(str(folder.absolute()), keep, dry_run, removed, kept, note)


def front_of(config: SweepConfig, trials: list[Record]) -> list[Record]:
    """The finished trials that no other one beats in every objective."""
    from analysis.front.objectives import minimised
    from analysis.front.pareto import nondominated

    usable = [record for record in trials if record.status == "complete" and record.values is not None]
    if not usable:
        return []
    values = np.array([record.values for record in usable], dtype=float)
    mask = nondominated(minimised(values, config.search.objectives.values()))
    return [record for record, best in zip(usable, mask, strict=True) if best]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return path.lstat().st_size


def _states(folder: Path, records: list[Record]) -> Iterator[Path]:
    """Shared stages, Ray's scratch, and the epochs of trials that have ended."""
    ended = (_folder(folder, record) / EPOCHS for record in records if record.finished)
    return (path for path in (folder / STAGES, folder / TUNE, *ended) if path.exists())


def _weights(folder: Path, records: list[Record], wanted: set[str]) -> Iterator[Path]:
    """Final weights of the unwanted trials: in the trials' folders, and MLflow's copies in the sweep's folder."""
    unwanted = [record for record in records if record.finished and record.job.trial_id not in wanted]
    for record in unwanted:
        file = _folder(folder, record) / schema.ARTIFACT_WEIGHTS
        if file.exists():
            yield file
    keys = {record.key for record in unwanted}
    for manifest in sorted((folder / ARTIFACTS).glob(f"*/artifacts/{schema.ARTIFACT_MANIFEST}")):
        file = manifest.parents[1] / schema.ARTIFACT_WEIGHTS
        if file.exists() and json.loads(manifest.read_text(encoding="utf-8")).get("config_key") in keys:
            yield file


def _in_store(exchange: Exchange, records: list[Record], wanted: set[str]) -> dict[str, int]:
    """The same of an object store: path -> bytes."""
    ended = [record.job.trial_id for record in records if record.finished]
    going = [STAGES, *(f"{trial_path(name)}/{EPOCHS}" for name in ended)]
    going += [f"{trial_path(name)}/{schema.ARTIFACT_WEIGHTS}" for name in ended if name not in wanted]
    found = {**exchange.sizes(STAGES), **exchange.sizes(TRIALS)}
    sums = {
        path: sum(size for file, size in found.items() if file == path or file.startswith(f"{path}/"))
        for path in going
    }
    return {path: size for path, size in sums.items() if size}


def _folder(folder: Path, record: Record) -> Path:
    """The trial's folder where the sweep is now (it may have been moved)."""
    return folder / "trials" / record.job.trial_id
