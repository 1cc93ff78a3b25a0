"""A trial that hangs: its process ends, says where it stood, and the next attempt goes on from the last epoch."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from gcp_core.config import TrainConfig, TrialConfig
from sweeps.records.job import Job
from sweeps.storage.exchange import ObjectExchange, trial_exchange
from sweeps.storage.objects import ObjectStore
from sweeps.worker.trial import run_job
from sweeps.worker.watchdog import GRACE_S, HANG_FILE, Watchdog, hung
from tests.integration import drivers
from tests.sweeps import fake_runner

pytestmark = pytest.mark.integration

CHILD = """
import sys
import gcp_core.cost.latency  # torch takes its time, which is none of the trial's
import tests.sweeps.worker.test_watchdog
from sweeps.records.job import Job
from sweeps.worker.trial import run_job
run_job(Job.from_json(sys.argv[1]), "tests.sweeps.worker.test_watchdog:hangs_once", lambda row: None, hang_s=2.0)
"""


def hangs_once(config, *, report=None, checkpoint_dir=None):
    """The fake runner; its first attempt stands still after the second epoch."""
    resumed = (Path(checkpoint_dir) / "epochs.jsonl").exists()

    def passed_on(row):
        report(row)
        if row.epoch == 2 and not resumed:
            threading.Event().wait()

    return fake_runner.run(config, report=passed_on, checkpoint_dir=checkpoint_dir)


def _job(folder: Path) -> Job:
    return Job("t0007", "trial", 7, TrialConfig(train=TrainConfig(epochs=4)), {}, str(folder / "t0007"))


def test_a_process_whose_trial_hangs_ends_and_the_next_one_goes_on_from_its_last_epoch(
    tmp_path: Path,
) -> None:
    job = _job(tmp_path)
    first = drivers.run(CHILD, [job.to_json()])
    assert first.returncode == 1
    assert hung(job.folder)
    stack = (Path(job.folder) / HANG_FILE).read_text()
    assert stack.startswith("Timeout")
    assert "in passed_on" in stack
    outcome = run_job(job, "tests.sweeps.worker.test_watchdog:hangs_once", lambda row: None, hang_s=600)
    assert outcome.status == "complete"
    lines = (Path(job.folder) / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
    assert hung(job.folder), "what the first attempt wrote stays"


REMOTE = """
import sys
import gcp_core.cost.latency
import tests.sweeps.worker.test_watchdog
import sweeps.worker.watchdog
from pathlib import Path
from sweeps.records.job import Job
from sweeps.storage.exchange import trial_exchange
from sweeps.worker.trial import run_job
url, text, alone = sys.argv[1:]
if alone:  # as if a library held the interpreter's lock
    sweeps.worker.watchdog.GRACE_S = 0.5
    sweeps.worker.watchdog.Watchdog._end = lambda self: None
with trial_exchange(Path("/nowhere"), url) as exchange:
    runner = "tests.sweeps.worker.test_watchdog:hangs_once"
    run_job(Job.from_json(text), runner, lambda row: None, hang_s=2.0, exchange=exchange)
"""


@pytest.mark.parametrize("alone", ["", "alone"])
def test_where_a_trial_hung_is_known_in_the_store_and_its_temporary_folder_goes(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: str
) -> None:
    """At once, or where only the interpreter's timer was left, with the next trial on that node."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    job, store = _job(tmp_path), ObjectStore(s3)
    done = drivers.run(REMOTE, [s3, job.to_json(), alone])
    assert done.returncode == 1, done.stderr
    assert (store.read(f"trials/t0007/{HANG_FILE}") is None) == bool(alone)
    assert len(list((tmp_path / "tmp").glob("gcp-trial-*"))) == 1, "a killed process removes nothing"
    with trial_exchange(Path("/nowhere"), s3) as exchange, trial_exchange(Path("/nowhere"), s3) as beside:
        assert sorted((tmp_path / "tmp").glob("gcp-trial-*")) == sorted([exchange.root, beside.root])
    stack = store.read(f"trials/t0007/{HANG_FILE}").decode()
    assert stack.startswith("Timeout")
    assert "in passed_on" in stack
    at_driver = ObjectExchange(tmp_path / "driver", s3)
    at_driver.fetch("trials/t0007")
    assert hung(tmp_path / "driver" / "trials" / "t0007")


def test_a_trial_that_does_not_hang_leaves_no_file(tmp_path: Path) -> None:
    job = _job(tmp_path)
    assert run_job(job, "tests.sweeps.fake_runner:run", lambda row: None, hang_s=600).status == "complete"
    assert not (Path(job.folder) / HANG_FILE).exists()
    assert not hung(job.folder)


def test_the_count_starts_again_with_every_epoch_and_stands_while_the_driver_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda limit, **options: calls.append(limit))
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", lambda: calls.append("off"))
    with Watchdog(tmp_path, 60.0) as watchdog:
        with watchdog.pause():
            calls.append("driver")
        calls.append("epoch")
    # Each time it is armed, an earlier count ends first.
    later = 60.0 + GRACE_S
    assert calls == ["off", later, "off", "driver", "off", later, "epoch", "off"]


def test_a_limit_of_a_thousand_years_does_not_end_the_trial(tmp_path: Path) -> None:
    with Watchdog(tmp_path, 60 * 1e9) as watchdog, watchdog.pause():
        pass
    assert not hung(tmp_path)


def test_without_a_limit_nothing_is_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *a, **k: pytest.fail("armed"))
    with Watchdog(tmp_path, None) as watchdog, watchdog.pause():
        pass
    assert list(tmp_path.iterdir()) == []
