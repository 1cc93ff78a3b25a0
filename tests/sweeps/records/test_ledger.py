from __future__ import annotations

import json
import os
import time
from pathlib import Path

import optuna
import pytest

from gcp_core.errors import CheckpointError
from sweeps.records.job import Outcome, Snap
from sweeps.records.journal import repair_journal
from sweeps.records.layout import JOURNAL
from sweeps.records.ledger import Ledger, read_records
from sweeps.strategy.sampling import distributions
from tests.sweeps.inline import config

OBJECTIVES = {"val_accuracy": "max", "macs": "min"}


def _ledger(folder: Path) -> Ledger:
    folder.mkdir(parents=True, exist_ok=True)
    return Ledger(folder, "inline", OBJECTIVES)


def _add(ledger: Ledger, tmp_path: Path, index: int = 0):
    checked = config(tmp_path)
    point = list(checked.space.grid())[index]
    return ledger.add("trial", checked.space.resolve(point), point, distributions(checked.space))


def test_a_trial_survives_closing_and_opening_the_ledger(tmp_path: Path) -> None:
    job = _add(_ledger(tmp_path), tmp_path, 5)
    (record,) = _ledger(tmp_path).records("trial")
    assert record.job == job
    assert (record.job.trial_id, record.status, record.key) == ("t0000", "running", job.config.key())


def test_entering_a_trial_is_one_line_of_the_journal(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    before = len((tmp_path / JOURNAL).read_text().splitlines())
    _add(ledger, tmp_path)
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == before + 1


def test_the_end_of_a_trial_is_one_write_to_the_journal_whose_last_line_says_that_it_is_over(
    tmp_path: Path, monkeypatch
) -> None:
    ledger = _ledger(tmp_path)
    job = _add(ledger, tmp_path)
    waited, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: waited.append(file) or real(file))
    ledger.close(job, Outcome("complete", {"val_accuracy": 90.0}), (90.0, 5.0), {"macs <= 9": -4.0})
    assert len(waited) == 1
    last = json.loads((tmp_path / JOURNAL).read_text().splitlines()[-1])
    assert (last["state"], last["values"]) == (1, [90.0, 5.0])
    assert [record.status for record in ledger.records("trial")] == ["complete"]


def test_opening_an_existing_ledger_writes_nothing(tmp_path: Path) -> None:
    _add(_ledger(tmp_path), tmp_path)
    before = (tmp_path / JOURNAL).read_bytes()
    _ledger(tmp_path).records("trial")
    assert (tmp_path / JOURNAL).read_bytes() == before


ENDS = [
    ("complete", (90.0, 5.0), {"macs <= 9": -4.0}, "COMPLETE"),
    ("infeasible", (90.0, 5.0), {"macs <= 4": 1.0}, "COMPLETE"),
    ("infeasible", None, {}, "FAIL"),
    ("stopped", None, {}, "PRUNED"),
    ("diverged", None, {}, "FAIL"),
    ("failed", None, {}, "FAIL"),
    ("lost", None, {}, "FAIL"),
]


@pytest.mark.parametrize(("status", "values", "violations", "state"), ENDS)
def test_every_end_has_its_state_in_optuna(tmp_path: Path, status, values, violations, state) -> None:
    ledger = _ledger(tmp_path)
    job = _add(ledger, tmp_path)
    ledger.close(job, Outcome(status, {"macs": 5.0}, error="why", seconds=2.0), values, violations)
    (record,) = _ledger(tmp_path).records("trial")
    assert (record.status, record.error, record.seconds, record.finals) == (status, "why", 2.0, {"macs": 5.0})
    assert (record.values, record.violations) == (values, violations)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    )
    (frozen,) = optuna.load_study(study_name="inline", storage=storage).trials
    assert frozen.state.name == state


def test_a_point_with_lists_as_choices_comes_back_as_it_was(tmp_path: Path) -> None:
    checked = config(tmp_path, {"train.milestones": {"choice": [[0.5], [0.25, 0.75]]}})
    point = list(checked.space.grid())[-1]
    _ledger(tmp_path).add("trial", checked.space.resolve(point), point, distributions(checked.space))
    assert _ledger(tmp_path).records("trial")[0].job.point == point


def test_models_that_wait_for_their_baseline_are_kept_with_their_path_however_it_ends(tmp_path: Path) -> None:
    ledger, first, second = (
        _ledger(tmp_path),
        Snap(0, 2, {"macs": 9.0}),
        Snap(1, 4, {"macs": float("inf")}, "ab"),
    )
    job = _add(ledger, tmp_path)
    ledger.note_unjudged(job, first)
    ledger.note_unjudged(job, second)
    assert _ledger(tmp_path).records("trial")[0].unjudged == (first, second)
    ledger.pause(job, Outcome("paused"))
    assert _ledger(tmp_path).records("trial")[0].unjudged == (first, second)
    ledger.close(job, Outcome("failed", error="why"))
    assert _ledger(tmp_path).records("trial")[0].unjudged == (first, second)


def test_models_that_waited_when_a_path_rested_in_an_older_sweep_are_read(tmp_path: Path) -> None:
    ledger, snap = _ledger(tmp_path), Snap(0, 2, {"macs": 9.0})
    handle = ledger._open(_add(ledger, tmp_path))[2]
    handle.set_user_attr("rests", {"finals": {"macs": 9.0}, "seconds": 2.0, "unjudged": [snap.to_dict()]})
    handle.set_user_attr("status", "paused")
    (record,) = _ledger(tmp_path).records("trial")
    assert (record.status, record.unjudged) == ("paused", (snap,))


def test_a_torn_last_line_and_a_stale_lock_are_mended(tmp_path: Path) -> None:
    _add(_ledger(tmp_path), tmp_path)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":6,"trial_id')
    (tmp_path / f"{JOURNAL}.lock").symlink_to(journal)
    done = repair_journal(tmp_path)
    assert done == [
        "removed the stale lock journal.log.lock",
        "cut a torn last line (22 bytes) off journal.log",
    ]
    assert journal.read_bytes() == whole
    start = time.monotonic()
    _add(_ledger(tmp_path), tmp_path, 1)
    assert time.monotonic() - start < 5  # behind a stale lock it would be 30 s
    assert len(_ledger(tmp_path).records("trial")) == 2


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    _add(_ledger(tmp_path), tmp_path)
    journal = tmp_path / JOURNAL
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    with pytest.raises(CheckpointError, match=r"journal\.log: line 2 is not JSON"):
        repair_journal(tmp_path)


def test_a_reader_does_not_mind_a_line_that_is_being_written(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    _add(ledger, tmp_path)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_co')
    trials, baselines = read_records(tmp_path, "inline", OBJECTIVES)
    assert ([record.job.trial_id for record in trials], baselines) == (["t0000"], [])


def test_an_outcome_with_nan_survives_json() -> None:
    outcome = Outcome(
        "diverged", {"epochs": 2.0}, ({"epoch": 1, "train/loss": float("inf")},), "the loss is nan"
    )
    text = outcome.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert Outcome.from_json(text) == outcome
