"""Train a chosen snapshot of a path for one more long cycle: a new model of the sweep, ``t0007@3+30``.

Runs in this process, while no driver does. The model is kept first, then entered in the ledger, then written to MLflow;
if it is interrupted, the same command finishes it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcp_core.errors import CheckpointError, ConfigError, required
from gcp_core.schema import ARTIFACT_WEIGHTS, ModelName, polish_place, snapshot_artifact, snapshot_place
from sweeps.commands.models import record_of, snap_of, snapshots_of
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver.launch import publish
from sweeps.driver.preflight import check_disk, check_tracking
from sweeps.records import spool
from sweeps.records.database import driver_lock
from sweeps.records.folder import Entry, existing_entry
from sweeps.records.job import Outcome, Record, Snap
from sweeps.records.journal import repair_journal
from sweeps.records.layout import DATABASE, JOURNAL, trial_path
from sweeps.records.ledger import Ledger
from sweeps.records.provenance import collect
from sweeps.records.tenure import Tenure
from sweeps.storage.lock import request_stop, run_lock, stop_requested
from sweeps.storage.objects import store_errors
from sweeps.storage.place import Place, bring_home, open_sweep
from sweeps.strategy.judging import dense_costs, judge_snapshot, waits_for_baseline
from sweeps.tracking.writer import open_writer
from sweeps.worker.gpu import in_place_of_trials

EPOCHS = "train.epochs"


@dataclass(frozen=True)
class Polish:
    """The result.

    Attributes:
        model, snapshot: names of the polished model and of what it was made of.
        status: ``complete``, ``infeasible``, or ``interrupted`` (call again to continue).
        finals, before: final values of both.
        trained_epochs: by this call; 0 = the model already existed.
        unwritten: entries that MLflow did not accept; the same command writes them.
        sweep: its folder, as a command takes it.
    """

    model: str
    snapshot: str
    status: str
    folder: str
    finals: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    weights_sha256: str = ""
    trained_epochs: int = 0
    unwritten: int = 0
    sweep: str = ""

    def text(self) -> str:
        """For people."""
        if self.status == "interrupted":
            return f"{self.model}: interrupted; the same command continues it"
        kept = f"{100 * (1 - self.finals['macs_removed']):.1f} % of the MACs"
        cost, before = self.finals["train_cost"], self.before["train_cost"]
        lines = [
            f"{self.model}: {self.finals['val_accuracy']:.2f} % validation accuracy at {kept}"
            f" ({self.snapshot}: {self.before['val_accuracy']:.2f} %)",
            f"  {cost:.1f} dense epochs of training, {cost - before:.1f} of them for the polish",
        ]
        if self.status != "complete":
            lines.append(f"  {self.status}: it violates a constraint of the sweep")
        if not self.trained_epochs:
            lines.append("  it already existed; nothing was trained")
        if self.unwritten:
            lines.append(f"  {self.unwritten} entries did not reach MLflow; the same command writes them")
        if not (Path(self.folder) / Path(ARTIFACT_WEIGHTS).name).exists():
            lines.append(f"  its weights were removed: gcp-sweep replay {self.sweep} {self.model}")
        lines += ["next:", f"  gcp-analyze export {self.sweep} --id {self.model} --out {self.model}"]
        return "\n".join(lines)


def epochs_of(overrides: Mapping[str, Any]) -> int:
    """How long to polish, from the arguments of the command line.

    Raises:
        ConfigError: it is missing or is not a whole number >= 1, or anything else is given.
    """
    other = sorted(set(overrides) - {EPOCHS})
    if other:
        raise ConfigError(
            "cannot be changed: polishing keeps the settings of the path",
            other[0],
            f"only {EPOCHS}=N",
        )
    epochs = overrides.get(EPOCHS)
    if epochs is None:
        raise ConfigError("there is no default number of epochs", EPOCHS, f"for instance {EPOCHS}=30")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"{epochs!r} is not a whole number >= 1", EPOCHS, f"for instance {EPOCHS}=30")
    return epochs


def polish(
    sweep: str | os.PathLike[str],
    model: str,
    epochs: int,
    report: Callable[[Any], None] | None = None,
) -> Polish:
    """Polish the snapshot ``model`` (``t0007@3``) of a sweep for ``epochs`` epochs, or continue that.

    Args:
        report: called after every epoch.

    Raises:
        ConfigError: no such snapshot, a driver runs the sweep, or the snapshot's weights were removed.
        CheckpointError: the snapshot is not what the ledger recorded.
        Diverged: loss or weights are not finite.
    """
    epochs_of({EPOCHS: epochs})
    place, name = open_sweep(sweep), ModelName.parse(model)
    with _held(place) as (ledger, entry):
        records = {kind: ledger.records(kind) for kind in ("trial", "baseline", "confirm")}
        taken = ledger.snapshots()
        record = record_of([record for kind in records.values() for record in kind], name, place.folder)
        _check_kind(record, name, [known.snap for known in taken.get(record.job.trial_id, ())])
        source = snap_of(record, taken, name)
        made = ledger.polished().get(name.trial, ())
        known = next((k.snap for k in made if (k.snap.level, k.snap.polish) == (name.level, epochs)), None)
        trained = 0
        check_tracking(place.config.tracking.uri)
        _check_database(place)
        if known is None:
            baseline = _baseline(place.config, record, records["baseline"], source)
            snap, trained = _train(place, record, source, epochs, report, ledger.tenure)
            if snap is None:
                return Polish(f"{name}+{epochs}", str(name), "interrupted", "", trained_epochs=trained)
            known = _enter(place, ledger, record, snap, baseline)
        unwritten = _write(place, ledger, entry, record, known)
    folder = place.folder / trial_path(name.trial) / snapshot_place(known.level, known.polish)
    return Polish(
        known.name(name.trial), str(name), known.status, str(folder), known.finals, source.finals,
        known.weights_sha256, trained, unwritten, shown_as(place),
    )  # fmt: skip


def shown_as(place: Place) -> str:
    """The sweep as a command takes it: its folder, also of one that is kept in a store."""
    return shlex.quote(str(place.folder))


@contextlib.contextmanager
def _held(place: Place) -> Iterator[tuple[Ledger, Entry]]:
    """Hold the sweep for this process, as its driver would."""
    folder, config = place.folder, place.config
    entry, tenure = existing_entry(folder), Tenure()
    with run_lock(folder, tenure), place.exchange.present(functools.partial(request_stop, folder)):
        with store_errors():
            bring_home(place.exchange)
        repair_journal(folder)
        with driver_lock(config.database, entry.id, tenure):
            ledger = Ledger(
                folder,
                config.name,
                config.search.objectives,
                url=config.database,
                sweep_id=entry.id,
                tenure=tenure,
            )
            yield ledger, entry


def _check_kind(record: Record, name: ModelName, taken: list[Snap]) -> None:
    """Refuse all but a path's own snapshots."""
    only = "only snapshots of paths (t0007@3) are polished"
    if name.polish:
        hint = f"polish {ModelName(name.trial, name.level)} for as many epochs as you want in all"
        raise ConfigError("is already polished", str(name), hint)
    if record.job.kind == "baseline":
        raise ConfigError(f"is the unpruned baseline: {only}", str(name))
    if record.job.kind == "confirm":
        raise ConfigError(f"is a confirmation run: {only}", str(name), "polish the model that it confirms")
    if not record.job.config.is_path:
        raise ConfigError(f"is a single trial: {only}", str(name), "train.schedule: cycles makes paths")
    if name.level is None:
        own = [snap for snap in taken if not snap.polish]
        raise ConfigError(f"is a path: {snapshots_of(name.trial, own)}", str(name), "name the one to polish")


