"""A model that exists already is not listed or told a second time, and what would end as it is not proposed."""

from __future__ import annotations

from sweeps.strategy.twins import Twins
from tests.sweeps.inline import config, drive, new_conductor

FINALS = {"val_accuracy": 80.0, "macs": 10.0, "params": 5.0, "macs_removed": 0.55, "target_reached": 0.0}


def trial(tmp_path, **point):
    space = config(tmp_path).space
    return space.resolve({"prune.interval": 1, "prune.ratio": 0.2, "prune.target": 0.7, **point})


def test_every_target_beyond_what_a_schedule_reached_would_repeat_its_model(tmp_path):
    twins = Twins()
    assert not twins.would_repeat(trial(tmp_path))
    assert twins.ended("t0000", trial(tmp_path), FINALS, "aa") == ""
    assert twins.would_repeat(trial(tmp_path, **{"prune.target": 0.9}))
    assert not twins.would_repeat(trial(tmp_path, **{"prune.target": 0.5})), "it ends before"
    assert not twins.would_repeat(trial(tmp_path, **{"prune.interval": 2, "prune.target": 0.9}))


def test_a_schedule_that_finishes_is_another_one_than_the_same_that_ends_short(tmp_path):
    """What the one has reached says nothing about the other: the last event of the other takes what is missing."""
    finishing = {"prune.finish": True}
    twins = Twins()
    twins.ended("t0000", trial(tmp_path), FINALS, "aa")
    assert not twins.would_repeat(trial(tmp_path, **finishing, **{"prune.target": 0.9}))
    twins.ended("t0001", trial(tmp_path, **finishing), {**FINALS, "macs_removed": 0.6}, "bb")  # at its floors
    assert twins.would_repeat(trial(tmp_path, **finishing, **{"prune.target": 0.9}))
    assert twins.would_repeat(trial(tmp_path, **{"prune.target": 0.58})), "short of it all the same"


def test_a_second_trial_of_one_model_names_the_first(tmp_path):
    twins = Twins()
    twins.ended("t0000", trial(tmp_path), FINALS, "aa")
    again = trial(tmp_path, **{"prune.target": 0.9})
    assert twins.ended("t0001", again, FINALS, "aa") == "t0000"
    assert twins.ended("t0002", again, {**FINALS, "macs": 11.0}, "bb") == ""
    assert twins.ended("t0003", again, FINALS, "") == "", "a runner of the user's own names no weights"


def _told(conductor) -> int:
    """Of how many trials the sampler knows values."""
    known = conductor._proposals._proposer._mirror.trials()
    return sum(trial.state.name == "COMPLETE" for trial in known)


def test_neither_sampler_nor_front_learn_of_one_model_twice(tmp_path, monkeypatch):
    """The fake's trials of one interval are made to end alike, short of their target."""
    from tests.sweeps import fake_runner

    real = fake_runner._finals

    def short(config_, removed):
        if config_.prune is None:
            return real(config_, removed)
        alike = {"val_accuracy": 80.0 + config_.prune.interval, "macs": 400_000.0, "params": 20_000.0}
        return {**real(config_, 0.6), **alike, "target_reached": 1.0}

    monkeypatch.setattr(fake_runner, "_finals", short)
    conductor, recorder, ledger = new_conductor(config(tmp_path, {"search.trials": 12}))
    drive(conductor)
    intervals = {record.job.config.prune.interval for record in ledger.records("trial")}
    assert conductor._front.complete == len(intervals) < 12
    assert _told(conductor) == len(intervals)
    again, _, _ = new_conductor(config(tmp_path, {"search.trials": 12}))
    assert _told(again) == len(intervals), "nor does the next driver's sampler"
    notes = [call[1] for call in recorder.calls if call[0] == "note"]
    assert all(record.status == "complete" for record in ledger.records("trial")), notes


def test_a_schedule_that_is_known_to_end_short_is_not_drawn_with_a_target_beyond(tmp_path, monkeypatch):
    """Every schedule of the fake ends at 0.6; the space has targets up to 0.9."""
    from tests.sweeps import fake_runner

    real = fake_runner._finals

    def short(config_, removed):
        missed = config_.prune is not None and config_.prune.target > 0.6
        return {**real(config_, min(removed, 0.6)), "target_reached": float(not missed)}

    monkeypatch.setattr(fake_runner, "_finals", short)
    changes = {"search.trials": 40, "search.sampler": "random", "prune.interval": {"choice": [1, 2]}}
    conductor, _, ledger = new_conductor(config(tmp_path, changes))
    drive(conductor)
    beyond = [
        (r.job.config.prune.interval, r.job.config.prune.ratio)
        for r in ledger.records("trial")
        if r.job.config.prune.target > 0.6
    ]
    assert len(beyond) == len(set(beyond)) >= 4


def test_a_point_that_the_user_gave_is_run_whatever_is_foreseen(tmp_path):
    point = {"prune.interval": 1, "prune.ratio": 0.1, "prune.target": 0.9}
    checked = config(tmp_path, {"search.trials": 2, "search.points": [point]})
    conductor, _, ledger = new_conductor(checked, impossible=lambda trial: trial.prune.target == 0.9)
    drive(conductor)
    first, second = ledger.records("trial")
    assert first.job.point == point
    assert second.job.config.prune.target != 0.9
