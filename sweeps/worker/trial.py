"""The Ray side of one trial: runs ``gcp_core.training.run_trial``, catches every error, and reports to the driver.

A trial that raises ends like any other function, so its process is reused by the next trial; only a process or node
that is gone is seen by Ray as an error, and started again from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from gcp_core import schema
from gcp_core.errors import ConfigError, GcpError, InfeasibleTarget, ProcessLost
from gcp_core.factory import load_factory
from gcp_core.redaction import RedactingFormatter, RedactingStream, clean, redact
from sweeps.records import spool
from sweeps.records.disk import is_away, is_full
from sweeps.records.job import (
    GOES_ON,
    Job,
    Outcome,
    Snap,
    read_outcome,
    read_rest,
    read_stop,
    write_outcome,
)
from sweeps.records.layout import EPOCHS, HANG_FILE, REST_FILE, STOP_FILE, trial_path
from sweeps.records.provenance import collect
from sweeps.storage.exchange import Exchange, trial_exchange
from sweeps.storage.lock import Holder, Superseded, trial_lock
from sweeps.worker.gpu import asserted, free_memory, keep_to_share, wait_for_memory, with_advice
from sweeps.worker.node import Demands
from sweeps.worker.processes import start_on_ray
from sweeps.worker.watchdog import Watchdog

DEFAULT_RUNNER = "gcp_core.training:run_trial"
#: Name of the one value in a Tune report: JSON of ``{"epoch": row}``, ``{"snapshot": snap}``, ``{"outcome": outcome}``,
#: ``{"full": place}`` (the disk is full) or ``{"unfit": sentence}`` (this node cannot train any); with the last two the
#: trial is not over.
PAYLOAD = "payload"
#: So long another node may take to see a folder that the driver has just made.
UNSEEN_S = 60.0
_log = logging.getLogger(__name__)

EpochSink = Callable[[dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Extra:
    """What only some trials need.

    Attributes:
        snapshot: receives every snapshot of a path, once it is kept; the driver's word on it is there when it returns.
        latency: snapshots' forward passes are timed, because an objective or a constraint asks for it.
        stage_bytes: how much shared training is kept; None = as much as is usual.
        start: starts the other processes of a trial that has several; None = the runner knows.
    """

    snapshot: Callable[[Snap], None] = lambda snap: None
    latency: bool = False
    stage_bytes: int | None = None
    start: Callable[[Any], Any] | None = None


def tune_trainable(config: dict[str, Any]) -> None:
    """What Ray Tune calls: ``config`` holds ``job`` (JSON), ``runner`` (``package.module:function``), ``demands`` (JSON,
    ``sweeps.worker.node``), ``share``, ``stage_bytes``, ``hang_s``, ``gpus``, ``store`` (the sweep's URL in an object
    store, None if its folder is shared) and ``generation`` (of the driver, ``sweeps.storage.presence``)."""
    from ray import tune

    def send(row: dict[str, float]) -> None:
        tune.report({PAYLOAD: json.dumps({"epoch": row})})

    def send_snapshot(snap: Snap) -> None:
        tune.report({PAYLOAD: json.dumps({"snapshot": snap.to_dict()})})

    job, store = Job.from_json(config["job"]), config.get("store")
    unfit = (_unseen(job) if store is None else "") or _unfit(config.get("demands", ""))
    if unfit:
        tune.report({PAYLOAD: json.dumps({"unfit": unfit})})
        return
    try:
        with trial_exchange(sweep_folder(job), store, config.get("generation", 0)) as exchange:
            outcome = run_job(
                job,
                config["runner"],
                send,
                share=config.get("share", True),
                hang_s=config.get("hang_s"),
                gpus=config.get("gpus", 0.0),
                holder=_this_node(),
                exchange=exchange,
                extra=Extra(
                    send_snapshot, config.get("latency", False), config.get("stage_bytes"), start_on_ray
                ),
            )
    except OSError as exc:
        if not is_full(exc):
            raise
        # Of a sweep in a store only this node's own disk can be full: the trial's folder is on it.
        place = job.folder if store is None else f"{tempfile.gettempdir()} on {os.uname().nodename}"
        tune.report({PAYLOAD: json.dumps({"full": place})})
        return
    tune.report({PAYLOAD: json.dumps({"outcome": outcome.to_json()})})
    if asserted(outcome.error):  # a process that raises is not given the next trial
        raise RuntimeError("this process can use its GPU for nothing more")


def _unseen(job: Job) -> str:
    """What to do if this node does not see the trial's folder, which the driver has made; empty = it does.

    Nodes that join a cluster later were not asked when the sweep started. A folder made here would be this node's alone:
    the ledger would know values of models that nobody finds.
    """
    end = time.monotonic() + UNSEEN_S
    while not Path(job.folder).is_dir():
        if time.monotonic() >= end:
            return (
                f"the node {os.uname().nodename} does not see {sweep_folder(job)}: all nodes must share the storage,"
                " those that join later too; mend or remove the node and run again: the sweep continues"
            )
        time.sleep(0.5)
    return ""


@functools.cache  # a process asks once
def _unfit(demands: str) -> str:
    """What to do if this node lacks what every node was asked for when the sweep started; empty = it lacks nothing.

    One that joins later would otherwise fail trial after trial within seconds, and so be given the next one.
    """
    name = os.uname().nodename
    lacking = Demands.from_json(demands).lacking(name) if demands else ""
    return lacking and (
        f"the node {name} has joined without what a trial needs: {lacking}; mend or remove the node and run again: the"
        " sweep continues"
    )


def _this_node() -> Holder:
    """Ray knows which nodes of its cluster are dead, long before a file server gives up waiting for them."""
    import ray

    here = ray.get_runtime_context()
    cluster = here.get_session_name()

    def gone(name: str) -> bool | None:
        node, _, its_cluster = name.partition(" of ")
        if its_cluster != cluster:
            return None  # an earlier cluster's, perhaps: whether it still writes nobody here can say
        return not any(known["Alive"] for known in ray.nodes() if known["NodeID"] == node)

    return Holder(f"{here.get_node_id()} of {cluster}", gone)


def run_job(
    job: Job,
    runner: str,
    sink: EpochSink,
    share: bool = True,
    hang_s: float | None = None,
    gpus: float = 0.0,
    holder: Holder | None = None,
    exchange: Exchange | None = None,
    extra: Extra | None = None,
) -> Outcome:
    """Run (or continue) a job in its folder; never raises because of the trial.

    Raises OSError if the disk is full, or it or the object store does not answer, and ProcessLost if one of several
    processes of the trial is gone: the job is then as unfinished as before.

    Args:
        runner: ``package.module:function`` with the signature of ``gcp_core.training.run_trial``.
        sink: receives one row per epoch: ``epoch`` and the per-epoch metrics.
        share: take over and leave behind training that the sweep's other trials have in common with this one.
        hang_s: end this process if an epoch takes longer than this many seconds; None = never.
        gpus: how many GPUs the job was given; their memory is waited for before it starts, and given back afterwards.
        holder: in whose name to hold the folder; None = nobody else is asked about it.
        extra: what only some trials need.
        exchange: where the job's files come from and go to; None = its folder is where everybody looks.

    The folder ends up with ``config.yaml``, ``trial.log``, ``outcome.json``, what the runner writes, and
    ``traceback.txt`` if it raised; the epochs' checkpoints go, unless it is a path that may continue.
    """
    exchange = exchange or Exchange(sweep_folder(job))
    job = exchange.here(job)
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with trial_lock(folder, holder=holder, lost=functools.partial(_end, job)) as held:
        done = read_outcome(folder, job.part)
        if done is not None:
            return done
        with _ends_if_superseded(job):
            exchange.claim(job, held)
        (folder / schema.ARTIFACT_CONFIG).write_text(
            yaml.safe_dump(clean(job.config.to_dict()), sort_keys=False)
        )
        with _captured(folder / schema.ARTIFACT_LOG):
            _log.info("%s starts in process %d: %s", job.trial_id, os.getpid(), job.point or "baseline")
            # Brings torch: the first trial of a process pays for it; neither its time nor the watchdog's does.
            from gcp_core.cost.latency import threads

            wait_for_memory(gpus)
            keep_to_share(gpus)
            cpu = time.process_time()
            said = [f"{trial_path(job.trial_id)}/{name}" for name in (HANG_FILE, schema.ARTIFACT_LOG)]
            last = functools.partial(exchange.offer, *said)
            with Watchdog(folder, hang_s, last) as watchdog, threads(job.config.threads):
                outcome = _run(job, runner, sink, share, watchdog, exchange, gpus, extra or Extra())
            if not asserted(outcome.error):
                free_memory(gpus)
            # Far below the trial's wall time: the machine was busy elsewhere.
            cpu_s = f"{time.process_time() - cpu:.2f}"
            known = collect(job.config.threads, folder) | {"cpu_seconds": cpu_s}
            outcome = dataclasses.replace(outcome, provenance=known)
            _log.info("%s ends: %s %s", job.trial_id, outcome.status, outcome.error)
        with _ends_if_superseded(job):
            exchange.check_owner()
        if outcome.status != "paused":
            write_outcome(folder, outcome)
        goes_on = outcome.ended in GOES_ON
        if not goes_on:  # the core removes them too, unless the trial raised
            shutil.rmtree(folder / EPOCHS, ignore_errors=True)
        with _ends_if_superseded(job):
            _send_trial(job, exchange)
        return outcome


def _run(
    job: Job,
    runner: str,
    sink: EpochSink,
    share: bool,
    watchdog: Watchdog,
    exchange: Exchange,
    gpus: float,
    extra: Extra,
) -> Outcome:
    from sweeps.storage.object_stages import open_stages  # brings torch

    start = time.perf_counter()
    folder = Path(job.folder)

    def report(epoch_report: Any) -> bool:
        with watchdog.pause(), _tolerated("whose the trial is stays open"), _ends_if_superseded(job):
            exchange.check_folder()  # before this epoch's checkpoint; what is in a store is asked before that is sent
        row = spool.stamp(spool.row_of(epoch_report))
        spool.append(folder, row)
        with watchdog.pause():  # the driver may take its time
            sink(row)
            # Tune lets a trial continue only after the driver has dealt with its report: the driver's word is there now.
            _fetch_word(job, STOP_FILE, exchange)
        return read_stop(folder) is not None

    def saved(checkpoint: Path) -> None:
        with watchdog.pause(), _tolerated("the checkpoint stays on this node"), _ends_if_superseded(job):
            exchange.send_state(job, checkpoint.name)

    def snapshot(taken: Any) -> bool:
        with watchdog.pause():
            with _tolerated("the snapshot stays on this node for now"), _ends_if_superseded(job):
                exchange.send(f"{trial_path(job.trial_id)}/{schema.SNAPSHOTS}/{taken.level:02d}")
            extra.snapshot(_snap(taken))
            # As with an epoch: the driver has dealt with it now.
            _fetch_word(job, REST_FILE, exchange)
        word = read_rest(folder)
        return word is not None and word.rest and word.level == taken.level

    try:
        function = load_factory(runner, "runner", ConfigError)
        wanted: dict[str, Any] = {"saved": saved, "devices": gpus or None, "snapshot": snapshot}
        wanted |= {"stages": open_stages(exchange, extra.stage_bytes)} if share else {}
        wanted |= {"latency": True} if extra.latency else {}
        wanted |= {"start": extra.start} if extra.start and job.config.train.processes > 1 else {}
        more = {name: value for name, value in wanted.items() if _takes(function, name)}
        result = function(job.config, report=report, checkpoint_dir=str(folder), **more)
    except ProcessLost as exc:  # Ray starts it again, from its last epoch
        _log.error("%s", exc)
        raise
    except Exception as exc:  # the trial may raise anything; the sweep continues
        # As with a lost process, the next attempt goes on from the last epoch.
        if is_full(exc) or is_away(exc):
            raise
        text = redact(traceback.format_exc())
        (folder / schema.ARTIFACT_TRACEBACK).write_text(text, encoding="utf-8")
        _log.error("%s", text)
        status = "infeasible" if isinstance(exc, InfeasibleTarget) else "failed"
        error = _out_of_memory(exc, job) or with_advice(describe(exc))
        seconds = time.perf_counter() - start
        return Outcome(status, {}, spool.rows(folder), error, seconds, part=job.part)
    return Outcome(
        status=result.status,
        finals={name: float(value) for name, value in result.finals.items()},
        history=spool.with_times(tuple(spool.row_of(entry) for entry in result.history), spool.rows(folder)),
        error=result.error or _why_stopped(result.status, folder),
        seconds=time.perf_counter() - start,
        weights_sha256=result.weights_sha256 or "",
        snapshots=tuple(map(_snap, getattr(result, "snapshots", ()))),
        ended=getattr(result, "ended", ""),
        part=job.part,
    )


def _snap(taken: Any) -> Snap:
    finals = {name: float(value) for name, value in taken.finals.items()}
    return Snap(taken.level, taken.epoch, finals, taken.weights_sha256)


def _why_stopped(status: str, folder: Path) -> str:
    stop = read_stop(folder) if status == "stopped" else None
    return "" if stop is None else stop.reason


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a runner has that parameter; one of the user's own need not share training between trials, say."""
    return name in inspect.signature(function).parameters


