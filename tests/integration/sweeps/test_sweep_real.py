"""The whole sweep for real: Ray, an MLflow server process, the digits, pruning while training."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gcp_core.schema import Tag
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import load_config
from sweeps.driver.cluster import ray_cluster
from sweeps.driver.launch import Launch, Sweep, run
from sweeps.driver.progress import LineProgress
from sweeps.records.folder import write_config
from sweeps.records.job import Job
from sweeps.records.ledger import Ledger
from sweeps.tracking.writer import MlflowWriter, open_writer
from tests.sweeps.inline import drive

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
BROKEN = "tests.integration.sweeps.broken_criterion:build"
TREE: dict[str, Any] = {
    "name": "real",
    "data": {"name": "digits", "val_share": 0.25, "train_images": 300},
    "model": {"name": "vgg_tiny", "width": 0.25},
    "train": {"epochs": 3, "batch_size": 64},
    "prune": {
        "criterion": {"choice": ["l1", BROKEN]},
        "interval": 1,
        "ratio": {"choice": [0.2, 0.4]},
        "target": {"low": 0.3, "high": 0.6, "step": 0.1},
        "until": 1.0,
    },
}
#: More than a target of 0.3 leaves: such a trial is stopped after its first epoch.
CAP = "macs <= 62%"
#: One fails: a failing trial does not end the sweep.
POINTS = [
    {"prune.criterion": name, "prune.ratio": ratio, "prune.target": target}
    for name, ratio, target in [("l1", 0.4, 0.3), ("l1", 0.4, 0.6), (BROKEN, 0.4, 0.5), ("l1", 0.2, 0.3)]
]


@dataclass
class Server:
    uri: str
    process: subprocess.Popen[bytes]
    folder: Path

    def signal(self, number: int) -> None:
        """To the server and its workers."""
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Kill its process group, which was started for it; nothing in it is worth waiting for."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            self.signal(signal.SIGKILL)
        self.process.wait()

    def start_again(self) -> None:
        """A successor of one that has ended, on the same port, database and files."""
        store, port = self.folder / "server.db", int(self.uri.rpartition(":")[2])
        self.process = _start_server(self.folder, store, port).process


def _start_server(folder: Path, store: Path, port: int = 0) -> Server:
    """A real MLflow server on a loopback port (0 = a free one), its database (at first a copy of ``store``) and files in
    ``folder``.
    """
    if not (folder / "server.db").exists():
        shutil.copy(store, folder / "server.db")
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "files")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", process, folder)
    try:
        _wait_for(f"{server.uri}/health", process)
    except BaseException:
        server.end()
        raise
    return server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    server = _start_server(tmp_path_factory.mktemp("server"), empty_store)
    yield server
    server.end()


@pytest.fixture(scope="module")
def server(running: Server) -> str:
    return running.uri


@pytest.fixture(scope="module")
def connected(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The cluster's address, and for the sweeps that follow one connection to it: a driver uses one that there is."""
    with ray_cluster(load_config({**TREE, "storage": str(tmp_path_factory.mktemp("ray"))}), cluster):
        yield cluster


