"""Starts or joins Ray, and runs the conductor's jobs on it; only ``searcher`` beside it knows Ray too."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcp_core.cachedir import cache_folder
from gcp_core.errors import ConfigError, first_line
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver.capacity import Capacity, bundles
from sweeps.driver.nodes import (
    check_reach,
    check_resources,
    check_shared,
    data_paths,
    demands,
    idle_gpus,
    own_packages,
    wrong_clocks,
)
from sweeps.records.job import Job
from sweeps.storage.objects import store_problem
from sweeps.worker.node import Node, check_nodes, describe

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_log = logging.getLogger(__name__)
_MIB = 2**20
_ATTEMPTS = 3
#: A node that does not answer within this many seconds is of no use.
_PROBE_S = 60

#: What a trial's process is started with. glibc keeps big blocks (7-10 % faster steps); one arena, because every trial
#: of a reused actor runs in a new thread and a new arena each would grow the process by hundreds of MB per trial.
WORKER_ENV = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1024 * _MIB),
    "MALLOC_TRIM_THRESHOLD_": str(4096 * _MIB),
    "MALLOC_TOP_PAD_": str(256 * _MIB),
    # A trial without a GPU sees none. Left alone, Ray hides none from it, and all such trials would share the first.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
#: Ray's name for: other machines may join, so do not listen on loopback alone. It concerns Linux as well.
_REACHABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_HOW_TO_JOIN = (
    "is this a machine of the cluster (`ray start --head`, `ray start --address=HEAD:6379`)? without --address the sweep"
    " starts a Ray of its own"
)
#: How the driver wants Ray to behave.
_DRIVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # we have our own writer; these cost as much as Tune itself
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # one line of ours instead of a traceback
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # its snapshots are never read
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@contextlib.contextmanager
def ray_cluster(config: SweepConfig, address: str | None) -> Iterator[None]:
    """A Ray connection for the duration of the ``with`` block: a private local one, or the cluster at ``address``.

    A connection that exists already is used and left open.

    Raises:
        ConfigError: no cluster there, too few CPUs or GPUs, or a node without our code, the data or the storage.
    """
    for name, value in _DRIVER_ENV.items():
        os.environ.setdefault(name, value)
    import ray

    ours = not ray.is_initialized()
    if ours:
        _connect(config, address)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        check_resources(config, nodes)
        if idle := idle_gpus(config, nodes):
            _log.warning("%s", idle)
        if len(nodes) > 1:
            named = [(node["NodeManagerAddress"], node["NodeID"]) for node in nodes]
            if config.store is None:
                check_shared(config.storage, lambda path: _sees(named, path))
            else:
                check_reach(config.store, _store_problems(config.store, named))
            paths, packages = data_paths(config), own_packages(config)
            asked = time.time()
            found = _describe_all(named, paths, packages)
            for sentence in wrong_clocks(asked, found, time.time()):
                _log.warning("%s", sentence)
            check_nodes(describe("the driver", paths, packages), found)
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(config: SweepConfig, address: str | None) -> None:
    env = {
        **WORKER_ENV,
        "OMP_NUM_THREADS": str(config.resources.cpus),
        "MKL_NUM_THREADS": str(config.resources.cpus),
    }
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if address is not None:
        _join(address, env, quiet)
    else:
        _start_private(config.resources.cpus, env, quiet)


def _join(address: str, env: Mapping[str, str], quiet: Mapping[str, Any]) -> None:
    """Connect to a running cluster; its workers get ``env``."""
    if address.startswith("ray://"):
        # Tune would run on the cluster, with a copy of what only this process has.
        raise ConfigError(
            f"{address}: the driver has to run on a machine of the cluster, not beside it (Ray Client)",
            "--address",
            "start it there, with --address auto, or with `ray job submit`",
        )
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(address=address, runtime_env={"env_vars": dict(env)}, **quiet)
    except (ConnectionError, ValueError, RuntimeError, RayError) as exc:
        reason, hint = f"{address}: {first_line(exc)}", _HOW_TO_JOIN
        # There since Ray 2.52; what it says ends in a page of advice.
        if type(exc).__name__ == "AuthenticationError":
            reason = f"{address}: {exc.args[0]}"
            hint = "~/.ray/auth_token or RAY_AUTH_TOKEN is where Ray looks for it"
        raise ConfigError(f"cannot connect to a Ray cluster: {reason}", "--address", hint) from exc


def _start_private(cpus: int, env: Mapping[str, str], quiet: Mapping[str, Any]) -> None:
    """Start a Ray of our own on this machine, with room for a trial that takes so many CPUs."""
    import psutil  # comes with Ray
    import ray

    # It inherits the environment. It starts a process for a trial when there is one: in advance it would start as many as
    # the machine has cores, and another one for each that is taken.
    # A relative cache folder would be another one in the folder of every trial.
    env = {
        **env,
        _REACHABLE: "0",
        "RAY_prestart_worker_first_driver": "0",
        "GCP_CACHE_DIR": str(cache_folder()),
    }
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        cpus = max(cpus, len(os.sched_getaffinity(0)))
        for _ in range(_ATTEMPTS):
            earlier = _ray_processes()
            try:
                with _loopback(), _lean():
                    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
                return
            except Exception as exc:  # Ray raises a bare Exception when its processes are not up within 30 s
                ray.shutdown()
                if "timed out during startup" not in str(exc):
                    raise
            # ray.shutdown() knows nothing of a start that failed: its processes would slow down the next one.
            for process in _ray_processes() - earlier:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            _log.warning("Ray did not start in time, because this machine is busy; trying again")
        load = ", ".join(f"{value:.0f}" for value in os.getloadavg())
        raise ConfigError(
            f"Ray did not start in {_ATTEMPTS} x 30 s; load of the machine: {load}",
            "Ray on this machine",
            "wait until the machine is less busy, or give the --address of a cluster",
        )
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """A Ray started meanwhile listens on 127.0.0.1 alone, as it does by default on a Mac.

    Its own setting (:data:`_REACHABLE`) is read when Ray is imported, which may have been long ago; a node address of
    127.0.0.1 given to ``ray.init`` is replaced by the machine's.
    """
    try:
        from ray._private import ray_constants

        replaced = _replaced(ray_constants, ENABLE_RAY_CLUSTER=False)
    except (ImportError, AttributeError):
        _log.warning("this version of Ray listens on all of the machine's addresses; its token protects it")
        replaced = contextlib.ExitStack()
    with replaced:
        yield


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """A Ray started meanwhile goes without what serves to look at a cluster, to enlarge it or to show its output.

    Those are three processes, 100 MB each, for which ``ray.init`` waits: the dashboard's server (it starts without a
    dashboard, too), the autoscaler's monitor, and the one that carries the workers' output to the driver. Ray's nodes
    can do without them, but ``ray.init`` has no setting for it.
    """
    with contextlib.ExitStack() as replaced:
        # Another version of Ray: it starts what it likes.
        with contextlib.suppress(ImportError, AttributeError):
            from ray._private import parameter, services

            options = functools.partialmethod(
                parameter.RayParams.__init__, no_monitor=True, include_log_monitor=False
            )
            replaced.enter_context(_replaced(parameter.RayParams, __init__=options))
            replaced.enter_context(_replaced(services, start_api_server=lambda *args, **kwargs: ("", None)))
        yield


def _replaced(place: Any, **values: Any) -> contextlib.ExitStack:
    """Sets attributes of ``place`` to other values; leaving the ``with`` block sets them back."""
    stack = contextlib.ExitStack()
    for name, value in values.items():
        stack.callback(setattr, place, name, getattr(place, name))
        setattr(place, name, value)
    return stack


def _ray_processes() -> set[Any]:
    """Processes of Ray's that this one has started (psutil objects; two of one process are equal)."""
    import psutil  # comes with Ray

    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("/ray/" in word or word.startswith("ray::") for word in process.cmdline()):
                found.add(process)
    return found


