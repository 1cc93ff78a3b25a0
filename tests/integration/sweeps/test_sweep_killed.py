"""SIGKILL of a real driver on a real Ray, and `run` again: nothing lost, nothing twice, nothing left running."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from gcp_core.schema import Tag
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import read_entry
from sweeps.records.ledger import read_records
from tests.integration import drivers
from tests.prepared import with_store
from tests.sweeps.inline import TREE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
TRIALS, EPOCHS = 8, 5
#: The fake runner sleeps this long per epoch.
EPOCH_S = 0.15

DRIVER = """
import json, sys
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress
tree = json.loads(sys.argv[1])
launch = Launch(runner="tests.sweeps.fake_runner:run", check=lambda config: None,
                progress=LineProgress(lambda text: print(text, flush=True)))
sweep = run(tree, launch=launch)
print(json.dumps({"state": sweep.state, "statuses": sweep.statuses}), flush=True)
"""


def _tree(storage: Path) -> dict:
    search = {"trials": TRIALS, "concurrency": 1}
    return {
        **TREE,
        "storage": str(storage),
        "train": {"epochs": EPOCHS, "label_smoothing": EPOCH_S},
        "search": search,
    }


def _start(storage: Path) -> drivers.Driver:
    return drivers.start(DRIVER, [json.dumps(_tree(storage))])


def _children(storage: Path) -> list:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/inline/mlflow.db")
    experiment = client.get_experiment_by_name("inline")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags[Tag.KIND] == "sweep"]
    children = [run for run in runs if run.data.tags.get(Tag.PARENT) == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return children


def _until(driver: drivers.Driver, start: str) -> None:
    """Wait for a line of the driver's progress."""
    assert any(line.startswith(start) for line in driver.stdout), driver.communicate()[1]


def test_a_killed_and_an_interrupted_driver_lose_nothing_and_train_nothing_twice(tmp_path: Path) -> None:
    objectives = load_config(_tree(tmp_path)).search.objectives
    folder = with_store(tmp_path / "inline")

    killed = _start(tmp_path)
    try:
        _until(killed, "[3/")
    finally:
        killed.kill()  # SIGKILL
        killed.communicate()
    before, _ = read_records(folder, "inline", objectives)
    finished = [record.job.trial_id for record in before if record.finished]
    assert 3 <= len(finished) < TRIALS
    assert read_entry(folder).state == "running"

    interrupted = _start(tmp_path)
    _until(interrupted, "[5/")
    interrupted.send_signal(signal.SIGINT)
    output, errors = interrupted.communicate(timeout=400)
    assert interrupted.returncode == 0, errors
    assert "stopping; press Ctrl-C again to stop at once" in output
    assert json.loads(output.splitlines()[-1])["state"] == "interrupted"
    assert "RUNNING" not in {run.info.status for run in _children(tmp_path)}

    last = _start(tmp_path)
    output, errors = last.communicate(timeout=400)
    assert last.returncode == 0, errors
    assert json.loads(output.splitlines()[-1]) == {"state": "complete", "statuses": {"complete": TRIALS}}
    assert not any(f" {name} " in output for name in finished), "a finished trial was run again"
    _check_ledger_and_mlflow(tmp_path, objectives)


def _check_ledger_and_mlflow(storage: Path, objectives: dict[str, str]) -> None:
    folder = storage / "inline"
    trials, baselines = read_records(folder, "inline", objectives)
    assert [record.job.trial_id for record in trials] == [f"t{number:04d}" for number in range(TRIALS)]
    assert len({record.key for record in trials}) == TRIALS
    assert [record.status for record in [*baselines, *trials]] == ["complete"] * (TRIALS + 1)
    children = _children(storage)
    assert Counter(run.data.tags[Tag.TRIAL_ID] for run in children) == Counter(
        ["b0000", *(record.job.trial_id for record in trials)]
    )
    assert {run.info.status for run in children} == {"FINISHED"}
    finals = {"final/macs", "final/val_accuracy", "final/accuracy_drop"}
    assert all(finals <= set(run.data.metrics) for run in children)
    for record in [*baselines, *trials]:
        epochs = (Path(record.job.folder) / "epochs.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in epochs] == list(range(1, EPOCHS + 1)), (
            record.job.trial_id
        )
    assert read_entry(folder).state == "complete"
    assert not (folder / ".tune").exists()