def _wait_for(url: str, process: subprocess.Popen[bytes], timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert process.poll() is None, "the MLflow server ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(url)


def _run(storage: Path, server: str, address: str, trials: int) -> tuple[Sweep, list[str]]:
    lines: list[str] = []
    search = {
        "trials": trials,
        "concurrency": 2,
        "points": POINTS,
        "sampler": "random",
        "constraints": [CAP],
        "stopping": "rungs",
        "rungs": [],
    }
    tree = {**TREE, "storage": str(storage), "search": search, "tracking": {"uri": server}}
    return run(tree, launch=Launch(address=address, progress=LineProgress(lines.append))), lines


def _runs(sweep: Sweep) -> tuple[Any, dict[str, Any]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(sweep.tracking_uri)
    experiment = client.get_experiment_by_name(sweep.name)
    runs = client.search_runs([experiment.experiment_id])
    names = Counter(run.info.run_name for run in runs)
    assert set(names.values()) == {1}, names
    return client, {run.info.run_name: run for run in runs}


def test_a_sweep_on_real_ray_and_a_real_server_is_complete_honest_and_can_be_continued(
    tmp_path: Path, server: str, cluster: str
) -> None:
    """It connects to the cluster by itself, twice."""
    sweep, lines = _run(tmp_path, server, cluster, 4)
    statuses = {"stopped": 2, "complete": 1, "failed": 1}
    assert (sweep.state, sweep.statuses, sweep.unwritten) == ("complete", statuses, 0)
    assert len(lines) == 5
    client, runs = _runs(sweep)
    assert set(runs) == {"real", "b0000", "t0000", "t0001", "t0002", "t0003"}
    _check_children(client, runs)

    longer, lines = _run(tmp_path, server, cluster, 6)
    assert (longer.id, longer.parent_run_id) == (sweep.id, sweep.parent_run_id)
    assert len(lines) == 2
    client, runs = _runs(longer)
    assert set(runs) == {"real", "b0000", *(f"t{number:04d}" for number in range(6))}
    _check_children(client, runs)
    assert runs["real"].info.status == "FINISHED"


def test_a_trial_whose_process_dies_is_lost_after_its_retries_and_the_others_go_on(
    tmp_path: Path, server: str, connected: str
) -> None:
    points = [{"prune.interval": interval} for interval in (1, 3, 4)]
    tree = {
        "name": "dying",
        "model": {"name": "dies"},
        "train": {"epochs": 2},
        "prune": {"interval": {"choice": [1, 3, 4]}},
        "search": {"trials": 3, "concurrency": 2, "points": points},
        "resources": {"retries": 1},
        "tracking": {"uri": server},
        "storage": str(tmp_path),
    }
    launch = Launch(address=connected, runner="tests.sweeps.fake_runner:run", check=lambda trial: None)
    sweep = run(tree, launch=launch)
    assert (sweep.state, sweep.statuses) == ("complete", {"complete": 2, "lost": 1})
    _, runs = _runs(sweep)
    lost = runs["t0001"]
    assert (lost.info.status, lost.data.tags[Tag.STATUS]) == ("FAILED", "lost")
    # Ray tells the exit code, or only that the connection broke: whichever of its two messages comes first.
    assert lost.data.tags[Tag.ERROR].startswith("lost in all 2 attempts, the last time because its process ")
    log = (tmp_path / "dying" / "trials" / "t0001" / "trial.log").read_text()
    assert log.count("t0001 starts in process") == 2


def test_a_server_that_hangs_for_a_while_costs_nothing_and_holds_nothing_twice(
    tmp_path: Path, running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, it still takes requests in and carries them out later: both the first try and its repetition."""
    lines: list[str] = []
    search = {"trials": 2, "concurrency": 2}
    tree = {"name": "hanging", "train": {"epochs": 3}, "search": search, "tracking": {"uri": running.uri}}
    checked = load_config({**tree, "prune": {"interval": {"choice": [1, 3]}}, "storage": str(tmp_path)})
    folder = Path(checked.folder)
    folder.mkdir()
    write_config(folder, checked)
    writer = open_writer(checked, folder, "fedcba987654")
    gave_up = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: (lines.append(record.getMessage()), len(lines) < 3 or gave_up.set())
    log = logging.getLogger("sweeps.tracking.writer")
    log.addHandler(handler)
    try:
        running.signal(signal.SIGSTOP)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        ledger = Ledger(folder, checked.name, checked.search.objectives)
        drive(Conductor(checked, ledger, writer, LineProgress(lines.append)))
        lines.clear()
        assert gave_up.wait(120), "the writer did not notice"
    finally:
        running.signal(signal.SIGCONT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        log.removeHandler(handler)
    assert writer.close("FINISHED", timeout_s=120) == 0
    client, runs = _runs(Sweep(folder, "hanging", "", running.uri, "", ""))
    assert set(runs) == {"hanging", "b0000", "t0000", "t0001"}
    for name in ("b0000", "t0000", "t0001"):
        assert runs[name].info.status == "FINISHED"
        for key in ("val/accuracy", "cost/macs"):
            assert [m.step for m in client.get_metric_history(runs[name].info.run_id, key)] == [1, 2, 3]
        assert len(client.get_metric_history(runs[name].info.run_id, "final/macs")) == 1


def test_a_server_that_is_gone_for_good_costs_nothing_once_there_is_one_again(
    tmp_path: Path, running: Server, connected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a sweep; the next driver writes to its successor on the same database."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    search = {"trials": 3, "concurrency": 1}
    tree = {"name": "gone", "train": {"epochs": 3}, "search": search, "tracking": {"uri": running.uri}}
    tree |= {"prune": {"interval": {"choice": [1, 3, 4]}}, "storage": str(tmp_path)}
    killer, runner = KillsTheServer(running), "tests.sweeps.fake_runner:run"
    launch = Launch(address=connected, runner=runner, check=lambda trial: None, progress=killer)
    with (
        monkeypatch.context() as patch
    ):  # nobody will answer: half a minute of patience would only be waited out
        patch.setattr(MlflowWriter, "close", functools.partialmethod(MlflowWriter.close, timeout_s=2.0))
        sweep = run(tree, launch=launch)
    assert (sweep.state, sweep.statuses) == ("complete", {"complete": 3})
    assert sweep.unwritten > 0
    assert running.process.poll() is not None
    running.start_again()
    again = run(tree, launch=dataclasses.replace(launch, progress=None))
    assert (again.state, again.unwritten, again.id) == ("complete", 0, sweep.id)
    client, runs = _runs(again)
    assert set(runs) == {"gone", "b0000", "t0000", "t0001", "t0002"}
    for name, child in runs.items():
        assert child.info.status == "FINISHED"
        if name != "gone":
            points = client.get_metric_history(child.info.run_id, "val/accuracy")
            assert [point.step for point in points] == [1, 2, 3]
            assert child.data.metrics["final/macs"] > 0


class KillsTheServer(LineProgress):
    """Kills the tracking server, workers and all, when the first trial has ended."""

    def __init__(self, server: Server) -> None:
        super().__init__(lambda text: None)
        self._server = server

    def finished(self, job: Job, outcome: Any, done: int, total: int) -> None:
        if done == 1 and self._server.process.poll() is None:
            self._server.end()


class KillsANode(LineProgress):
    """Kills the node on which a trial runs, while the trial reports its third epoch."""

    def __init__(self) -> None:
        super().__init__(lambda text: None)
        self.killed = ""

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        if job.kind == "trial" and row["epoch"] == 3 and not self.killed:
            self.killed = job.trial_id
            log = (Path(job.folder) / "trial.log").read_text()
            worker = int(log.split("starts in process ")[1].split(":")[0])
            stat = Path(f"/proc/{worker}/stat").read_text()
            raylet = int(stat.rsplit(")", 1)[1].split()[1])
            assert "raylet" in Path(f"/proc/{raylet}/cmdline").read_text()
            for process in (raylet, worker):
                os.kill(process, signal.SIGKILL)


def test_when_a_node_dies_its_trial_goes_on_elsewhere_from_its_last_epoch_pruned_as_it_was(
    tmp_path: Path, server: str, connected: str
) -> None:
    """The last test on this cluster: one of its two workers is gone afterwards."""
    search = {"trials": 1, "points": POINTS[:1], "sampler": "random"}
    prune = {**TREE["prune"], "interval": 1, "ratio": {"choice": [0.2, 0.4]}}
    tree = {**TREE, "name": "node-death", "prune": prune, "train": {"epochs": 5, "batch_size": 64}}
    killer = KillsANode()
    launch = Launch(address=connected, progress=killer)
    sweep = run(
        {**tree, "storage": str(tmp_path), "search": search, "tracking": {"uri": server}}, launch=launch
    )
    assert (sweep.state, sweep.statuses, killer.killed) == ("complete", {"complete": 1}, "t0000")
    log = (tmp_path / "node-death" / "trials" / "t0000" / "trial.log").read_text()
    before, after = log.split("t0000 starts in process")[1:]
    assert "removed" in before.split("epoch 2/5")[0], "it was to be pruned before its node died"
    assert "resumed after epoch 2" in after
    client, runs = _runs(sweep)
    for key in ("cost/macs", "val/accuracy"):
        points = client.get_metric_history(runs["t0000"].info.run_id, key)
        assert [point.step for point in points] == [1, 2, 3, 4, 5]


def _check_children(client: Any, runs: dict[str, Any]) -> None:
    baseline = runs["b0000"].data.metrics
    assert baseline["final/macs_removed"] == 0.0
    for name, child in runs.items():
        if name == "real":
            continue
        tags, metrics = child.data.tags, child.data.metrics
        assert tags[Tag.PARENT] == runs["real"].info.run_id
        assert tags[Tag.KIND] == ("baseline" if name.startswith("b") else "trial")
        files = {artifact.path for artifact in client.list_artifacts(child.info.run_id)}
        if child.data.params.get("prune.criterion") == BROKEN:
            assert (child.info.status, tags[Tag.STATUS]) == ("FAILED", "failed")
            assert tags[Tag.ERROR].startswith("RuntimeError: broken on purpose")
            assert {"trial.log", "traceback.txt", "config.yaml"} <= files
            continue
        stopped = child.data.params.get("prune.target") == "0.3"
        assert (child.info.status, tags[Tag.STATUS]) == ("FINISHED", "stopped" if stopped else "complete")
        if stopped:
            assert tags[Tag.ERROR] == f"stopped after epoch 1: can no longer keep {CAP}"
        assert {"model", "config.yaml", "trial.log"} <= files
        model = {artifact.path for artifact in client.list_artifacts(child.info.run_id, "model")}
        assert model == {"model/weights.pt", "model/manifest.json"}
        drop = baseline["final/val_accuracy"] - metrics["final/val_accuracy"]
        assert metrics["final/accuracy_drop"] == pytest.approx(drop)
        steps = [m.step for m in client.get_metric_history(child.info.run_id, "cost/macs")]
        assert steps == ([1] if stopped else [1, 2, 3])
