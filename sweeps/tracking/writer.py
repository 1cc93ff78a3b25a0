"""Writes the sweep to MLflow: one parent run, one child per trial, from one thread of the driver, in batches.

Trial processes never see MLflow. What cannot be written now is kept and tried again; what could not be written before
the driver ended is written by the next ``run``, from the ledger and the trials' folders, at the time at which it
happened. Every point has a fixed time, so a batch whose answer was lost can be sent again: the store keeps one row.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gcp_core import schema
from gcp_core.errors import ConfigError, GcpError, first_line
from gcp_core.schema import FINALS, PER_EPOCH, STATUSES, Tag
from sweeps.config.sweep_config import SweepConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Record, Snap
from sweeps.records.layout import trial_path
from sweeps.records.provenance import git_sha, tags
from sweeps.storage.exchange import Exchange
from sweeps.storage.weights import why_dropped
from sweeps.tracking.children import Child, SweepRun, children_of, describe, ended, epochs_of, why_rests
from sweeps.tracking.parent import open_parent
from sweeps.tracking.refusals import Refusals
from sweeps.tracking.snapshots import SnapshotRuns
from sweeps.tracking.store import tracking_uri, write_new_place

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

_MODEL_FILES = (schema.ARTIFACT_WEIGHTS, schema.ARTIFACT_MANIFEST)
_TEXT_FILES = (schema.ARTIFACT_CONFIG, schema.ARTIFACT_LOG, schema.ARTIFACT_TRACEBACK)
_PAUSE_S = 0.2
_MAX_BACKOFF_S = 5.0
#: Writing epochs takes at most this share of the driver's time, as long as that delays none by more than ...
_FLUSH_SHARE, _MAX_GATHER_S = 0.02, 2.0
_TAG_LENGTH = 5000
#: Note, figures and tags of the front are renewed this often at most, and for at most this share of the time.
_SHOW_EVERY_S = 300.0
_SHOW_SHARE = 0.02
#: So long after its deadline a writer that is still at work is waited for; the request in hand has time-outs of its own.
_GRACE_S = 60.0


class MlflowWriter:
    """Implements ``sweeps.conduct.listeners.Tracker``; every call returns at once, a thread writes.

    Build it with :func:`open_writer`. :meth:`close` must be called; it says how many entries are still unwritten.
    ``busy_s`` is the CPU time of the thread so far.
    """

    def __init__(
        self,
        client: MlflowClient,
        run: SweepRun,
        children: dict[str, Child],
        exchange: Exchange | None = None,
    ) -> None:
        self.run = run
        self._exchange = exchange
        self._client = client
        self._refusals = Refusals()
        self._snapshots = SnapshotRuns(client, run, exchange, self._refusals)
        self._children = children
        self._sha = git_sha()
        self._entries: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._metrics: dict[str, list[tuple[str, float, int, int]]] = {}
        self._deadline = math.inf
        self._closing = threading.Event()
        self._unwritten = 0
        self._anchors = ""
        self._show: Callable[[], None] | None = None
        self._show_every_s = self._show_after = math.inf
        self._doubtful = False
        self.busy_s = 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    # --- called by the conductor ----------------------------------------------------------------------------------

    def started(self, job: Job) -> None:
        now = _now_ms()
        self._entries.put(lambda: self._start(job, now))

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        now = _now_ms()
        self._entries.put(lambda: self._epoch(job, row, now))

    def snapshot(self, job: Job, snap: Snap) -> None:
        now = _now_ms()
        self._entries.put(lambda: self._snapshot(job, snap, now))

    def dropped(self, trial_id: str, level: int, why: str) -> None:
        self._entries.put(lambda: self._snapshots.drop(trial_id, level, why))

    def finished(self, job: Job, outcome: Outcome) -> None:
        now = _now_ms()
        self._entries.put(lambda: self._finish(job, outcome, now))

    def late(self, job: Job, finals: dict[str, float], epoch: int) -> None:
        now = _now_ms()
        self._entries.put(lambda: self._late(job, finals, epoch, now))

    def front(self, hypervolume: float, complete: int, stand_in: str = "") -> None:
        now = _now_ms()
        key, run_id = schema.FRONT_HYPERVOLUME, self.run.run_id
        self._entries.put(
            lambda: self._client.log_metric(run_id, key, hypervolume, timestamp=now, step=complete)
        )
        anchors = f"{stand_in} until a baseline ends" if stand_in else "baseline"
        if anchors != self._anchors:
            self._anchors = anchors
            self._entries.put(lambda: self._client.set_tag(run_id, Tag.ANCHORS, anchors))
        self._entries.put(self._show_front)

    def show_with(self, show: Callable[[], None], every_s: float = _SHOW_EVERY_S) -> None:
        """Call ``show`` in the writer's thread, after a trial, but not more often than every ``every_s`` seconds."""
        self._show, self._show_every_s = show, every_s
        self._show_after = time.monotonic() + every_s

    def interrupted(self, job: Job) -> None:
        """The job's process is being ended; the sweep can be continued."""
        self._entries.put(lambda: self._interrupt(job))

    def reconcile(self, records: Iterable[Record], known_drops: Mapping[str, float]) -> None:
        """Bring MLflow up to the ledger: write what an earlier driver had no time to write."""
        for record in records:
            child = self._children.get(record.job.trial_id)
            if record.status == "running":
                continue
            if child is None or child.lacks(record):
                self._entries.put(functools.partial(self._catch_up, record))
            drop = known_drops.get(record.job.trial_id)
            known = None if child is None else child.finals.get("accuracy_drop")
            # A path that continued has lost more since.
            if drop is not None and (known is None or (record.job.config.is_path and known != drop)):
                self.late(record.job, {"accuracy_drop": drop}, int(record.finals.get("epochs", 0)))

    def reconcile_snapshots(self, known: Iterable[tuple[Record, Snap]]) -> None:
        """The same for the snapshots that the ledger holds."""
        held, now = list(known), _now_ms()
        self._entries.put(lambda: self._catch_up_snapshots(held, now))

    def close(self, status: str | None, timeout_s: float = 30.0) -> int:
        """End the parent run (None: it is another driver's), write what is queued; the number of entries unwritten.

        A server that is too slow is not waited for longer than ``timeout_s`` and a minute: what is left is counted.
        """
        now = _now_ms()
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        if status is not None:
            end = functools.partial(self._client.set_terminated, self.run.run_id, status=status, end_time=now)
            self._entries.put(self._remove_doubles)
            self._entries.put(end)
        self._entries.put(None)
        self._thread.join(timeout_s + _GRACE_S)
        return self._unwritten + (self._abandon() if self._thread.is_alive() else 0)

    def _abandon(self) -> int:
        """Let the thread begin nothing more; how many entries it leaves, with the one that it is at."""
        left = self._entries.unfinished_tasks - 1  # the last one only ends the thread
        with contextlib.suppress(queue.Empty):
            while True:
                self._entries.get_nowait()
        self._entries.put(None)
        return max(left, 1)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        entry = self._entries.get()
        while entry is not None:
            self._persist(entry)
            self._entries.task_done()
            if self._entries.empty():
                before = self.busy_s
                self._persist(self._flush)
                # Gather a batch, one request per run instead of one per epoch; for longer where requests are dear.
                gather_s = min(max(_PAUSE_S, (self.busy_s - before) / _FLUSH_SHARE), _MAX_GATHER_S)
                self._closing.wait(gather_s)
            entry = self._entries.get()
        self._persist(self._flush)

    def _persist(self, entry: Callable[[], object]) -> None:
        """Do it; if MLflow does not answer, wait and try again, until the deadline that ``close`` sets."""
        pause = _PAUSE_S
        while True:
            start = time.thread_time()
            try:
                with self._refusals:
                    entry()
                break
            except Exception as exc:  # anything MLflow raises: it must never end the sweep
                if time.monotonic() > self._deadline:
                    self._refusals.add(exc)
                    break
                _log.warning(
                    "MLflow did not accept an entry; trying again in %.1f s: %s", pause, first_line(exc)
                )
            finally:
                self.busy_s += time.thread_time() - start
            time.sleep(pause)
            pause = min(2 * pause, _MAX_BACKOFF_S)
        why = self._refusals.take()
        if why is not None:
            self._unwritten += 1
            _log.error("not written to MLflow: %s", first_line(why))

    def _catch_up(self, record: Record) -> None:
        """Write what the ledger and the trial's folder know about a trial that has ended."""
        self._child(record.job, record.started_ms or _now_ms())
        self._finish(record.job, ended(record), record.ended_ms or _now_ms())

    def _catch_up_snapshots(self, held: list[tuple[Record, Snap]], now: int) -> None:
        for record, snap in held:
            if not self._snapshots.has(record.job, snap):
                with self._refusals:
                    self._snapshot(record.job, snap, now)
            why = why_dropped(Path(record.job.folder).parents[1], record.job.trial_id, snap.level)
            if why:
                with self._refusals:
                    self._snapshots.drop(record.job.trial_id, snap.level, why)

    def _start(self, job: Job, now: int) -> None:
        child = self._child(job, now)
        # A path that an earlier driver let rest continues.
        if child.status == "FINISHED" and not child.epochs:
            child.epochs = epochs_of(self._client, child.run_id)
        for row in spool.rows(Path(job.folder)):  # epochs of an earlier driver that did not reach MLflow
            self._epoch(job, row, now)
        if child.status != "RUNNING":
            self._client.update_run(child.run_id, status="RUNNING")
            self._client.set_tag(child.run_id, Tag.STATUS, "running")
            child.status, child.said = "RUNNING", "running"

    def _create(self, job: Job, now: int) -> Child:
        try:
            run = self._client.create_run(
                self.run.experiment_id, start_time=now, tags=self._tags(job), run_name=job.trial_id
            )
        except Exception:
            self._doubtful = True  # the server may have made it all the same
            raise
        child = self._children[job.trial_id] = Child(run.info.run_id, "RUNNING")
        return child

    def _remove_doubles(self) -> None:
        if self._doubtful:
            children_of(self._client, self.run)
        self._snapshots.settle(self._deadline)

    def _tags(self, job: Job) -> dict[str, str]:
        return {
            Tag.SWEEP_ID: self.run.sweep_id,
            Tag.SWEEP_NAME: self.run.name,
            Tag.TRIAL_ID: job.trial_id,
            Tag.CONFIG_ID: job.config.config_id(),
            Tag.SEED: str(job.config.seed),
            Tag.KIND: job.kind,
            Tag.STATUS: "running",
            Tag.GIT_SHA: self._sha,
            Tag.SCHEMA: schema.SCHEMA_VERSION,
            Tag.PARENT: self.run.run_id,
        }

    def _find(self, job: Job) -> Child | None:
        """Find a run that was created although its answer was lost, or by an earlier driver."""
        found = children_of(self._client, self.run, f" and tags.`{Tag.TRIAL_ID}` = '{job.trial_id}'")
        self._children.update(found)
        return found.get(job.trial_id)

    def _child(self, job: Job, now: int) -> Child:
        child = self._children.get(job.trial_id) or self._find(job) or self._create(job, now)
        describe(self._client, child, job, self._refusals)
        return child

    def _epoch(self, job: Job, row: Mapping[str, float], now: int) -> None:
        child = self._child(job, now)
        epoch = int(row["epoch"])
        if epoch in child.epochs:
            return
        child.epochs.add(epoch)
        at = int(row.get(spool.AT, now))
        for key in PER_EPOCH:
            if key in row:
                self._metrics.setdefault(child.run_id, []).append((key, float(row[key]), at, epoch))

    def _flush(self) -> None:
        from mlflow.entities import Metric

        for run_id in list(self._metrics):
            with self._refusals:  # the other runs' metrics should not wait behind these
                self._client.log_batch(run_id, metrics=[Metric(*values) for values in self._metrics[run_id]])
            del self._metrics[run_id]

    def _finish(self, job: Job, outcome: Outcome, now: int) -> None:
        from mlflow.entities import RunTag

        child = self._child(job, now)
        for row in outcome.history:
            self._epoch(job, row, now)
        step = outcome.last_epoch
        # A path that continued is worth what its last snapshot is: written once more, at a later step.
        moved = job.config.is_path and outcome.finals.get("epochs") != child.finals.get("epochs")
        finals = [
            (FINALS[name].key, float(value), now, step)
            for name, value in outcome.finals.items()
            if (moved or name not in child.finals) and math.isfinite(value)
        ]
        self._metrics.setdefault(child.run_id, []).extend(finals)
        self._flush()
        known = {Tag.STATUS: outcome.status, **tags(outcome.weights_sha256, outcome.provenance)}
        if outcome.error or child.erred:
            known[Tag.ERROR] = outcome.error[:_TAG_LENGTH]
        if job.config.is_path:
            known |= {Tag.ENDED: outcome.ended, Tag.DECISION: why_rests(job, outcome)[:_TAG_LENGTH]}
        with self._refusals:
            self._client.log_batch(child.run_id, tags=[RunTag(name, value) for name, value in known.items()])
        self._log_files(child.run_id, job)
        status = STATUSES[outcome.status].mlflow
        self._client.set_terminated(child.run_id, status=status, end_time=now)
        child.status, child.said, child.erred = status, outcome.status, bool(outcome.error)
        child.finals |= outcome.finals
        self._compare(job, outcome.finals, now)

    def _snapshot(self, job: Job, snap: Snap, now: int) -> None:
        self._snapshots.write(self._child(job, now).run_id, job, snap, self._tags(job), now)

    def _show_front(self) -> None:
        """Let ``analysis`` renew the parent's note and figures; a driver that ends does it once more itself."""
        start = time.monotonic()
        if self._show is None or start < self._show_after or self._deadline < math.inf:
            return
        self._flush()
        self._show()
        took = time.monotonic() - start
        self._show_after = time.monotonic() + max(self._show_every_s, took / _SHOW_SHARE)

    def _log_files(self, run_id: str, job: Job) -> None:
        folder = Path(job.folder)
        if self._exchange is not None and not (folder / schema.ARTIFACT_WEIGHTS).exists():
            self._exchange.fetch(f"{trial_path(job.trial_id)}/{schema.ARTIFACT_WEIGHTS}")
        for name in (*_MODEL_FILES, *_TEXT_FILES):
            file = folder / name
            if file.is_file():
                into = str(Path(name).parent) if "/" in name else None
                with self._refusals:  # such as one too large: the run ends with its status all the same
                    self._client.log_artifact(run_id, str(file), into)

    def _late(self, job: Job, finals: Mapping[str, float], epoch: int, now: int) -> None:
        child = self._child(job, now)
        for name, value in finals.items():
            self._metrics.setdefault(child.run_id, []).append((FINALS[name].key, float(value), now, epoch))
            child.finals[name] = float(value)
        self._compare(job, {"val_accuracy": child.finals.get("val_accuracy", math.nan), **finals}, now)

    def _compare(self, job: Job, finals: Mapping[str, float], now: int) -> None:
        """What a path lost says what its baseline has, and so what each of its snapshots lost."""
        baseline = finals.get("accuracy_drop", math.nan) + finals.get("val_accuracy", math.nan)
        if job.config.is_path and math.isfinite(baseline):
            self._snapshots.compare(job.trial_id, baseline, now)

    def _interrupt(self, job: Job) -> None:
        child = self._children.get(job.trial_id)
        if child is not None and child.status == "RUNNING":
            self._flush()
            self._client.set_terminated(child.run_id, status="KILLED")
            child.status = "KILLED"


def open_writer(
    config: SweepConfig, folder: Path, sweep_id: str, exchange: Exchange | None = None
) -> MlflowWriter:
    """Create database, experiment and parent run where they are missing, read the children, start the thread.

    ``exchange`` fetches the weights of trials that do not see ``folder``.

    Raises:
        ConfigError: the tracking server refuses, or the store cannot be opened.
    """
    # A server that is away must not block the driver for the minutes MLflow would wait by default.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    uri = tracking_uri(config.tracking.uri, folder)
    for name in ("alembic", "mlflow.store"):  # they announce every step of making a database
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if config.tracking.uri is None:
            write_new_place(folder, config.name)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        run = open_parent(client, config, folder, sweep_id, uri)
        return MlflowWriter(client, run, children_of(client, run), exchange)
    except GcpError:
        raise
    except Exception as exc:
        verb = "used" if isinstance(exc, (MlflowException, OSError)) else "opened"
        raise ConfigError(f"MLflow cannot be {verb}: {first_line(exc)}", "tracking.uri", uri) from exc


def _now_ms() -> int:
    return int(time.time() * 1000)