def sweep_folder(job: Job) -> Path:
    """The sweep's folder, where the driver is."""
    return Path(job.folder).parent.parent


def _fetch_word(job: Job, file: str, exchange: Exchange) -> None:
    with _tolerated("the driver's word is not known"):
        exchange.fetch_file(f"{trial_path(job.trial_id)}/{file}")


def _send_trial(job: Job, exchange: Exchange) -> None:
    """All that has come of the trial; of its epochs the newest where it may go on, and none in the store where not."""
    trial = trial_path(job.trial_id)
    exchange.send(trial, without=(EPOCHS,))
    kept = schema.by_number((Path(job.folder) / EPOCHS).glob("epoch_*"), "epoch_")
    if kept:
        exchange.send_state(job, kept[-1].name)
    else:
        exchange.remove(f"{trial}/{EPOCHS}")


@contextlib.contextmanager
def _ends_if_superseded(job: Job) -> Iterator[None]:
    """The trial was given to another process, which should not be disturbed: this one ends, and writes nothing more.

    Its node was silent for too long, or the driver that started it was.
    """
    try:
        yield
    except Superseded as exc:
        _end(job, exc)


def _end(job: Job, why: object = "its lock was broken") -> None:
    _log.error("%s was given to another process (%s); this one ends", job.trial_id, why)
    os._exit(1)