def _on(node_id: str, function: Callable[..., Any]) -> Any:
    """A task that runs ``function`` on that node and nowhere else."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=strategy)


def _ask_all(
    nodes: list[tuple[str, str]], function: Callable[..., Any], *args: Any
) -> list[tuple[str, Any, str]]:
    """Call ``function`` on all nodes at once: (name, answer, error); an error is one line, empty = it answered."""
    import ray

    task = [(name, _on(node_id, function).remote(*args)) for name, node_id in nodes]
    ray.wait([answer for _, answer in task], num_returns=len(task), timeout=_PROBE_S)
    answers = []
    for name, answer in task:
        try:
            answers.append((name, ray.get(answer, timeout=0.1), ""))
        except Exception as exc:  # our code or a package is missing there, or it does not answer
            answers.append((name, None, (str(exc).strip() or type(exc).__name__).splitlines()[-1]))
    return answers


def _sees(nodes: list[tuple[str, str]], path: str) -> list[tuple[str, bool]]:
    """(node's name, whether that path exists there); a node that does not answer sees nothing."""
    return [(name, bool(answer)) for name, answer, _ in _ask_all(nodes, os.path.exists, path)]


def _store_problems(url: str, nodes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, error or answer) for name, answer, error in _ask_all(nodes, store_problem, url)]


