"""On a real Ray: a trial that hangs or is preempted goes on elsewhere, one whose process is killed without any progress
is lost with a reason, `stop` ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sweeps.cli import main
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import read_entry
from sweeps.records.ledger import read_records
from sweeps.worker.watchdog import hung
from tests.integration import drivers
from tests.prepared import with_store
from tests.sweeps.inline import TREE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
POINTS = [{"prune.interval": i, "prune.ratio": 0.1, "prune.target": 0.5} for i in (1, 2, 3, 4)]

DRIVER = """
import json, sys
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress
launch = Launch(runner="tests.integration.sweeps.faulty_runner:faulty", check=lambda config: None,
                progress=LineProgress(lambda text: print(text, flush=True)))
sweep = run(json.loads(sys.argv[1]), launch=launch)
print(json.dumps({"state": sweep.state, "message": sweep.message}), flush=True)
"""


def _tree(storage: Path, hang_minutes: float | None) -> dict:
    search = {"trials": 4, "concurrency": 1, "points": POINTS, "sampler": "random"}
    resources = {"retries": 1, "hang_minutes": hang_minutes}
    return {**TREE, "storage": str(storage), "train": {"epochs": 4}, "search": search, "resources": resources}


def test_hanging_killed_and_endless_trials_and_a_stop_from_another_process(tmp_path: Path) -> None:
    tree = _tree(tmp_path, hang_minutes=0.3)
    folder = with_store(tmp_path / "inline")
    driver = drivers.start(DRIVER, [json.dumps(tree)])
    lines = []
    for line in driver.stdout:
        lines.append(line)
        if " t0002 lost" in line:
            break
    else:
        pytest.fail(driver.communicate()[1])
    done = CliRunner().invoke(main, ["stop", str(folder), "--wait", "300"])
    output, errors = driver.communicate(timeout=300)
    assert done.exit_code == 0, done.output
    assert "has ended; inline is interrupted" in done.stdout
    assert driver.returncode == 0, errors
    assert json.loads(output.splitlines()[-1]) == {
        "state": "interrupted",
        "message": "stopped with gcp-sweep stop",
    }
    assert read_entry(folder).state == "interrupted"
    trials, _ = read_records(folder, "inline", load_config(tree).search.objectives)
    assert [record.status for record in trials[:3]] == ["complete", "complete", "lost"]
    assert all(record.status == "running" for record in trials[3:])
    assert hung(trials[0].job.folder)
    for trial in trials[
        :2
    ]:  # the second lost its process three times and has one retry: every epoch renews it
        epochs = (Path(trial.job.folder) / "epochs.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in epochs] == [1, 2, 3, 4]
    assert trials[2].error.startswith(
        "lost in all 2 attempts after epoch 1, the last time because its process was killed"
    )
    text = CliRunner().invoke(main, ["status", str(folder), "--failed"]).stdout
    assert "t0002 lost: lost in all 2 attempts" in text
    assert "inline: interrupted (stopped with gcp-sweep stop)" in text
