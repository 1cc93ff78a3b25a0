"""Which training states go when a sweep has ended."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from gcp_core.config import TrialConfig
from sweeps.records.job import Job, Record
from sweeps.storage.exchange import Exchange
from sweeps.storage.states import clear_states, may_go_on, trained_again, without_state
from tests.sweeps.inline import OF_PATHS, config


def _path(folder: Path, number: int, status: str, ended: str) -> Record:
    """A path's record; its folder holds a state."""
    checked = config(folder, OF_PATHS)
    record = _record(folder, number, status)
    path = checked.space.resolve(checked.space.first())
    job = dataclasses.replace(record.job, config=path)
    return dataclasses.replace(record, job=job, ended=ended)


def _record(folder: Path, number: int, status: str) -> Record:
    name = f"t{number:04d}"
    (folder / "trials" / name / "epochs").mkdir(parents=True)
    (folder / "trials" / name / "model").mkdir()
    job = Job(name, "trial", number, TrialConfig(), {}, str(folder / "trials" / name))
    return Record(job, "key", status, {}, "", 1.0, None, {})


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    (tmp_path / "stages" / "a").mkdir(parents=True)
    return [_record(tmp_path, i, status) for i, status in enumerate(("complete", "running", "lost"))]


def test_stages_and_the_checkpoints_of_ended_trials_go_and_models_stay(tmp_path, records):
    clear_states(Exchange(tmp_path), records)
    assert not (tmp_path / "stages").exists()
    left = {path.parent.name for path in tmp_path.glob("trials/*/epochs")}
    assert left == {"t0001"}, "a running trial goes on from its checkpoint"
    assert len(list(tmp_path.glob("trials/*/model"))) == 3


def test_the_store_is_asked_for_stages_and_for_what_a_lost_process_left(tmp_path, records, monkeypatch):
    asked: list[str] = []
    exchange = Exchange(tmp_path)
    monkeypatch.setattr(exchange, "remove", lambda *paths: asked.extend(paths))
    clear_states(exchange, records)
    assert asked == ["stages", "trials/t0002/epochs"]


def test_a_store_that_is_away_ends_nothing(tmp_path, records, monkeypatch, caplog):
    exchange = Exchange(tmp_path)

    def away(*_: str) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(exchange, "remove", away)
    with caplog.at_level(logging.WARNING):
        clear_states(exchange, records)
    assert caplog.messages == ["training states stay in the store: no answer"]


@pytest.mark.parametrize(
    ("status", "ended", "stays"),
    [
        ("complete", "target", True),
        ("complete", "cap", True),
        ("complete", "paused", True),
        ("paused", "paused", True),
        ("running", "", True),
        ("complete", "floors", False),
        ("stopped", "constraint", False),
        ("failed", "", False),
        ("lost", "", False),
    ],
)
def test_a_path_that_may_go_on_keeps_its_state(tmp_path, status, ended, stays):
    record = _path(tmp_path, 0, status, ended)
    assert may_go_on(record) == stays
    clear_states(Exchange(tmp_path), [record])
    assert (tmp_path / "trials" / "t0000" / "epochs").exists() == stays


def test_the_state_of_a_path_that_may_go_on_stays_in_the_store(tmp_path, monkeypatch):
    asked: list[str] = []
    exchange = Exchange(tmp_path)
    monkeypatch.setattr(exchange, "remove", lambda *paths: asked.extend(paths))
    clear_states(exchange, [_path(tmp_path, 0, "lost", ""), _path(tmp_path, 1, "complete", "target")])
    assert asked == ["stages", "trials/t0000/epochs"]


def test_paths_that_have_lost_their_states_are_named(tmp_path):
    names = [_path(tmp_path, number, "complete", "target").job.trial_id for number in range(7)]
    assert without_state(Exchange(tmp_path), names) == []
    (tmp_path / "trials" / "t0003" / "epochs").rmdir()
    assert without_state(Exchange(tmp_path), names) == ["t0003"]
    assert trained_again(["t0003"]) == (
        "the training state is gone of t0003: it is trained again, from the nearest state that is shared, to the same"
        " weights on a CPU"
    )
    assert "gone of t0000, t0001, t0002, t0003, t0004 and 2 more: they are" in trained_again(names)


def test_a_state_in_the_store_is_none_that_is_lost(tmp_path, monkeypatch):
    _path(tmp_path, 0, "complete", "target")
    (tmp_path / "trials" / "t0000" / "epochs").rmdir()
    exchange = Exchange(tmp_path)
    exchange.url = "s3://bucket/sweep"
    held = {"trials/t0000/epochs/epoch_0004/state.pt": 7}
    monkeypatch.setattr(exchange, "sizes", lambda path: held if path == "trials/t0000/epochs" else {})
    assert without_state(exchange, ["t0000"]) == []
    held.clear()
    assert without_state(exchange, ["t0000"]) == ["t0000"]
