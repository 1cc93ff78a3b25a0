"""Which training states go when a sweep has ended."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gcp_core.config import TrialConfig
from sweeps.records.job import Job, Record
from sweeps.storage.exchange import Exchange
from sweeps.storage.states import clear_states


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
