"""How often Tune is let start a trial again, in the words that Ray has for a process that is gone."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.function_manager import FunctionActorManager
from ray.exceptions import ActorDiedError, ActorUnavailableError

from sweeps.driver.attempts import PATIENCE, Attempts
from sweeps.driver.searcher import ConductorSearcher
from sweeps.records import spool
from sweeps.records.job import Outcome
from sweeps.strategy.budget import Budget
from sweeps.worker.trial import PAYLOAD
from tests.sweeps.inline import RUNNER, config, new_conductor

_ROW = {"epoch": 1.0, "val/accuracy": 50.0, "cost/macs": 1.0, "cost/params": 1.0}
FIRST, SECOND, THIRD = ("5747f207b021ba4ebf5656c902000000", "a892f948524d595027c3a2c502000000", "6f" * 16)
NEVER = "The actor never ran - it was cancelled before it started running."


class Tune:
    """As much of Tune as the scheduler touches: one trial, its file of errors, and who was stopped."""

    def __init__(self, folder: Path, retries: int) -> None:
        conductor, _, _ = new_conductor(config(folder))
        self.searcher = ConductorSearcher(conductor, RUNNER)
        job = self.searcher.suggest("x")
        assert isinstance(job, dict)
        self.folder = Path(conductor.config.folder) / "trials" / job["trial_id"]
        self.attempts = Attempts(self.searcher, retries)
        self.trial: Any = SimpleNamespace(
            trial_id="x", error_file=str(folder / "error.txt"), status="PENDING"
        )
        self.stopped: list[Any] = []
        self.reasons: list[tuple[str, int]] = []
        self.searcher.lost = lambda trial_id, said, number: self.reasons.append((said, number))  # type: ignore[method-assign]

    def get_trials(self) -> list[Any]:
        return [] if self.stopped else [self.trial]

    def stop_trial(self, trial: Any) -> None:
        self.stopped.append(trial)

    def fail(self, said: str) -> bool:
        """One failure; whether the trial is started again."""
        with open(self.trial.error_file, "a") as file:
            file.write(f"Failure # 1 (occurred at noon)\n{said}\n")
        self.attempts.on_trial_error(self, self.trial)
        return self.attempts.choose_trial_to_run(self) is self.trial

    def report(self, epoch: int) -> None:
        self.attempts.on_trial_result(self, self.trial, {PAYLOAD: json.dumps({"epoch": {"epoch": epoch}})})


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tune:
    monkeypatch.setattr(ConductorSearcher, "_receive", lambda *_: None)
    return Tune(tmp_path, retries=1)


def _gone(process: str) -> str:
    return f"The actor {process} is unavailable: RPC error: Socket closed"


def test_a_trial_ends_when_it_was_lost_once_more_than_it_may_be(tune: Tune) -> None:
    assert tune.fail(_gone(FIRST))
    assert not tune.fail(f"The actor died unexpectedly before finishing this task.\n\tactor_id: {SECOND}")
    assert [number for _, number in tune.reasons] == [2]
    assert SECOND in tune.reasons[0][0]
    assert FIRST not in tune.reasons[0][0], "the reason is the last one"


def test_one_process_that_fails_twice_is_one_loss_and_said_once(
    tune: Tune, caplog: pytest.LogCaptureFixture
) -> None:
    tune.report(4)
    assert tune.fail(_gone(FIRST))
    assert tune.fail(_gone(FIRST))
    assert caplog.messages == [
        "b0000 lost after epoch 4 because its node or process could no longer be reached: starting it again"
    ]
    assert not tune.fail(_gone(SECOND))


def test_a_process_that_never_ran_is_no_loss_but_is_not_asked_for_for_ever(tune: Tune) -> None:
    for number in range(PATIENCE):
        assert tune.fail(f"\tactor_id: {number:032x}\n{NEVER}"), number
    assert not tune.fail(f"\tactor_id: {SECOND}\n{NEVER}")


def test_an_epoch_that_was_not_reported_before_gives_a_trial_all_its_attempts_again(tune: Tune) -> None:
    tune.report(1)
    assert tune.fail(_gone(FIRST))
    tune.report(1)  # trained again
    tune.report(2)
    assert tune.fail(_gone(SECOND))
    tune.report(2)
    assert not tune.fail(_gone(THIRD))


def test_so_does_an_epoch_that_only_the_trials_folder_knows(tune: Tune) -> None:
    assert tune.fail(_gone(FIRST))
    tune.folder.mkdir(parents=True, exist_ok=True)
    spool.append(tune.folder, {"epoch": 1.0})
    assert tune.fail(_gone(SECOND))
    assert not tune.fail(_gone(THIRD))


def test_rays_words_for_a_process_that_is_gone_are_still_these(tune: Tune) -> None:
    said = str(ActorUnavailableError("Socket closed", bytes.fromhex(FIRST)))
    assert tune.fail(said)
    assert tune.fail(said), "one process"
    source = inspect.getsource(ActorDiedError)
    assert NEVER in source
    assert "actor_id: {ActorID" in source


def test_a_node_that_cannot_import_our_code_costs_no_trial_an_attempt_and_ends_the_sweep_in_good_order(
    tune: Tune,
) -> None:
    """It joined late, so nobody has asked it; it would be given every trial to come."""
    found = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'sweeps'"
    fake = FunctionActorManager._create_fake_actor_class(None, "ImplicitFunc", ["__init__"], found)
    with pytest.raises(RuntimeError) as caught:
        fake()
    where = f"ray::ImplicitFunc.__init__() (pid=7, ip=10.0.0.9, actor_id={FIRST})"
    for _ in range(3):  # more than it may be lost
        assert tune.fail(
            f"The actor died because of an error raised in its creation task, {where}\n{caught.value}"
        )
    assert tune.reasons == []
    conductor = tune.searcher._live()
    assert conductor.interrupted
    assert conductor.stop_reason == (
        "a node (10.0.0.9) cannot run this project's code (ModuleNotFoundError: No module named 'sweeps'): install the"
        " same environment on every node, those that join later too; mend or remove the node and run again: the sweep"
        " continues"
    )


def test_a_process_that_is_gone_after_its_trials_outcome_has_come_is_no_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path))
    searcher = ConductorSearcher(conductor, RUNNER)
    attempts, trial = Attempts(searcher, retries=2), SimpleNamespace(trial_id="x", error_file="")
    assert searcher.suggest("x")["trial_id"] == "b0000"  # type: ignore[index]
    outcome = Outcome("failed", error="no such label")
    attempts.on_trial_result(None, trial, {PAYLOAD: json.dumps({"outcome": outcome.to_json()})})  # type: ignore[arg-type]
    searcher.on_trial_result("x", {PAYLOAD: json.dumps({"outcome": outcome.to_json()})})
    attempts.on_trial_error(None, trial)  # type: ignore[arg-type]
    stop = SimpleNamespace(stop_trial=lambda one: searcher.on_trial_complete(one.trial_id), get_trials=list)
    attempts.choose_trial_to_run(stop)  # type: ignore[arg-type]
    (record,) = ledger.records("baseline")
    assert (record.status, record.error) == ("failed", "no such label")
    assert caplog.messages == []


def test_a_trial_that_waits_for_a_node_after_a_loss_takes_no_device_hours(tmp_path: Path) -> None:
    """A cluster without its spot nodes for a night: the account says what devices did."""
    now = [100.0]
    checked = config(tmp_path, {"search.device_hours": 1.0})
    budget = Budget(checked.search, checked.resources, now=lambda: now[0])
    conductor, _, _ = new_conductor(checked, budget=budget)
    searcher = ConductorSearcher(conductor, RUNNER)
    attempts, trial = Attempts(searcher, retries=1), SimpleNamespace(trial_id="x", error_file="")
    assert searcher.suggest("x")["trial_id"] == "b0000"  # type: ignore[index]
    now[0] += 50  # waits for its first node
    searcher._live().epoch("b0000", _ROW)
    now[0] += 600
    attempts.on_trial_error(None, trial)  # type: ignore[arg-type]
    attempts.on_trial_error(None, trial)  # type: ignore[arg-type]  # asked for on the node that has gone
    now[0] += 8 * 3600
    assert budget.trial_seconds == 600.0
    assert not conductor.budget_spent
    searcher._live().epoch("b0000", _ROW)
    now[0] += 300
    assert budget.trial_seconds == 900.0
    # The process that ends it began 40 s before its first epoch: 600 s of the lost one, 340 s of its own.
    assert budget.ended(conductor.active[0], Outcome("complete", seconds=340.0)) == 940.0
    assert budget.trial_seconds == 940.0