@contextlib.contextmanager
def _tolerated(consequence: str) -> Iterator[None]:
    """If the store does not answer, only what was to be sent is lost, not the trial."""
    try:
        yield
    except OSError as exc:
        _log.warning("%s: %s", consequence, exc)


def describe(exc: BaseException) -> str:
    """One sentence about an exception: our own errors as they are, others with the name of their type."""
    text = " ".join(str(exc).split())
    if isinstance(exc, GcpError):
        return text
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _out_of_memory(exc: BaseException, job: Job) -> str:
    """What to do if memory ran out; empty if it did not."""
    known = isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError"
    if not known and "can't allocate memory" not in str(exc):  # torch's word for it on a CPU
        return ""
    return (
        f"out of memory with train.batch_size={job.config.train.batch_size}; lower it, or search.concurrency"
        f" (trials on one machine share its memory): {describe(exc)}"
    )


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[None]:
    """Everything this process prints or logs meanwhile goes to ``path`` (appended: a resumed trial continues in it)."""
    root = logging.getLogger()
    level = root.level
    with path.open("a", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(min(level, logging.INFO) if level else logging.INFO)
        try:
            printed: Any = RedactingStream(file)
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                yield
        finally:
            root.setLevel(level)
            root.removeHandler(handler)
            sys.stdout.flush()
