"""A sweep kept in an object store (a real S3 server on loopback), on a real Ray: its driver's machine may be lost."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from gcp_core.schema import Tag
from gcp_core.training import run_trial
from sweeps.commands.status import sweep_status
from sweeps.config.sweep_config import load_config
from sweeps.records.layout import EPOCHS, STAGES
from sweeps.records.ledger import read_records
from sweeps.storage.objects import ObjectStore
from tests.integration import drivers
from tests.prepared import empty_store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
TRIALS = 4
DONE = {"state": "complete", "message": "", "statuses": {"complete": TRIALS}, "unwritten": 0}
DRIVER = """
import json, os, sys
import sweeps.storage.presence
from gcp_core.errors import ConfigError
sweeps.storage.presence.GONE_S = float(os.environ.get("GONE_S", sweeps.storage.presence.GONE_S))
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress
try:
    sweep = run(json.loads(sys.argv[1]), launch=Launch(progress=LineProgress(lambda text: print(text, flush=True))))
except ConfigError as exc:
    sys.exit(str(exc))
said = {"state": sweep.state, "message": sweep.message, "statuses": sweep.statuses, "unwritten": sweep.unwritten}
print(json.dumps(said), flush=True)
"""


def _tree(storage: str, machine: Path, tracking: Path) -> dict:
    return {
        "name": "remote",
        "data": {"name": "digits", "val_share": 0.25, "train_images": 300},
        "model": {"name": "vgg_tiny", "width": 0.25},
        "train": {"epochs": 4, "batch_size": 64},
        "prune": {
            "criterion": "l1",
            "interval": {"choice": [1, 2]},
            "ratio": {"choice": [0.2, 0.4]},
            "target": {"low": 0.3, "high": 0.6, "step": 0.1},
            "until": 1.0,
        },
        "search": {"trials": TRIALS, "concurrency": 1, "sampler": "random"},
        "storage": storage,
        "ledger": str(machine),
        "tracking": {"uri": f"sqlite:///{tracking}"},
    }


def _store(file: Path) -> Path:
    shutil.copy(empty_store(), file)
    return file


def _start(tree: dict, **more: str) -> drivers.Driver:
    """``GONE_S=0``: every other driver counts as gone at once."""
    return drivers.start(DRIVER, [json.dumps(tree)], **more)


def test_a_sweep_whose_drivers_machine_is_lost_goes_on_from_another_one(s3: str, tmp_path: Path) -> None:
    tracking = _store(tmp_path / "tracking.db")
    killed = _start(_tree(s3, tmp_path / "first", tracking))
    try:
        assert any(line.startswith("[2/") for line in killed.stdout), killed.communicate()[1]
    finally:
        killed.kill()  # SIGKILL, and nobody looks at its disk again
        killed.communicate()
    (tmp_path / "first").rename(tmp_path / "lost")

    tree = _tree(s3, tmp_path / "second", tracking)
    refused = _start(tree)
    assert "another driver is running the sweep: process" in refused.communicate(timeout=100)[1]
    assert refused.returncode == 1
    second = _start(tree, GONE_S="0")
    output, errors = second.communicate(timeout=400)
    assert second.returncode == 0, errors
    assert json.loads(output.splitlines()[-1]) == DONE

    checked = load_config(tree)
    folder, store = Path(checked.folder), ObjectStore(checked.store)
    trials, baselines = read_records(folder, "remote", checked.search.objectives)
    assert len({record.key for record in trials}) == TRIALS
    for record in [*baselines, *trials[:2]]:
        assert record.weights_sha256 == run_trial(record.job.config).weights_sha256
        assert store.sizes()[f"trials/{record.job.trial_id}/model/weights.pt"] > 0
    assert not [path for path in store.sizes() if path.startswith(STAGES) or f"/{EPOCHS}/" in path]
    assert sweep_status(checked.store).statuses == {"complete": TRIALS}
    _check_mlflow(tracking)


def test_a_driver_that_slept_while_another_finished_the_sweep_ends_and_changes_nothing(
    s3: str, tmp_path: Path
) -> None:
    # Each has a database of its own: who falls asleep within a transaction would lock out the other.
    sleeper = _start(_tree(s3, tmp_path / "first", _store(tmp_path / "first.db")))
    try:
        assert any(line.startswith("[1/") for line in sleeper.stdout), sleeper.communicate()[1]
        sleeper.send_signal(signal.SIGSTOP)
        tree = _tree(s3, tmp_path / "second", _store(tmp_path / "second.db"))
        second = _start(tree, GONE_S="0")
        output, errors = second.communicate(timeout=400)
        assert second.returncode == 0, errors
        assert json.loads(output.splitlines()[-1]) == DONE
        store = ObjectStore(load_config(tree).store)
        before = {path: store.read(path) for path in store.sizes() if "/model/" not in path}

        sleeper.send_signal(signal.SIGCONT)
        output, errors = sleeper.communicate(timeout=200)
        said = json.loads(output.splitlines()[-1])
        assert (said["state"], said["message"]) == ("interrupted", "another driver has taken over"), errors
    finally:
        sleeper.kill()
        sleeper.communicate()
    assert {path: store.read(path) for path in store.sizes() if "/model/" not in path} == before
    assert sweep_status(store.url).statuses == {"complete": TRIALS}
    _check_mlflow(tmp_path / "second.db")


def _check_mlflow(tracking: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tracking}")
    runs = client.search_runs([client.get_experiment_by_name("remote").experiment_id])
    kinds = Counter(run.data.tags[Tag.KIND] for run in runs)
    assert kinds == {"sweep": 1, "baseline": 1, "trial": TRIALS}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.data.tags[Tag.KIND] != "sweep":
            assert {"final/macs", "final/val_accuracy"} <= set(run.data.metrics)
    # Without a server MLflow's files lie on the driver's machine: those of the first one are gone with it.
    models = [client.list_artifacts(run.info.run_id, "model") for run in runs]
    assert any(models), "weights are fetched from the store for MLflow"
