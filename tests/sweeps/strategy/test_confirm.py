"""Confirm runs: the front's members on fresh seeds, after the search, each once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.sweep_config import SweepConfig, load_config
from sweeps.records.job import Outcome, Record
from sweeps.records.ledger import Ledger, SnapshotRecord
from sweeps.strategy.confirm import confirm_runs, finalists, taken_further
from sweeps.worker.trial import run_job
from tests.oracles.sweeps.dominance import dominates
from tests.sweeps.inline import OF_PATHS, PATHS, RUNNER, config, drive, new_conductor

pytestmark = pytest.mark.integration


def slow_front(trials: list[Record]) -> set[str]:
    """Configurations of the trials that no other one dominates (accuracy up, MACs down)."""
    pairs = {r.job.trial_id: (-r.values[0], r.values[1]) for r in trials if r.status == "complete"}
    best = {a for a in pairs if not any(dominates(pairs[b], pairs[a]) for b in pairs)}
    return {r.job.config.config_id() for r in trials if r.job.trial_id in best}


def test_the_front_is_trained_again_on_fresh_seeds_with_their_own_baselines(tmp_path: Path) -> None:
    conductor, recorder, ledger = new_conductor(config(tmp_path, {"confirm.seeds": 2, "search.trials": 10}))
    drive(conductor)
    front = slow_front(ledger.records("trial"))
    confirm = ledger.records("confirm")
    assert {(r.job.config.config_id(), r.job.config.seed) for r in confirm} == {
        (c, s) for c in front for s in (1, 2)
    }
    assert [r.job.trial_id for r in confirm] == [f"c{n:04d}" for n in range(2 * len(front))]
    assert {r.status for r in confirm} == {"complete"}
    assert sorted(r.job.config.seed for r in ledger.records("baseline")) == [0, 1, 2]
    assert all("accuracy_drop" in recorder.finals[r.job.trial_id] for r in confirm)
    starts = recorder.named("started")
    assert min(starts.index(r.job.trial_id) for r in confirm) > max(
        starts.index(f"t{n:04d}") for n in range(10)
    )
    assert (conductor.done, conductor.total, conductor.complete) == (10, 10, True)


def test_a_killed_driver_s_confirm_runs_are_continued_and_none_is_entered_twice(tmp_path: Path) -> None:
    overrides = {"confirm.seeds": 2, "search.trials": 8}
    first, recorder, ledger = new_conductor(config(tmp_path, overrides))
    while not any(name.startswith("c") for name in recorder.named("started")):
        job = first.next_job()
        if not job.trial_id.startswith("c"):
            first.finish(job.trial_id, run_job(job, RUNNER, lambda row: None))
    entered = [r.key for r in ledger.records("confirm")]
    second, recorder, ledger = new_conductor(config(tmp_path, overrides))
    drive(second)
    assert [r.key for r in ledger.records("confirm")] == entered
    assert {r.status for r in ledger.records("confirm")} == {"complete"}


def test_more_seeds_may_be_asked_for_after_the_search(tmp_path: Path) -> None:
    drive(new_conductor(config(tmp_path, {"search.trials": 6}))[0])
    once, _, ledger = new_conductor(config(tmp_path, {"search.trials": 6, "confirm.seeds": 1}))
    drive(once)
    members = len(ledger.records("confirm"))
    assert members > 0
    more, recorder, ledger = new_conductor(config(tmp_path, {"search.trials": 6, "confirm.seeds": 3}))
    drive(more)
    assert len(ledger.records("confirm")) == 3 * members
    assert all(not name.startswith("t") for name in recorder.named("started"))


def test_a_seed_that_the_search_may_still_come_to_is_not_fresh(tmp_path: Path) -> None:
    point = {"prune.interval": 1, "prune.ratio": 0.1, "prune.target": 0.5}
    fixed = {name: {"choice": [value]} for name, value in point.items()}
    seeds = {"seed": {"choice": [2, 0, 3]}, "confirm.seeds": 2, "search.sampler": "grid"}
    checked = config(tmp_path, {**fixed, **seeds, "search.trials": 2})
    first, _, ledger = new_conductor(checked)
    drive(first)
    assert [record.job.config.seed for record in ledger.records("trial")] == [2, 0]
    assert {record.job.config.seed for record in ledger.records("confirm")} == {4, 5}
    more, _, ledger = new_conductor(config(tmp_path, {**fixed, **seeds, "search.trials": 3}))
    drive(more)
    ended = [*ledger.records("trial"), *ledger.records("confirm")]
    assert len({record.key for record in ended}) == len(ended) == 5, "no training counts twice"


def test_the_sampler_does_not_learn_from_confirm_runs(tmp_path: Path) -> None:
    """A second driver begins after the confirmation: it knows and proposes what it would have without."""
    found = []
    for seeds in (1, 0):
        for trials in (6, 9):
            checked = config(tmp_path / str(seeds), {"confirm.seeds": seeds, "search.trials": trials})
            conductor, _, ledger = new_conductor(checked)
            drive(conductor)
        assert bool(ledger.records("confirm")) == bool(seeds)
        known = conductor._proposals._proposer._mirror.trials()
        told = [(trial.params, trial.values) for trial in known if trial.state.name == "COMPLETE"]
        found.append(([record.job.point for record in ledger.records("trial")], told))
    assert len(found[0][0]) == 9
    assert found[0] == found[1]


def test_trials_that_failed_or_broke_a_constraint_are_no_finalists(tmp_path: Path) -> None:
    checked = config(tmp_path)
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    outcomes = [
        ("complete", (90.0, 50.0)),
        ("infeasible", (99.0, 1.0)),
        ("failed", None),
        ("complete", (89.0, 60.0)),
    ]
    for target, (status, values) in zip((0.3, 0.4, 0.5, 0.6), outcomes, strict=True):
        point = {"prune.interval": 1, "prune.ratio": 0.1, "prune.target": target}
        job = ledger.add("trial", checked.space.resolve(point), point, {})
        ledger.close(job, Outcome(status), values, {"macs <= 5": 1.0} if status == "infeasible" else {})
    assert [r.job.trial_id for r in finalists(ledger.records("trial"), checked.search.objectives)] == [
        "t0000"
    ]


def test_of_trials_that_made_the_same_model_one_is_confirmed(tmp_path: Path) -> None:
    """A schedule that misses its target ends alike for every target beyond, and its model is the smallest of all."""
    checked = config(tmp_path)
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    made = [("same", (80.0, 10.0)), ("other", (90.0, 50.0)), ("same", (80.0, 10.0)), ("", (80.0, 10.0))]
    for target, (weights, values) in zip((0.3, 0.4, 0.5, 0.6), made, strict=True):
        point = {"prune.interval": 1, "prune.ratio": 0.1, "prune.target": target}
        job = ledger.add("trial", checked.space.resolve(point), point, {})
        ledger.close(job, Outcome("complete", weights_sha256=weights), values)
    found = finalists(ledger.records("trial"), checked.search.objectives)
    # t0003 does not say what its weights are: it may be another model.
    assert [r.job.trial_id for r in found] == ["t0000", "t0001", "t0003"]


def test_no_finalist_no_confirm_run(tmp_path: Path) -> None:
    overrides = {"confirm.seeds": 2, "search.trials": 4, "search.constraints": ["macs <= 1%"]}
    conductor, _, ledger = new_conductor(config(tmp_path, overrides))
    drive(conductor)
    assert ledger.records("confirm") == []
    assert conductor.complete


@pytest.mark.parametrize(("given", "words"), [(-1, r"-1 is not a whole number in \[0, 1000\]"), (1.5, "1.5")])
def test_a_wrong_number_of_seeds_is_refused(given: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config({"name": "x", "confirm": {"seeds": given}})


# --- paths --------------------------------------------------------------------------------------------------------


def of_paths(tmp_path: Path, **more: object) -> SweepConfig:
    """Two paths of four snapshots, of one and of two epochs a cycle; the longer one is better at every level."""
    searched = {"prune.interval": {"choice": [1, 2]}, "search.sampler": "grid", "search.trials": None}
    return config(tmp_path, {**OF_PATHS, **searched, **more})


def entered(ledger: Ledger, spoil: dict[str, tuple[float, float] | None]) -> list[Record]:
    """The trials of a ledger whose snapshots' values are taken from ``spoil`` where it has one; None = infeasible."""
    real = ledger.snapshots()
    changed: dict[str, list[SnapshotRecord]] = {}
    for trial, known in real.items():
        for one in known:
            values = spoil.get(f"{trial}@{one.snap.level}", one.values)
            snap = dataclasses.replace(one.snap, status="complete" if values else "infeasible")
            changed.setdefault(trial, []).append(dataclasses.replace(one, snap=snap, values=values))
    return confirm_runs(ledger.records("trial"), {"val_accuracy": "max", "macs": "min"}, 1, changed)