def _describe_all(nodes: list[tuple[str, str]], paths: list[str], packages: list[str]) -> list[Node]:
    """What the nodes report about themselves."""
    return [
        dataclasses.replace(answer, name=name) if answer is not None else Node(name, error=error)
        for name, answer, error in _ask_all(nodes, describe, "", paths, packages)
    ]


class WorkersLost(Exception):
    """Tune has given up: it does not survive when Ray ends workers because memory ran out. ``jobs`` were running then."""

    def __init__(self, reason: str, jobs: Sequence[Job]) -> None:
        super().__init__(reason)
        self.jobs = tuple(jobs)


def run_on_ray(conductor: Conductor, folder: Path, runner: str) -> None:
    """Run the conductor's jobs until it has no more (or wants to stop).

    Raises:
        WorkersLost: workers were ended in a way that Tune does not handle; the sweep can be continued.
    """
    import ray
    from ray import tune
    from ray.exceptions import RayError

    from sweeps.driver.attempts import NO_LIMIT, Attempts
    from sweeps.driver.searcher import ConductorSearcher, ConductorStopper
    from sweeps.worker.trial import tune_trainable

    resources = conductor.config.resources
    scratch = folder / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)  # of an earlier driver; a sweep continues from its ledger
    trainable = tune.with_resources(tune_trainable, tune.PlacementGroupFactory(**bundles(conductor.config)))
    searcher = ConductorSearcher(conductor, runner, demands(conductor.config).to_json())
    capacity = Capacity(conductor.config, ray.nodes, _log.warning)
    with warnings.catch_warnings(), _quiet("ray.tune", "ray.air"):
        warnings.simplefilter("ignore")
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=Attempts(searcher, resources.retries),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="experiment",
                storage_path=str(scratch.absolute()),
                stop=ConductorStopper(conductor, capacity.look),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=NO_LIMIT),
            ),
        )
        try:
            tuner.fit()
        except RuntimeError as exc:
            if not isinstance(exc.__cause__, RayError) or not conductor.active:
                raise
            if not conductor.interrupted:  # else the user has ended it, and another round would go on
                raise WorkersLost(first_line(exc.__cause__), conductor.active) from exc
    shutil.rmtree(scratch, ignore_errors=True)


def _trial_name(trial: Trial) -> str:
    return str(trial.config["trial_id"])


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Inside the block, only errors of these loggers reach the terminal."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
