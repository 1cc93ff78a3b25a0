"""On a real Ray: trials of two processes, and one of them is killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gcp_core.training import run_trial
from sweeps.config.sweep_config import load_config
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress
from sweeps.records.ledger import read_records
from tests.gcp_core.training.team.test_team import Kept
from tests.prepared import with_store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    """Starts the second process of the trials that nobody disturbs, once."""
    start = Kept()
    yield start
    if start.members:
        start.end(10.0)


@pytest.mark.parametrize("spread", [False, True], ids=["on one node", "on two nodes"])
def test_a_trial_of_two_processes_goes_on_when_one_of_them_is_killed(
    tmp_path: Path, spread: bool, request: pytest.FixtureRequest, kept: Kept
) -> None:
    """Three steps an epoch: the second process of the first trial is killed in epoch 3."""
    address = request.getfixturevalue("cluster") if spread else None
    tree = {
        "name": "two",
        "storage": str(tmp_path),
        "data": {"name": "digits", "val_share": 0.25, "train_images": 96},
        "model": {"name": "vgg_tiny", "width": 0.125},
        "train": {
            "epochs": 4,
            "batch_size": 32,
            "processes": 2,
            "penalty": "tests.gcp_core.training.team.parts:KillsIn",
            "penalty_options": {"rank": 1, "once": str(tmp_path / "once")},
        },
        "prune": {
            "criterion": "l1",
            "interval": 1,
            "ratio": 0.1,
            "target": {"choice": [0.2, 0.25]},
            "until": 1.0,
        },
        "search": {
            "trials": 1,
            "concurrency": 1,
            "sampler": "random",
            "objectives": {"val_accuracy": "max", "macs": "min"},
        },
        "resources": {"cpus": 2, "retries": 1, "spread": spread},
    }
    folder = with_store(tmp_path / "two")
    lines: list[str] = []
    sweep = run(tree, launch=Launch(address=address, progress=LineProgress(lines.append)))
    assert sweep.state == "complete", lines
    baselines, trials = (
        [record for record in known if record.status == "complete"]
        for known in reversed(read_records(folder, "two", load_config(tree).search.objectives))
    )
    assert (len(baselines), len(trials)) == (1, 1)
    log = (Path(baselines[0].job.folder) / "trial.log").read_text()  # it is the first that is trained
    assert "process 1 of 2 is gone" in log
    assert "resumed after epoch 2" in log
    for record in (*baselines, *trials):
        config = record.job.config
        assert (config.train.processes, config.threads) == (2, 1)
        alone = run_trial(config, start=kept)  # the file is there: undisturbed
        assert alone.weights_sha256 == record.weights_sha256
