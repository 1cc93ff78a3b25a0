"""What Tune is told to do about losses, without Ray's processes."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from ray.tune.search import Searcher
from sqlalchemy.exc import OperationalError

from sweeps.driver.losses import loss_reason
from sweeps.driver.searcher import ConductorSearcher, ConductorStopper
from sweeps.records.job import Outcome, Snap
from sweeps.records.tenure import Displaced
from sweeps.worker.trial import PAYLOAD
from tests.sweeps.fake_paths import finals_at
from tests.sweeps.inline import OF_PATHS, PATHS, RUNNER, config, drive, new_conductor


def test_a_loss_without_progress_says_since_when(tmp_path: Path) -> None:
    text = loss_reason("node has died", 3, tmp_path, epoch=5)
    assert text == "lost in all 3 attempts after epoch 5, the last time because its node died"


@pytest.mark.parametrize("where", ["start", "end", "loss"])
def test_a_driver_that_was_taken_over_ends_without_a_word_in_the_ledger(tmp_path: Path, where: str) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path))
    searcher = ConductorSearcher(conductor, RUNNER)
    if where != "start":
        searcher.suggest("x")

    def lost() -> None:
        raise Displaced("another driver has taken over")

    ledger.tenure.check = lost  # type: ignore[method-assign]
    before = (Path(conductor.config.folder) / "journal.log").read_bytes()
    if where == "start":
        assert searcher.suggest("x") is None
    elif where == "end":
        searcher.on_trial_complete("x", {PAYLOAD: json.dumps({"outcome": Outcome("complete").to_json()})})
    else:
        searcher.on_trial_complete("x", error=True)
    assert (conductor.interrupted, conductor.stop_reason) == (True, "another driver has taken over")
    assert (Path(conductor.config.folder) / "journal.log").read_bytes() == before


@pytest.mark.parametrize("how", ["lost", "complete"])
def test_a_full_disk_at_the_end_of_a_trial_is_advice_and_the_next_driver_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path))
    searcher = ConductorSearcher(conductor, RUNNER)
    searcher.suggest("x")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger, "close", full)
    if how == "lost":
        searcher.on_trial_complete("x", error=True)
    else:
        answer = Outcome("complete", {"val_accuracy": 95.0}).to_json()
        searcher.on_trial_complete("x", {PAYLOAD: json.dumps({"outcome": answer})})
    folder = conductor.config.folder
    assert conductor.interrupted
    assert conductor.stop_reason == (
        f"the disk of {folder} is full; make room and run again: the sweep continues"
    )
    assert [record.status for record in ledger.records("baseline")] == ["running"]


def test_a_file_server_that_does_not_answer_ends_the_sweep_in_good_order_and_the_next_driver_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path))
    searcher = ConductorSearcher(conductor, RUNNER)
    searcher.suggest("x")

    def away(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ledger, "close", away)
    searcher.on_trial_complete("x", error=True)
    assert conductor.stop_reason == (
        f"the disk or file server of {conductor.config.folder} did not answer ([Errno 5] Input/output error); run again"
        " to continue"
    )
    assert [record.status for record in ledger.records("baseline")] == ["running"]
    said = "ray::ImplicitFunc.train() (pid=7)\nOSError: [Errno 116] Stale file handle: '/nfs/x'"
    assert loss_reason(said, 1, tmp_path) == "lost because a disk or a file server did not answer"


@pytest.mark.parametrize("where", ["start", "snapshot", "end"])
@pytest.mark.parametrize("how", ["lock", "entry"])
def test_a_database_that_stays_away_ends_the_sweep_in_good_order_and_the_next_driver_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str
) -> None:
    """Whether the driver's lock cannot be asked for, or Optuna has not written what came after that."""
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 2, "search.min_gain": 0})
    conductor, _, ledger = new_conductor(checked)
    searcher = ConductorSearcher(conductor, RUNNER)
    if where != "start":
        searcher.suggest("x")
    refused = OperationalError("SELECT 1", {}, Exception("connection refused"))

    def away(*_: object) -> None:
        if how == "lock":
            raise refused
        raise StorageInternalError("This typically happens due to invalid data") from refused

    snap = Snap(0, 2, finals_at(checked.space.resolve(checked.space.first()), 0.0, 2))
    with monkeypatch.context() as patch:
        patch.setattr(ledger.tenure, "check", away)
        if where == "start":
            assert searcher.suggest("x") is None
        elif where == "snapshot":
            searcher.on_trial_result("x", {PAYLOAD: json.dumps({"snapshot": snap.to_dict()})})
        else:
            searcher.on_trial_complete("x", error=True)
    assert conductor.interrupted
    assert conductor.stop_reason.startswith("the ledger's database is away, or takes no entry (")
    assert "connection refused" in conductor.stop_reason
    assert "invalid data" not in conductor.stop_reason
    drive(new_conductor(checked)[0], PATHS)
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 2


@pytest.mark.parametrize(
    "error", ["out of memory with train.batch_size=64; lower it", "OSError: [Errno 5] I/O"]
)
def test_a_baseline_that_is_lost_when_every_other_job_was_handed_out_is_trained_again(
    tmp_path: Path, error: str
) -> None:
    """Six trials and eight workers. Tune never asks again once it has heard FINISHED."""
    conductor, _, ledger = new_conductor(config(tmp_path, {"search.trials": 6, "search.concurrency": 8}))
    searcher = ConductorSearcher(conductor, RUNNER)
    handed_out = [searcher.suggest(f"ray{number}")["trial_id"] for number in range(7)]
    assert handed_out == ["b0000", *(f"t{number:04d}" for number in range(6))]

    def ends(name: str, outcome: Outcome) -> None:
        searcher.on_trial_complete(name, {PAYLOAD: json.dumps({"outcome": outcome.to_json()})})

    assert searcher.suggest("none yet") is None
    for number in range(1, 7):
        ends(f"ray{number}", Outcome("complete", {"val_accuracy": 90.0, "macs": 1.0 * number}))
        assert searcher.suggest("none yet") is None
    ends("ray0", Outcome("failed", error=error))
    assert searcher.suggest("ray7")["trial_id"] == "b0001"
    assert searcher.suggest("none yet") is None
    ends("ray7", Outcome("complete", {"val_accuracy": 95.0}))
    assert searcher.suggest("none more") == Searcher.FINISHED
    assert conductor.complete
    assert [record.status for record in ledger.records("baseline")] == ["failed", "complete"]


def test_a_node_without_the_storage_ends_the_sweep_in_good_order_and_its_trial_stays_unfinished(
    tmp_path: Path,
) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path))
    searcher = ConductorSearcher(conductor, RUNNER)
    searcher.suggest("x")
    said = {PAYLOAD: json.dumps({"unfit": "the node n7 does not see /shared/x"})}
    searcher.on_trial_result("x", said)
    searcher.on_trial_complete("x", said)
    assert (conductor.interrupted, conductor.stop_reason) == (True, "the node n7 does not see /shared/x")
    assert [record.status for record in ledger.records("baseline")] == ["running"]


def test_a_tenure_that_has_ended_ends_what_runs(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path))
    stopper = ConductorStopper(conductor)
    assert not stopper.stop_all()
    ledger.tenure.lost = True
    assert stopper.stop_all()
    assert conductor.stop_reason == "another driver has taken over"
