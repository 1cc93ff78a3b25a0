"""SIGKILL of a worker and of the driver in the middle of a real sweep of paths: every snapshot is there once, unchanged.

``benchmarks/faults/path_kills.py`` is the same with ten kills at random moments.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import trial_logs
from gcp_core.records.checkpoint import read_manifest, read_state, weights_digest
from gcp_core.schema import SNAPSHOT, Tag, model_id
from gcp_core.training import run_trial
from sweeps.config.sweep_config import load_config
from sweeps.records.ledger import read_records, read_snapshots
from tests.integration import drivers
from tests.prepared import with_store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
#: Two paths of six snapshots, which share their dense phase.
TREE: dict[str, Any] = {
    "name": "killed",
    "data": {"name": "digits", "val_share": 0.25, "train_images": 300},
    "model": {"name": "vgg_tiny", "width": 0.25},
    "train": {"schedule": "cycles", "batch_size": 16},
    "prune": {
        "start": 2,
        "interval": {"choice": [2, 3]},
        "levels": [0.3, 0.5, 0.65, 0.8, 0.9],
        "min_channels": 1,
        "min_share": 0.03,
    },
    "search": {"sampler": "grid", "trials": None, "concurrency": 2, "min_gain": 0, "keep": "all"},
}
KILLS = 2


def _start(storage: Path) -> drivers.Driver:
    return drivers.start(drivers.PROGRAM, ["run", storage / "sweep.yaml"])


def _until(driver: drivers.Driver, condition: Callable[[], Any]) -> Any:
    """Wait for something to be seen on disk while the driver lives."""
    end = time.monotonic() + 600
    while not (seen := condition()):
        assert driver.poll() is None, f"the driver ended before it was to be killed:\n{driver.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.02)
    return seen


def _weights(folder: Path) -> dict[str, Path]:
    files = folder.glob("trials/t*/snapshots/[0-9]*/weights.pt")
    return {f"{file.parents[2].name}@{int(file.parent.name)}": file for file in files}


def _at_work(folder: Path) -> list[int]:
    """Processes that train a path now, by the paths' logs."""
    logs = [trial_logs.read(trial) for trial in sorted(folder.glob("trials/t*"))]
    pids = [log.attempts[-1].pid for log in logs if log.attempts and not log.attempts[-1].ended]
    return [pid for pid in pids if b"ray::" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_paths_whose_worker_and_driver_are_killed_have_every_snapshot_once_and_as_undisturbed(tmp_path):
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**TREE, "storage": str(tmp_path)}))
    folder = with_store(tmp_path / "killed")
    first = _start(tmp_path)
    try:
        _until(first, lambda: len(_weights(folder)) >= 2)
        (victim, *_) = _until(first, lambda: _at_work(folder))
        os.kill(victim, signal.SIGKILL)
        # The driver goes on by itself, with another process.
        _until(first, lambda: len(_weights(folder)) >= 6 and _at_work(folder))
        assert victim not in _at_work(folder)
    finally:
        first.kill()
        first.wait()
    before = {name: file.read_bytes() for name, file in _weights(folder).items()}
    for _ in range(2):  # the second one finds nothing to do
        last = _start(tmp_path)
        said = last.communicate(timeout=600)
        assert last.returncode == 0, said
    after = _weights(folder)
    assert all(after[name].read_bytes() == content for name, content in before.items())
    _check(tmp_path, folder)


def _check(storage: Path, folder: Path) -> None:
    from mlflow.tracking import MlflowClient

    objectives = load_config(storage / "sweep.yaml").search.objectives
    trials, baselines = read_records(folder, "killed", objectives)
    assert [record.status for record in [*baselines, *trials]] == ["complete"] * 3
    alone = {record.job.trial_id: run_trial(record.job.config) for record in trials}
    true = {model_id(t, s.level): s.weights_sha256 for t, result in alone.items() for s in result.snapshots}
    assert len(true) == 12

    ledger = [
        (model_id(trial, one.snap.level), one.snap.weights_sha256)
        for trial, taken in read_snapshots(folder, "killed", objectives).items()
        for one in taken
    ]
    assert sorted(ledger) == sorted(true.items())
    assert {
        name: weights_digest(read_state(file.parent, read_manifest(file.parent)))
        for name, file in _weights(folder).items()
    } == true

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("killed").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    snapshots = [run for run in runs if run.data.tags[Tag.KIND] == SNAPSHOT]
    assert Counter(run.data.tags[Tag.MODEL_ID] for run in snapshots) == Counter(list(true))
    for run in runs:
        if run.data.tags[Tag.KIND] == "trial":
            points = client.get_metric_history(run.info.run_id, "val/accuracy")
            epochs = len(alone[run.data.tags[Tag.TRIAL_ID]].history)
            assert sorted(point.step for point in points) == list(range(1, epochs + 1))

    logs = [trial_logs.read(trial) for trial in sorted(folder.glob("trials/*"))]
    assert sum(len(log.attempts) for log in logs) >= len(logs) + KILLS - 1, "nobody was interrupted"
    for log in logs:
        assert not log.snapshots_retrained
        assert max(log.epochs_repeated, default=0) <= 1, "more than the epoch under way"