def _check_database(place: Place) -> None:
    """The database that MLflow has in the driver's folder does not travel with an object store."""
    if place.config.tracking.uri is None and not (place.folder / DATABASE).exists():
        raise ConfigError(
            "the MLflow database of this sweep is not on this machine",
            str(place.folder / DATABASE),
            "polish on the machine of the sweep's driver",
        )


def _baseline(config: SweepConfig, record: Record, baselines: list[Record], source: Snap) -> Outcome | None:
    """The path's baseline, None where it has none that is complete and none is needed.

    Raises:
        ConfigError: the polished model could not be judged without it.
    """
    ended = (b for b in baselines if b.status == "complete" and b.key == record.job.baseline_key)
    found = next((Outcome("complete", b.finals) for b in ended), None)
    need = waits_for_baseline(
        config.search, Outcome("complete", source.finals), dense_costs(record.job.folder, source.finals)
    )
    if found is None and need:
        raise ConfigError(
            f"{need} needs the baseline, which has not ended yet",
            source.name(record.job.trial_id),
            "continue the sweep first",
        )
    return found


def _train(
    place: Place,
    record: Record,
    source: Snap,
    epochs: int,
    report: Callable[[Any], None] | None,
    tenure: Tenure,
) -> tuple[Snap | None, int]:
    """(the polished model, None if it was asked to stop; epochs trained)."""
    job, folder = record.job, place.folder / trial_path(record.job.trial_id)
    work = folder / polish_place(source.level, epochs)
    weights_at_hand(place, job.trial_id, source)
    check_disk(place.folder)
    from gcp_core.records.checkpoint import read_manifest  # these bring torch
    from gcp_core.training.polish import polish as train_on

    work.mkdir(parents=True, exist_ok=True)

    def epoch(row: Any) -> bool:
        tenure.check()
        spool.append(work, spool.stamp(spool.row_of(row)))
        if report is not None:
            report(row)
        return bool(stop_requested(place.folder))

    resources, wanted = place.config.resources, place.config.search.needs
    # What the training prints is for people; the standard output belongs to the answer.
    with in_place_of_trials(resources.gpus), contextlib.redirect_stdout(sys.stderr):
        done = train_on(
            job.config,
            folder / snapshot_place(source.level),
            epochs,
            report=epoch,
            checkpoint_dir=folder,
            devices=resources.gpus or None,
            latency=wanted("latency_ms") or wanted("latency_share"),
        )
        if done.model is None:
            return None, done.trained_epochs
        now = collect(job.config.threads) | {
            "data_digest": str(
                read_manifest(required(done.model.folder, "the model's folder"))["data_digest"]
            )
        }
    _spool_all(work, done.history)
    finals = {final: float(value) for final, value in done.model.finals.items()}
    digest = done.model.weights_sha256
    snap = Snap(source.level, done.model.epoch, finals, digest, polish=epochs, provenance=now)
    return snap, done.trained_epochs


