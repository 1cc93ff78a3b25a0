"""Real drivers on a real Ray that lose a sweep: killed at several points of real training, or taken over while paused."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from gcp_core.schema import Tag
from gcp_core.training import run_trial
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import read_entry
from sweeps.records.job import read_stop
from sweeps.records.ledger import read_records
from sweeps.storage.folder_sign import SIGN, sign_of
from tests.integration import drivers
from tests.prepared import with_store
from tests.sweeps.inline import TREE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

#: A driver that kills itself: argv = the config, when to do it. ``close NAME``: its outcome is on disk and not in the
#: ledger; ``epoch NAME N``: in the middle of its training; ``stop NAME``: right after the word that it shall end.
DRIVER = """
import json, os, signal, sys
from sweeps.conduct import conductor
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress
from sweeps.records.ledger import Ledger
what, name, epoch = (sys.argv[2].split() + ["", "", ""])[:3]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
close, write_stop = Ledger.close, conductor.write_stop

def closing(self, job, *args):
    if (what, name) == ("close", job.trial_id):
        die()
    close(self, job, *args)

def stopping(folder, stop):
    write_stop(folder, stop)
    if what == "stop" and folder.endswith(name):
        die()

class Progress(LineProgress):
    def epoch(self, job, row):
        if (what, name, epoch) == ("epoch", job.trial_id, str(int(row["epoch"]))):
            die()

Ledger.close, conductor.write_stop = closing, stopping
sweep = run(json.loads(sys.argv[1]), launch=Launch(progress=Progress(lambda text: print(text, flush=True))))
print(json.dumps({"state": sweep.state, "statuses": sweep.statuses}), flush=True)
"""

POINTS = [
    {"prune.interval": interval, "prune.ratio": ratio, "prune.target": target}
    for interval, ratio, target in [(1, 0.4, 0.6), (1, 0.4, 0.3), (2, 0.5, 0.5), (1, 0.3, 0.5), (1, 0.4, 0.5)]
]
REAL: dict[str, Any] = {
    "name": "killed",
    "data": {"name": "digits", "val_share": 0.25, "train_images": 300},
    "model": {"name": "vgg_tiny", "width": 0.25},
    "train": {"epochs": 4, "batch_size": 64},
    "prune": {
        "criterion": "l1",
        "interval": {"choice": [1, 2]},
        "ratio": {"low": 0.2, "high": 0.5, "step": 0.1},
        "target": {"low": 0.3, "high": 0.6, "step": 0.1},
    },
    # The cap is more than a target of 0.3 leaves: t0001 is stopped as soon as its events are over.
    "search": {
        "sampler": "random",
        "trials": len(POINTS),
        "points": POINTS,
        "concurrency": 2,
        "stopping": "rungs",
        "constraints": ["macs <= 62%"],
    },
}


def _run(script: str, *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a driver that ends by itself."""
    with drivers.start(script, arguments) as driver:
        try:
            output, errors = driver.communicate(timeout=400)
        finally:
            driver.kill()
        return driver.returncode, output, errors


