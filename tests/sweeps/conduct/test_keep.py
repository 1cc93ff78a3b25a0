"""Whose weights stay while a sweep of paths runs (``search.keep``), and that the others come back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.front.band import beaten, slack
from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from sweeps.conduct.keep import Keeper
from sweeps.config.sweep_config import SweepConfig, differences, load_config
from sweeps.records.job import Job, Record, Snap
from sweeps.records.ledger import SnapshotRecord
from sweeps.storage.exchange import Exchange, ObjectExchange
from sweeps.storage.place import bring_home
from sweeps.storage.weights import drop, put_back, there, weights_of, why_dropped
from sweeps.worker.trial import Extra, run_job
from tests.oracles.sweeps.dominance import dominates
from tests.sweeps.inline import OF_PATHS, PATHS, TREE, config, drive, new_conductor


def a_config(tmp_path: Path, **more: object) -> SweepConfig:
    return config(tmp_path, {**OF_PATHS, **{name.replace("__", "."): value for name, value in more.items()}})


def left(tmp_path: Path, name: str, accuracy: float, macs: float, images: int | None = 5000, **more: object):
    """A snapshot on disk, and what the ledger says of it."""
    trial, _, level = name.partition("@")
    place = tmp_path / "trials" / trial / "snapshots" / f"{int(level):02d}"
    place.mkdir(parents=True)
    (place / "weights.pt").write_bytes(b"weights")
    (place / "manifest.json").write_text(json.dumps({} if images is None else {"val_images": images}))
    status = str(more.get("status", "complete"))
    snap = Snap(int(level), 1, {"val_accuracy": accuracy, "macs": macs}, status=status)
    return SnapshotRecord(trial, snap, (accuracy, macs), dict(more.get("violations", {})))


def weights(tmp_path: Path) -> set[str]:
    found = (tmp_path / "trials").glob("*/snapshots/*/weights.pt")
    return {f"{path.parents[2].name}@{int(path.parent.name)}" for path in found}


def keeper(tmp_path: Path, checked: SweepConfig, known: list[SnapshotRecord] = ()) -> Keeper:
    by_trial: dict[str, list[SnapshotRecord]] = {}
    for one in known:
        by_trial.setdefault(one.trial_id, []).append(one)
    return Keeper(checked, Exchange(tmp_path), by_trial, [a_record(name) for name in by_trial])


def a_record(trial_id: str) -> Record:
    job = Job(trial_id, "trial", 0, TrialConfig(), {}, "")
    return Record(job, "", "complete", {}, "", 0.0, None, {})


def tell(keeper: Keeper, *taken: SnapshotRecord) -> None:
    for one in taken:
        keeper.snapshot(one.trial_id, one)


# --- the band -----------------------------------------------------------------------------------------------------


def test_a_model_is_out_where_another_beats_the_upper_end_of_its_interval():
    """On 5,000 images 88.0 % reach up to 88.87 (Wilson), so 88.8 is within the band and 88.9 above it."""
    goals = {"val_accuracy": "max", "macs": "min"}
    values = np.array([[88.0, 50.0], [88.0, 40.0]])
    slacks = np.array([slack({"val_accuracy": 88.0}, goals, 5000)] * 2)
    assert slacks[0] == pytest.approx([0.8717, 0.0], abs=1e-4)
    for rival, out in ((88.8, [-1, -1]), (88.9, [0, -1])):
        assert list(beaten(values, slacks, np.array([[rival, 45.0]]), goals)) == out


def test_with_nothing_in_doubt_the_band_is_the_front_itself():
    rng = np.random.default_rng(0)
    values = np.round(rng.uniform(size=(60, 3)), 1)
    goals = {"a": "min", "b": "min", "c": "min"}
    out = beaten(values, np.zeros_like(values), values, goals) >= 0
    slow = [any(dominates(tuple(other), tuple(one)) for other in values) for one in values]
    assert list(out) == slow


def test_a_drop_in_accuracy_is_as_doubtful_as_the_accuracy_and_a_latency_as_its_measurement():
    finals = {"val_accuracy": 88.0, "accuracy_drop": 2.0, "latency_ms": 4.0, "latency_noise": 0.05}
    found = slack(finals, ["accuracy_drop", "latency_ms", "params"], 5000)
    assert found == pytest.approx([0.8717, 0.2, 0.0], abs=1e-4)
    assert list(slack({"macs": 1.0}, ["macs"], 5000)) == [0.0]


# --- the keeper ---------------------------------------------------------------------------------------------------


def test_weights_that_left_the_band_go_when_their_path_is_not_trained(tmp_path):
    found = keeper(tmp_path, a_config(tmp_path))
    found.runs("t0000")
    tell(found, left(tmp_path, "t0000@0", 80.0, 100.0), left(tmp_path, "t0000@1", 79.0, 50.0))
    assert found.settled("t0000") == []
    found.runs("t0001")
    found.runs("t0002")
    tell(found, left(tmp_path, "t0002@0", 81.0, 100.0), left(tmp_path, "t0002@1", 70.0, 50.0))
    tell(found, left(tmp_path, "t0001@0", 90.0, 100.0), left(tmp_path, "t0001@1", 79.5, 50.0))
    (gone,) = found.settled("t0001")
    assert (gone.trial_id, gone.level) == ("t0000", 0)
    assert gone.why == (
        "t0001@0 beats t0000@0 by more than chance explains: val_accuracy 90 against 80, macs 100 against 100"
    )
    assert weights(tmp_path) == {"t0000@1", "t0001@0", "t0001@1", "t0002@0", "t0002@1"}, "t0002 is trained"
    assert why_dropped(tmp_path, "t0000", 0) == gone.why
    assert {f"{one.trial_id}@{one.level}" for one in found.settled("t0002")} == {"t0002@0", "t0002@1"}
    assert len(list(tmp_path.glob("trials/*/snapshots/*/manifest.json"))) == 6


def test_the_next_driver_knows_the_front_and_finishes_what_a_killed_one_began(tmp_path):
    known = [
        left(tmp_path, "t0000@0", 80.0, 100.0),
        left(tmp_path, "t0001@0", 90.0, 100.0),
        left(tmp_path, "t0002@0", 81.0, 100.0),
    ]
    drop(Exchange(tmp_path), "t0000", 0, "beaten")
    (tmp_path / "trials/t0000/snapshots/00/weights.pt").write_bytes(
        b"killed between the note and the removal"
    )
    again = keeper(tmp_path, a_config(tmp_path), known)
    again.runs("t0002")
    assert [one.trial_id for one in again.sweep()] == ["t0000"]
    assert weights(tmp_path) == {"t0001@0", "t0002@0"}


def test_weights_that_were_put_back_stay(tmp_path):
    known = [left(tmp_path, "t0000@0", 80.0, 100.0), left(tmp_path, "t0001@0", 90.0, 100.0)]
    exchange = Exchange(tmp_path)
    drop(exchange, "t0000", 0, "beaten")
    (tmp_path / "again.pt").write_bytes(b"as before")
    put_back(exchange, weights_of("t0000", 0), tmp_path / "again.pt")
    assert why_dropped(tmp_path, "t0000", 0) == ""
    assert keeper(tmp_path, a_config(tmp_path), known).sweep() == []
    assert weights(tmp_path) == {"t0000@0", "t0001@0"}


def test_a_broken_limit_costs_the_weights_unless_chance_explains_it(tmp_path):
    found = keeper(tmp_path, a_config(tmp_path))
    one = {"status": "infeasible"}
    tell(
        found,
        left(tmp_path, "t0000@0", 90.0, 100.0, violations={"macs <= 50%": 50.0}, **one),
        left(tmp_path, "t0000@1", 89.0, 50.0, violations={"accuracy_drop <= 1": -0.5}),
        left(tmp_path, "t0000@2", 88.0, 30.0, violations={"accuracy_drop <= 1": 0.5}, **one),
        left(tmp_path, "t0000@3", 80.0, 20.0, violations={"accuracy_drop <= 1": 9.0}, **one),
    )
    gone = {f"{one.trial_id}@{one.level}": one.why for one in found.settled("t0000")}
    assert gone == {
        "t0000@0": "t0000@0 breaks macs <= 50%",
        "t0000@3": "t0000@3 breaks accuracy_drop <= 1",
    }


def test_without_the_number_of_images_nothing_goes(tmp_path):
    found = keeper(tmp_path, a_config(tmp_path))
    tell(found, left(tmp_path, "t0000@0", 10.0, 100.0, None), left(tmp_path, "t0001@0", 90.0, 100.0, None))
    assert found.settled("t0000") == []


def test_keep_all_drops_nothing(tmp_path):
    found = keeper(tmp_path, a_config(tmp_path, search__keep="all"))
    tell(found, left(tmp_path, "t0000@0", 10.0, 100.0), left(tmp_path, "t0001@0", 90.0, 100.0))
    assert found.settled("t0000") == []


def test_a_store_that_is_away_is_asked_again(tmp_path, monkeypatch, caplog):
    exchange = Exchange(tmp_path)
    found = Keeper(a_config(tmp_path), exchange, {}, [])
    tell(found, left(tmp_path, "t0000@0", 80.0, 100.0), left(tmp_path, "t0001@0", 90.0, 100.0))

    def away(*_: str) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(exchange, "remove", away)
    assert found.settled("t0000") == []
    assert "the weights of t0000@0 are kept for now: no answer" in caplog.text
    removed: list[str] = []
    monkeypatch.setattr(exchange, "remove", lambda *paths: removed.extend(paths))
    assert [one.trial_id for one in found.settled("t0000")] == ["t0000"]
    assert removed == ["trials/t0000/snapshots/00/weights.pt"]


def in_a_sweep(tmp_path, images: int, **more: object):
    """A played sweep of two paths, of one and two epochs a cycle; the longer one is half a point better everywhere."""
    searched = {"prune.interval": {"choice": [1, 2]}, "search.sampler": "grid", "search.trials": None}
    checked = config(
        tmp_path, {**OF_PATHS, **searched, "data.val_images": images, "search.min_gain": 0, **more}
    )
    conductor, recorder, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    return recorder, ledger, Path(checked.folder)


def test_a_sweep_drops_what_has_left_the_band_and_tells_its_tracker(tmp_path):
    """Half a point is more than chance explains on a million images, and less on five thousand."""
    recorder, ledger, folder = in_a_sweep(tmp_path / "many", 1_000_000, **{"confirm.seeds": 1})
    worse = next(r.job.trial_id for r in ledger.records("trial") if r.job.config.prune.interval == 1)
    better = next(r.job.trial_id for r in ledger.records("trial") if r.job.trial_id != worse)
    assert recorder.named("dropped") == [f"{worse}@{level}" for level in range(4)]
    assert weights(folder) == {f"{name}@{level}" for name in (better, "c0000") for level in range(4)}
    recorder, _, folder = in_a_sweep(tmp_path / "few", 5_000)
    assert recorder.named("dropped") == []
    assert len(weights(folder)) == 8


def test_weights_go_from_an_object_store_too_and_those_put_back_stay_there(s3, tmp_path):
    searched = {"prune.interval": {"choice": [1, 2]}, "search.sampler": "grid", "search.trials": None}
    more = {"data.val_images": 1_000_000, "search.min_gain": 0, "ledger": str(tmp_path / "driver")}
    checked = config(tmp_path, {**OF_PATHS, **searched, **more, "storage": s3})
    exchange = ObjectExchange(Path(checked.folder), checked.store)
    conductor, recorder, ledger = new_conductor(checked, exchange)
    drive(conductor, PATHS)
    worse = next(r.job.trial_id for r in ledger.records("trial") if r.job.config.prune.interval == 1)
    models = {(r.job.trial_id, level) for r in ledger.records("trial") for level in range(4)}
    assert recorder.named("dropped") == [f"{worse}@{level}" for level in range(4)]
    assert there(exchange, models) == {model for model in models if model[0] != worse}
    in_store = exchange.sizes(f"trials/{worse}")
    assert not [file for file in in_store if file.endswith("weights.pt")]
    assert len([file for file in in_store if file.endswith("manifest.json")]) == 4
    (tmp_path / "again.pt").write_bytes(b"as before")
    put_back(exchange, weights_of(worse, 2), tmp_path / "again.pt")
    elsewhere = ObjectExchange(tmp_path / "elsewhere", checked.store)
    bring_home(elsewhere)
    assert weights_of(worse, 2) in elsewhere.sizes("trials")
    assert Keeper(checked, elsewhere, ledger.snapshots(), ledger.records("trial")).sweep() == []


def test_weights_of_a_path_that_is_being_trained_stay_until_it_has_ended(tmp_path):
    """Its process sends its folder to the store at its end: what went before would come back."""
    searched = {"prune.interval": {"choice": [1, 2]}, "search.sampler": "grid", "search.trials": None}
    more = {"data.val_images": 1_000_000, "search.concurrency": 2, "search.min_gain": 0}
    conductor, recorder, _ = new_conductor(config(tmp_path, {**OF_PATHS, **searched, **more}))
    jobs = {}
    while len(jobs) < 2:
        job = conductor.next_job()
        if job.kind == "trial":
            jobs[job.config.prune.interval] = job
        else:
            conductor.finish(job.trial_id, trained(conductor, job))
    worse = trained(conductor, jobs[1])  # and its end is not heard of yet
    conductor.finish(jobs[2].trial_id, trained(conductor, jobs[2]))
    assert len(weights(Path(conductor.config.folder))) == 8
    conductor.finish(jobs[1].trial_id, worse)
    assert len(weights(Path(conductor.config.folder))) == 4
    assert len(recorder.named("dropped")) == 4


def trained(conductor, job):
    told = Extra(lambda snap: conductor.snapshot(job.trial_id, snap))
    return run_job(job, PATHS, lambda row: None, extra=told)


def test_the_next_driver_of_a_sweep_drops_what_the_last_one_left(tmp_path):
    _, _, folder = in_a_sweep(tmp_path, 1_000_000, **{"search.keep": "all", "confirm.seeds": 1})
    assert len(weights(folder)) == 12
    recorder, _, _ = in_a_sweep(tmp_path, 1_000_000, **{"confirm.seeds": 2})
    assert len(recorder.named("dropped")) == 4
    assert len(weights(folder)) == 4 + 4 + 4


# --- the key ------------------------------------------------------------------------------------------------------


def test_paths_keep_the_front_by_default_and_single_trials_everything(tmp_path):
    assert a_config(tmp_path).search.keep == "front"
    assert a_config(tmp_path).tree["search"]["keep"] == "front"
    assert config(tmp_path).search.keep is None
    assert config(tmp_path, {"search.keep": "all"}).search.keep == "all"
    with pytest.raises(ConfigError, match=r"search\.keep: is for paths only"):
        config(tmp_path, {"search.keep": "front"})
    with pytest.raises(ConfigError, match=r"search\.keep: 'best' is unknown"):
        load_config({**TREE, "search": {"keep": "best"}})


def test_what_is_kept_may_change_on_an_existing_sweep(tmp_path):
    before, after = a_config(tmp_path), a_config(tmp_path, search__keep="all")
    assert differences(before.tree, after.tree) == []
    assert before.digest() == after.digest()