def _spool_all(work: Path, history: Iterable[Any]) -> None:
    """The epochs of the finished model, whatever earlier calls had told of; each with its time, where that is known."""
    rows = spool.with_times(tuple(map(spool.row_of, history)), spool.rows(work))
    (work / spool.SPOOL).unlink(missing_ok=True)
    for row in rows:
        spool.append(work, row)


def weights_at_hand(place: Place, trial: str, source: Snap) -> None:
    """Make sure that the snapshot's model folder is here and has the weights that the ledger recorded.

    Raises:
        ConfigError: its weights were removed.
        CheckpointError: they are others.
    """
    from gcp_core.records.checkpoint import read_manifest, read_state

    name = source.name(trial)
    inside = snapshot_place(source.level, source.polish)
    with store_errors():
        place.exchange.fetch(f"{trial_path(trial)}/{inside}")
    folder = place.folder / trial_path(trial) / inside
    if not (
        place.folder / trial_path(trial) / snapshot_artifact(source.level, ARTIFACT_WEIGHTS, source.polish)
    ).exists():
        sweep = shlex.quote(place.exchange.url or str(place.folder))
        hint = f"gcp-sweep replay {sweep} {name} trains them again and puts them back"
        raise ConfigError("its weights were removed", name, hint)
    manifest = read_manifest(folder)
    read_state(folder, manifest)
    if manifest.get("weights_sha256") != source.weights_sha256:
        raise CheckpointError(
            "the weights are not those that the ledger recorded (SHA-256 differs)", str(folder)
        )


def _enter(place: Place, ledger: Ledger, record: Record, snap: Snap, baseline: Outcome | None) -> Snap:
    """Judge the model as any other, and enter it: in the store first, so that the ledger names nothing that is lost."""
    trial = trial_path(record.job.trial_id)
    with store_errors():
        place.exchange.send(
            f"{trial}/{polish_place(snap.level, snap.polish)}/{spool.SPOOL}",
            f"{trial}/{snapshot_place(snap.level, snap.polish)}",
        )
    snap, values, violations = judge_snapshot(place.config, record.job, snap, baseline)
    ledger.add_snapshot(record.job, snap, values, violations)
    with store_errors():
        place.exchange.send(JOURNAL)
    return snap


def _write(place: Place, ledger: Ledger, entry: Entry, record: Record, snap: Snap) -> int:
    """Write to MLflow what it lacks, renew front, tags and figures; how many entries it did not take."""
    writer = open_writer(place.config, place.folder, entry.id, place.exchange)
    writer.reconcile_snapshots([(record, snap)])
    status = {"complete": "FINISHED", "interrupted": "KILLED", "running": "KILLED"}.get(entry.state, "FAILED")
    unwritten = writer.close(None if ledger.tenure.lost else status)
    publish(place.folder)
    return unwritten