def test_a_path_is_confirmed_down_to_its_deepest_snapshot_on_the_front(tmp_path: Path) -> None:
    """Of the better path @3 breaks a limit; of the other one nothing but @3 is on the front then."""
    conductor, _, ledger = new_conductor(of_paths(tmp_path))
    drive(conductor, PATHS)
    by_interval = {r.job.config.prune.interval: r for r in ledger.records("trial")}
    better, other = by_interval[2].job.trial_id, by_interval[1].job.trial_id
    (one,) = entered(ledger, {})
    assert (one.job.config.prune.interval, one.job.config.train.epochs) == (2, 8)
    both = {run.job.config.prune.interval: run for run in entered(ledger, {f"{better}@3": None})}
    assert {k: run.job.config.train.epochs for k, run in both.items()} == {2: 6, 1: 5}
    assert {run.job.config.seed for run in both.values()} == {1}
    assert both[2].job.config.config_id() == by_interval[2].job.config.config_id()
    assert both[2].key == dataclasses.replace(by_interval[2].job.config, seed=1).key()
    only = entered(
        ledger, {f"{better}@{k}": None for k in (1, 2, 3)} | {f"{other}@{k}": None for k in range(4)}
    )
    assert [run.job.config.train.epochs for run in only] == [2], "@0 alone: the dense phase"


