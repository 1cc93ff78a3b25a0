"""``run``: starts a sweep, or continues it where it stopped; everything else in this package supports it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcp_core.config import TrialConfig, digest
from gcp_core.errors import ConfigError, first_line
from gcp_core.schema import Kind
from sweeps.conduct.baselines import known_drops
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import SweepConfig, load_config
from sweeps.driver.cluster import WorkersLost, ray_cluster, run_on_ray
from sweeps.driver.interrupts import interruptible
from sweeps.driver.preflight import (
    check_disk,
    check_ledger,
    check_space,
    check_storage,
    check_tracking,
    continued,
)
from sweeps.driver.progress import LineProgress
from sweeps.records import spool
from sweeps.records.database import database_errors, driver_lock
from sweeps.records.folder import Entry, read_entry, write_config, write_entry
from sweeps.records.job import Outcome, Record, read_outcome, write_outcome
from sweeps.records.journal import repair_journal
from sweeps.records.layout import CONFIG, DATABASE, ENTRY, JOURNAL, OUTCOME_FILE, trial_path
from sweeps.records.ledger import Ledger, SnapshotRecord, read_records, read_snapshots
from sweeps.records.studies import quiet_optuna
from sweeps.records.tenure import Tenure
from sweeps.storage.exchange import Exchange, open_exchange
from sweeps.storage.lock import request_stop, run_lock
from sweeps.storage.objects import store_errors
from sweeps.storage.place import bring_home, bring_trial, renamed
from sweeps.storage.states import clear_states
from sweeps.strategy.budget import ACCOUNT, Budget, already_spent, budget_of
from sweeps.strategy.stopping import Rungs
from sweeps.strategy.trunk import Trunk
from sweeps.tracking.store import is_gone, tracking_uri, write_new_place
from sweeps.tracking.writer import MlflowWriter, open_writer
from sweeps.worker.gpu import check_for, free_memory
from sweeps.worker.trial import DEFAULT_RUNNER

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """A sweep after ``run``. It can be passed wherever the path of its folder is expected.

    Attributes:
        state: ``complete`` (every trial ended), ``interrupted`` or ``failed``.
        message: why it is not complete, or which budget ended it; otherwise empty.
        statuses: how many trials ended how (baselines not counted); ``ended`` where the ledger's database is away.
        unwritten: number of entries that MLflow did not accept; the next ``run`` writes them.
        views: title -> address below the MLflow UI's own, of the sweep's ready-made views; empty where it opens none.
        feasible: how many of its finished models keep all constraints. A path leaves several, and may end as infeasible
            by its last one.
    """

    folder: Path
    name: str
    id: str
    tracking_uri: str
    parent_run_id: str
    state: str
    message: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    unwritten: int = 0
    views: dict[str, str] = field(default_factory=dict)
    feasible: int = 0

    def __fspath__(self) -> str:
        return str(self.folder)


@dataclass(frozen=True)
class Launch:
    """How to run a sweep (the config says what to run).

    Attributes:
        address: of a running Ray cluster; None = start a private one on this machine.
        new: start a new sweep beside an existing one of the same name.
        runner: ``package.module:function`` with the signature of ``gcp_core.training.run_trial``.
        check: checks a trial's config before anything is started (None = the core's own check).
        progress: a context manager with the methods of ``sweeps.conduct.listeners.Progress``.
    """

    address: str | None = None
    new: bool = False
    runner: str = DEFAULT_RUNNER
    check: Callable[[TrialConfig], None] | None = None
    progress: LineProgress | None = None


def run(
    config: str | os.PathLike[str] | Mapping[str, Any] | SweepConfig,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch | None = None,
) -> Sweep:
    """Run the sweep in ``storage/name``: finished trials are kept, the others run.

    Args:
        config: a YAML file, its content as a mapping, or a checked config.
        overrides: dotted path -> value (ranges included), set on top of ``config``.
        launch: where and how; by default on a private Ray on this machine.

    Raises:
        ConfigError, DataError, ModelError: before anything is written.
    """
    launch = launch or Launch()
    checked = config if isinstance(config, SweepConfig) else load_config(config, overrides)
    with store_errors():
        if launch.new:
            checked = renamed(checked)
        exchange = open_exchange(Path(checked.folder), checked.store)
        bring_home(exchange)
    checked = continued(checked)
    done = _already_complete(checked)
    if done is not None:
        return done
    check_storage(checked.folder, checked.store)
    check_disk(checked.folder)
    check_tracking(checked.tracking.uri)
    check_ledger(checked.database)
    _check_trials(checked, launch)
    losses: dict[str, tuple[int, int]] = {}
    order = _Order(checked, launch, exchange)
    while True:
        try:
            return _run_once(order)
        except WorkersLost as exc:
            # Every round counts for the jobs that were running, so there are only so many rounds.
            _log.warning("%s; the sweep continues from its ledger", exc)
            _give_up(exc, losses, checked.resources.retries, exchange)


def _give_up(loss: WorkersLost, losses: dict[str, tuple[int, int]], retries: int, exchange: Exchange) -> None:
    """Give up on a job that was running every time workers were lost and that made no progress.

    ``losses``: trial id -> (how often since its last epoch, that epoch).
    """
    for job in loss.jobs:
        bring_trial(exchange, trial_path(job.trial_id))
        epoch = max((int(row["epoch"]) for row in spool.rows(Path(job.folder))), default=0)
        times, before = losses.get(job.trial_id, (0, 0))
        times = times + 1 if epoch <= before else 1
        losses[job.trial_id] = (times, epoch)
        if times > retries and read_outcome(job.folder, job.part) is None:
            hint = "lower train.batch_size, search.concurrency or prune.scoring_images"
            error = f"its process was lost {times} times: {loss}; {hint}"
            write_outcome(job.folder, Outcome("lost", error=error, part=job.part))
            exchange.offer(f"{trial_path(job.trial_id)}/{OUTCOME_FILE}")


@dataclass(frozen=True)
class _Order:
    """What one call of :func:`run` is to do; ``attempts`` at baselines count over all its connections to Ray."""

    config: SweepConfig
    launch: Launch
    exchange: Exchange
    attempts: Counter[str] = field(default_factory=Counter)


def _run_once(order: _Order) -> Sweep:
    """One connection to Ray, from the ledger on."""
    checked, launch, exchange = order.config, order.launch, order.exchange
    with contextlib.ExitStack() as stack:
        if launch.address is not None:  # the cluster may refuse the storage, so before the folder exists
            stack.enter_context(ray_cluster(checked, launch.address))
        folder = Path(checked.folder)
        fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        tenure = Tenure()
        stack.enter_context(run_lock(folder, tenure))
        try:
            stack.enter_context(exchange.present(functools.partial(request_stop, folder)))
            with store_errors():
                bring_home(exchange)  # once more: from here on nobody else stores anything
            return _run_locked(order, tenure)
        except ConfigError:
            if fresh and not (folder / JOURNAL).exists() and checked.database is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _check_trials(config: SweepConfig, launch: Launch) -> None:
    gpus = config.resources.gpus
    for point, problem in check_space(config, launch.check or check_for(gpus)):
        _log.info("points like %s are not proposed: %s", point, problem)
    if launch.check is None:
        free_memory(gpus)  # on the driver's machine a trial may need it


def _already_complete(config: SweepConfig) -> Sweep | None:
    """Whether the sweep is finished and nothing new is requested; then neither Ray nor MLflow is needed."""
    entry = read_entry(Path(config.folder))
    if entry is None or entry.state != "complete" or not entry.parent_run_id:
        return None
    uri, folder = entry.tracking_uri or "", Path(config.folder)
    if config.tracking.uri not in (None, uri) or is_gone(uri, folder):
        return None  # MLflow has to be written there, from the ledger
    kinds: tuple[Kind, ...] = ("trial", "baseline", "confirm")
    trials, baselines, confirm = read_records(
        folder, config.name, config.search.objectives, kinds, config.database
    )
    message = entry.message if config.of_paths else ""
    if config.of_paths and entry.asked != digest(config.tree):
        return None  # a target, a trial or a gain more: whether that means work is the rule's to say
    if not config.of_paths and (
        entry.trials < config.num_trials() or entry.confirm_seeds < config.confirm.seeds
    ):
        message = already_spent(config, entry, trials, baselines, confirm)
        if not message:
            return None
    statuses = _statuses(trials, "complete")
    if uri.startswith("sqlite:") and (folder / DATABASE).is_file():
        write_new_place(folder, config.name)  # nobody else will, should the folder have been moved
        uri = tracking_uri(config.tracking.uri, folder)
    goals, paths = config.search.objectives, config.of_paths
    models = read_snapshots(folder, config.name, goals, config.database) if paths else {}
    done = Sweep(folder, entry.name, entry.id, uri, entry.parent_run_id, "complete", message, statuses)
    return dataclasses.replace(done, views=entry.views, feasible=_feasible(trials, models))


def _run_locked(order: _Order, tenure: Tenure) -> Sweep:
    config, launch, exchange = order.config, order.launch, order.exchange
    folder = exchange.root
    repair_journal(folder)
    entry = read_entry(folder)
    sweep_id = entry.id if entry is not None else uuid.uuid4().hex[:12]
    progress = launch.progress or LineProgress(_log.info)
    with contextlib.ExitStack() as stack:
        # Before anything of the sweep is touched: whoever holds the lock is at work with it.
        stack.enter_context(driver_lock(config.database, sweep_id, tenure))
        write_config(folder, config)
        # Opening MLflow (imports, a new database) and starting Ray take seconds each: side by side.
        opening = stack.enter_context(ThreadPoolExecutor(1)).submit(
            open_writer, config, folder, sweep_id, exchange
        )
        try:
            if launch.address is None:
                stack.enter_context(ray_cluster(config, None))
        except BaseException:
            with contextlib.suppress(Exception):
                opening.result().close("FAILED")
            raise
        writer = opening.result()
        run_ = writer.run
        before = entry
        entry = Entry(sweep_id, config.name, run_.uri, run_.experiment, run_.run_id, config.digest())
        lasting = None if "SLURM_JOB_ID" in os.environ else launch.address  # a job's own Ray ends with it
        entry = dataclasses.replace(entry, views=dict(run_.views), address=lasting)
        if before is not None:
            entry = dataclasses.replace(entry, **{name: getattr(before, name) for name in ACCOUNT})
        exchange.send(CONFIG)  # not before MLflow is open: a mistake there leaves nothing in the store
        _note(entry, exchange)
        goals = config.search.objectives
        ledger = Ledger(folder, config.name, goals, url=config.database, sweep_id=sweep_id, tenure=tenure)
        stack.enter_context(progress)
        return _conduct(order, ledger, writer, entry, progress)


def _note(entry: Entry, exchange: Exchange) -> None:
    """Write the sweep's entry, here and where the sweep is kept."""
    write_entry(exchange.root, entry)
    exchange.offer(ENTRY)


