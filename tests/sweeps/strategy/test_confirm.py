"""Confirm runs: the front's members on fresh seeds, after the search, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.sweep_config import load_config
from sweeps.records.job import Outcome, Record
from sweeps.records.ledger import Ledger
from sweeps.strategy.confirm import finalists
from sweeps.worker.trial import run_job
from tests.oracles.dominance import dominates
from tests.sweeps.inline import RUNNER, config, drive, new_conductor


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
    more, recorder, ledger = new_conductor(config(tmp_path, {"search.trials": 6, "confirm.seeds": 3}))
    drive(more)
    assert len(ledger.records("confirm")) == 3 * members
    assert all(not name.startswith("t") for name in recorder.named("started"))


def test_the_sampler_does_not_learn_from_confirm_runs(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path, {"confirm.seeds": 1, "search.trials": 6}))
    drive(conductor)
    longer, _, ledger = new_conductor(config(tmp_path, {"confirm.seeds": 1, "search.trials": 9}))
    drive(longer)
    assert len(ledger.records("trial")) == 9
    assert all(r.job.config.seed == 0 for r in ledger.records("trial"))


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