def _children(folder: Path, name: str) -> tuple[Any, Any, list[Any]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    (parent,) = [run for run in runs if run.data.tags[Tag.KIND] == "sweep"]
    return client, parent, [run for run in runs if run is not parent]


def test_real_training_survives_kills_at_every_kind_of_moment_bit_by_bit(tmp_path: Path) -> None:
    """With shared training and early stopping on: what remains is what each trial would have become alone."""
    tree = {**REAL, "storage": str(tmp_path)}
    folder = with_store(tmp_path / "killed")
    for moment in ("close b0000", "stop t0001", "epoch t0003 3"):
        code, output, errors = _run(DRIVER, json.dumps(tree), moment)
        assert code == -signal.SIGKILL, f"{moment}: {output}{errors}"
    assert read_entry(folder).state == "running"
    code, output, errors = _run(DRIVER, json.dumps(tree), "")
    assert code == 0, errors
    assert json.loads(output.splitlines()[-1])["state"] == "complete", output

    trials, baselines = read_records(folder, "killed", load_config(tree).search.objectives)
    records = [*baselines, *trials]
    assert [record.job.trial_id for record in records] == [
        "b0000",
        *(f"t{n:04d}" for n in range(len(POINTS))),
    ]
    assert trials[1].status == "stopped"
    assert "can no longer keep macs <= 62%" in read_stop(trials[1].job.folder).reason
    complete = [record for record in records if record.status == "complete"]
    assert len(complete) >= 3
    assert {record.status for record in records} <= {"complete", "stopped", "infeasible"}
    for record in complete:
        alone = run_trial(record.job.config, checkpoint_dir=str(tmp_path / f"alone-{record.job.trial_id}"))
        assert alone.weights_sha256 == record.weights_sha256, record.job.trial_id
        assert alone.finals["val_accuracy"] == record.finals["val_accuracy"]

    client, parent, children = _children(folder, "killed")
    assert parent.info.status == "FINISHED"
    assert sorted(run.data.tags[Tag.TRIAL_ID] for run in children) == sorted(r.job.trial_id for r in records)
    assert {run.info.status for run in children} == {"FINISHED"}
    for run in children:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val/accuracy")]
        assert steps == list(range(1, len(steps) + 1)), run.data.tags[Tag.TRIAL_ID]


#: A driver on a file system without locks, on a machine of its own name: argv = the config, the name, where to pause.
ELSEWHERE = """
import errno, fcntl, json, os, signal, socket, sys
from sweeps.storage import folder_sign, lock
def no_locks(descriptor, how):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = no_locks  # of this process only: the trials' own locks are real
for module in (lock, folder_sign):
    module.socket = type("socket", (), {"gethostname": staticmethod(lambda: sys.argv[2])})
folder_sign.GONE_S = 1.0
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress

class Pausing(LineProgress):
    def epoch(self, job, row):
        if sys.argv[3] == f"{job.trial_id} {int(row['epoch'])}":
            print("paused", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)

launch = Launch(runner="tests.sweeps.fake_runner:run", check=lambda config: None,
                progress=Pausing(lambda text: print(text, flush=True)))
sweep = run(json.loads(sys.argv[1]), launch=launch)
print(json.dumps({"state": sweep.state, "message": sweep.message, "statuses": sweep.statuses}), flush=True)
"""


def test_a_paused_driver_is_taken_over_by_a_second_one_and_writes_nothing_when_it_wakes_up(
    tmp_path: Path,
) -> None:
    search = {"trials": 4, "concurrency": 1}
    tree = {**TREE, "storage": str(tmp_path), "train": {"epochs": 3}, "search": search}
    folder = with_store(tmp_path / "inline")
    first = drivers.start(ELSEWHERE, [json.dumps(tree), "machine-a", "t0001 2"])
    second = None
    try:
        assert any(line == "paused\n" for line in first.stdout), first.communicate()[1]
        assert json.loads((folder / SIGN).read_text())["host"] == "machine-a"
        end = time.monotonic() + 300
        while sign_of(folder).age_s < 1.0:  # a second driver asks within a moment of its start
            assert time.monotonic() < end
            time.sleep(0.05)
        second = drivers.start(ELSEWHERE, [json.dumps(tree), "machine-b", ""])
        while json.loads((folder / SIGN).read_text())["host"] != "machine-b":
            assert second.poll() is None, second.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.05)
        first.send_signal(signal.SIGCONT)
        output, errors = first.communicate(timeout=400)
        assert first.returncode == 0, errors
        ended = json.loads(output.splitlines()[-1])
        assert (ended["state"], ended["message"]) == ("interrupted", "another driver has taken over")
        output, errors = second.communicate(timeout=400)
        assert second.returncode == 0, errors
        assert json.loads(output.splitlines()[-1])["statuses"] == {"complete": 4}
    finally:
        for driver in filter(None, (first, second)):
            driver.kill()
            driver.communicate()

    trials, baselines = read_records(folder, "inline", load_config(tree).search.objectives)
    assert [record.status for record in [*baselines, *trials]] == ["complete"] * 5
    for record in [*baselines, *trials]:
        lines = (Path(record.job.folder) / "epochs.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3], record.job.trial_id
    entry = read_entry(folder)
    assert (entry.state, entry.trials) == ("complete", 4)
    _, parent, children = _children(folder, "inline")
    assert parent.info.status == "FINISHED"
    assert len(children) == 5
    assert {run.info.status for run in children} == {"FINISHED"}
    assert not (folder / SIGN).exists()