def _conduct(
    order: _Order, ledger: Ledger, writer: MlflowWriter, entry: Entry, progress: LineProgress
) -> Sweep:
    config, launch, exchange = order.config, order.launch, order.exchange
    folder = exchange.root
    _bring_up(writer, ledger)
    trunk = Trunk(shared=config.search.share and launch.runner == DEFAULT_RUNNER)
    impossible, rungs = _foresight(config, launch)
    budget = _budget(order, ledger, entry)
    writer.show_with(lambda: publish(folder))
    conductor = Conductor(
        config, ledger, writer, progress, impossible, trunk, rungs, budget, exchange, order.attempts
    )
    state, message, unwritten = "failed", "the driver ended with an error", 0
    try:
        state, message = _run_jobs(conductor, folder, launch.runner, progress)
    finally:
        status: str | None = {"complete": "FINISHED", "interrupted": "KILLED"}.get(state, "FAILED")
        if conductor.superseded:
            status = None  # the runs are the other driver's now
        else:
            for job in (*conductor.active, *conductor.waiting):
                writer.interrupted(job)
        unwritten = writer.close(status)
        # A sweep that MLflow has not seen to the end is continued once more, to write the rest.
        noted = "interrupted" if state == "complete" and unwritten else state
        if not conductor.superseded:
            exchange.offer(JOURNAL)
            last = dataclasses.replace(entry, **budget.account)
            last = dataclasses.replace(last, trials=conductor.total, confirm_seeds=conductor.confirm_seeds)
            last = dataclasses.replace(last, state=noted, message=message, asked=digest(config.tree))
            _note(last, exchange)
    if state == "complete":
        # Shared training has served its purpose; a sweep that is asked for more trials later trains it again.
        clear_states(
            exchange, [*ledger.records("baseline"), *ledger.records("trial"), *ledger.records("confirm")]
        )
    if conductor.done and not conductor.superseded:
        publish(folder)
    statuses, feasible = _counted(ledger, state, conductor.done)
    uri, run_id = writer.run.uri, writer.run.run_id
    return Sweep(
        folder, config.name, entry.id, uri, run_id, state, message, statuses, unwritten, entry.views, feasible
    )