def test_a_model_that_two_paths_share_is_confirmed_once(tmp_path: Path) -> None:
    """Both have the same snapshot 0 (in the fake, equal names of weights); nothing else is feasible."""
    conductor, _, ledger = new_conductor(of_paths(tmp_path))
    drive(conductor, PATHS)
    equal = {f"t000{t}@0": (90.0, 100.0) for t in (0, 1)}
    rest = {f"t000{t}@{k}": None for t in (0, 1) for k in (1, 2, 3)}
    assert len(entered(ledger, equal | rest)) == 1


def test_a_path_that_failed_after_models_on_the_front_is_confirmed(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(of_paths(tmp_path, **{"model.name": "breaks"}))
    drive(conductor, PATHS)
    assert {r.status for r in ledger.records("trial")} == {"failed"}
    (one,) = entered(ledger, {})
    assert (one.job.config.prune.interval, one.job.config.train.epochs) == (2, 4)


def confirming(tmp_path: Path, **more: object) -> Ledger:
    checked = of_paths(tmp_path, **{"confirm.seeds": 2, **more})
    conductor, _, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    return ledger


def test_the_fresh_snapshots_are_those_of_the_front(tmp_path: Path) -> None:
    """The limit is broken by the last level: the confirmed paths end before it."""
    ledger = confirming(tmp_path, **{"search.constraints": ["val_accuracy >= 85"]})
    runs, taken = ledger.records("confirm"), ledger.snapshots()
    assert [r.job.config.seed for r in runs] == [1, 2]
    assert {r.status for r in runs} == {"complete"}
    assert {r.ended for r in runs} == {"cap"}
    for record in runs:
        assert [one.snap.level for one in taken[record.job.trial_id]] == [0, 1, 2]


def test_paths_confirmed_before_go_on_where_the_front_has_become_deeper(tmp_path: Path) -> None:
    ledger = confirming(tmp_path, **{"search.constraints": ["val_accuracy >= 85"]})
    goals = {"val_accuracy": "max", "macs": "min"}
    trials, known = ledger.records("trial"), ledger.records("confirm")
    same = confirm_runs(trials, goals, 2, ledger.snapshots())
    assert taken_further(same, known) == []
    deeper = [_to(run, 8) for run in same]
    jobs = taken_further(deeper, known)
    assert [(job.trial_id, job.config.train.epochs) for job in jobs] == [("c0000", 8), ("c0001", 8)]
    failed = [dataclasses.replace(record, ended="", status="failed") for record in known]
    assert taken_further(deeper, failed) == []


def test_a_deeper_target_takes_the_confirmed_paths_down_with_the_front(tmp_path: Path) -> None:
    """The better path goes from level 3 to level 5, and so does each of its confirmation runs, as a further part."""
    confirming(tmp_path)
    ledger = confirming(tmp_path, **{"prune.target": 0.95})
    runs, taken = ledger.records("confirm"), ledger.snapshots()
    assert [(r.job.trial_id, r.job.part, r.ended) for r in runs] == [("c0000", 1, "cap"), ("c0001", 1, "cap")]
    for record in runs:
        assert [one.snap.level for one in taken[record.job.trial_id]] == [0, 1, 2, 3, 4, 5]


def _to(run: Record, epoch: int) -> Record:
    train = dataclasses.replace(run.job.config.train, epochs=epoch)
    job = dataclasses.replace(run.job, config=dataclasses.replace(run.job.config, train=train))
    return dataclasses.replace(run, job=job)