def _counted(ledger: Ledger, state: str, done: int) -> tuple[dict[str, int], int]:
    """:func:`_statuses` and :func:`_feasible`; of a ledger whose database is away, how many have ended (``done``)."""
    try:
        trials, models = ledger.records("trial"), ledger.snapshots()
    except database_errors():
        return {"ended": done}, 0
    return _statuses(trials, state), _feasible(trials, models)


def _bring_up(writer: MlflowWriter, ledger: Ledger) -> None:
    """Let MLflow have what earlier drivers had no time to write."""
    baselines, others = ledger.records("baseline"), [*ledger.records("trial"), *ledger.records("confirm")]
    writer.reconcile([*baselines, *others], known_drops(baselines, others))
    writer.reconcile_snapshots(
        (record, known.snap)
        for models in (ledger.snapshots(), ledger.polished())
        for record in others
        for known in models.get(record.job.trial_id, ())
    )


def _budget(order: _Order, ledger: Ledger, entry: Entry) -> Budget:
    """The account of this driver, on top of the entry's; what it adds is noted there while the sweep is ours."""

    def save(account: Mapping[str, Any]) -> None:
        if not ledger.tenure.lost:
            _note(dataclasses.replace(entry, **account), order.exchange)

    return budget_of(order.config, entry, save)


def _run_jobs(conductor: Conductor, folder: Path, runner: str, progress: LineProgress) -> tuple[str, str]:
    """(state, message) of the sweep after all jobs have run, or after the user has interrupted it."""
    try:
        with quiet_optuna(), interruptible(conductor, progress):
            if conductor.has_work:
                run_on_ray(conductor, folder, runner)
    except KeyboardInterrupt:
        return "interrupted", "interrupted"
    if conductor.complete:
        conductor.conclude()
        return "complete", conductor.why_complete
    reason = conductor.stop_reason or conductor.missing
    return ("failed" if conductor.failed_alike else "interrupted"), reason


def _foresight(
    config: SweepConfig, launch: Launch
) -> tuple[Callable[[TrialConfig], bool] | None, Rungs | None]:
    """(which targets are out of reach, which trials end early).

    The core knows where a trial's cost will end; a runner of somebody else's does not have to agree.
    """
    if launch.runner != DEFAULT_RUNNER:
        return None, None
    from sweeps.strategy.feasibility import Feasibility

    feasibility = Feasibility(usual=config.search.sampler != "grid")
    stops = config.search.stopping != "none"
    return feasibility.impossible, Rungs(config.search, feasibility.project) if stops else None


def publish(folder: Path) -> None:
    """Let ``analysis`` tag the front and attach the figure; the sweep's own results do not depend on it."""
    try:
        from analysis.show.publish import publish as publish_front
    except ImportError as exc:
        _log.warning("the front was not published to MLflow: %s", exc)
        return
    shutil.rmtree(folder / ".analysis", ignore_errors=True)  # its copy of ended runs misses what came late
    try:
        publish_front(folder)
    except Exception as exc:  # a picture that cannot be drawn must not fail a finished sweep
        _log.warning("the front was not published to MLflow: %s: %s", type(exc).__name__, first_line(exc))


def _statuses(trials: list[Record], state: str) -> dict[str, int]:
    """How many trials ended how; those that the budget of a complete sweep withheld have not even begun."""
    return dict(Counter(record.status for record in trials if record.finished or state != "complete"))


def _feasible(trials: list[Record], snapshots: Mapping[str, Sequence[SnapshotRecord]]) -> int:
    """How many finished models keep the constraints; a path's are its snapshots, the last of which is its own model."""
    of_paths = sum(known.snap.status == "complete" for taken in snapshots.values() for known in taken)
    others = (record for record in trials if record.job.trial_id not in snapshots)
    return of_paths + sum(record.status == "complete" for record in others)
