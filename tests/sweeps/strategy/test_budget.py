"""Budgets: when no new trial starts, what is said, and that nothing running is cut off."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.commands.status import sweep_status
from sweeps.conduct.conductor import Conductor
from sweeps.config.limits import Plateau, parse_plateau
from sweeps.config.sweep_config import ResourcesConfig, SearchConfig
from sweeps.records import spool
from sweeps.records.folder import Entry, check_unchanged, write_config, write_entry
from sweeps.records.job import Job, Outcome
from sweeps.records.ledger import Ledger
from sweeps.strategy.budget import Budget, already_spent
from sweeps.strategy.front import LiveFront
from sweeps.strategy.trunk import Trunk
from sweeps.worker.trial import run_job
from tests.sweeps.inline import RUNNER, Recorder, config, drive, new_conductor

PLATEAU = "1% over 2 trials"


JOB = Job("t0000", "trial", 0, TrialConfig(), {}, "/nowhere")


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "plateau"),
    [
        ("1% over 20 trials", Plateau(1.0, 20)),
        (" 0.5 %  over 1 trial", Plateau(0.5, 1)),
        ("0% over 8 trials", Plateau(0.0, 8)),
    ],
)
def test_a_plateau_is_a_percentage_over_a_number_of_trials(text: str, plateau: Plateau) -> None:
    assert parse_plateau(text) == plateau


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"search.plateau": "20 trials"},
            "search.plateau: '20 trials' is not of the form PERCENT% over N trials",
        ),
        ({"search.plateau": "1% over 0 trials"}, "is not of the form"),
        ({"search.hours": 0}, "search.hours: 0.0 is not a number > 0 (null = no limit)"),
        ({"search.device_hours": -1.5}, "search.device_hours: -1.5 is not a number > 0"),
        (
            {"search.stage_gb": 0},
            "search.stage_gb: 0.0 is not a number > 0 (null = a quarter of the free disk",
        ),
        ({"search.hours": "2h"}, "search.hours: '2h' is not a number or null"),
        (
            {"resources.hang_minutes": 0.0},
            "resources.hang_minutes: 0.0 is not a number > 0 (longer than the slowest",
        ),
    ],
)
def test_a_limit_that_is_none_is_refused(tmp_path: Path, override: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, override)
    assert message in str(caught.value)


def _budget(
    clock: Clock, before_s: float = 0.0, resources: ResourcesConfig | None = None, **search
) -> Budget:
    return Budget(SearchConfig(**search), resources or ResourcesConfig(), before_s, now=clock)


def test_hours_count_from_the_first_trial_and_over_all_drivers() -> None:
    clock = Clock()
    budget = _budget(clock, before_s=3000.0, hours=1.0)
    clock.now += 9999  # starting Ray is none of the trials' time
    budget.started(JOB)
    clock.now += 599
    assert budget.spent(1, 6, LiveFront({})) == ""
    clock.now += 1
    assert budget.seconds == 3600.0
    assert budget.spent(1, 6, LiveFront({})) == (
        "the budget of 1 hour is spent after 1 of 6 trials (raise search.hours to go on)"
    )


def test_device_hours_are_the_trials_wall_time_times_their_gpus_or_cpus_running_ones_included() -> None:
    clock = Clock()
    budget = _budget(clock, resources=ResourcesConfig(cpus=2), device_hours=1.0)
    budget.started(JOB)
    budget.ended(JOB, Outcome("complete", seconds=900.0))
    assert budget.device_hours == 0.5
    budget.started(JOB)
    clock.now += 900
    assert budget.device_hours == 1.0
    assert "the budget of 1 device-hour is spent" in budget.spent(1, 6, LiveFront({}))
    shared = _budget(clock, resources=ResourcesConfig(cpus=4, gpus=0.5))
    shared.started(JOB)
    clock.now += 3600
    assert shared.device_hours == 0.5


def test_a_lost_trial_costs_the_time_from_its_start_and_lost_attempts_from_their_first_sign() -> None:
    clock = Clock()
    budget = _budget(clock, device_hours=1.0)
    budget.started(JOB)
    clock.now += 900
    assert budget.ended(JOB, Outcome("lost")) == 900.0
    assert budget.device_hours == 0.25
    budget.started(JOB)
    clock.now += 100  # waits for its node
    budget.epoch(JOB)
    clock.now += 800  # its process is lost, and another one goes on for 60 seconds
    budget.epoch(JOB)
    clock.now += 100
    assert budget.ended(JOB, Outcome("complete", seconds=60.0)) == 900.0
    assert budget.device_hours == 0.5


def test_what_earlier_drivers_spent_on_trials_that_never_ended_is_remembered() -> None:
    clock = Clock()
    budget = Budget(SearchConfig(device_hours=1.0), ResourcesConfig(), now=clock, trials_before_s=3000.0)
    budget.recall([])
    assert budget.device_hours == pytest.approx(3000 / 3600)
    budget.started(JOB)
    clock.now += 600
    assert budget.trial_seconds == 3600.0
    assert "the budget of 1 device-hour is spent" in budget.spent(1, 6, None)


def test_device_hours_of_earlier_drivers_are_those_of_the_devices_that_trials_had_then() -> None:
    """An hour with four CPUs a trial, then half an hour with one: 4.5 device-hours, and 3 the other way round."""
    for first, second, spent in ((4, 1, 4.5), (1, 4, 3.0)):
        clock, limit = Clock(), SearchConfig(device_hours=4.2)
        before = Budget(limit, ResourcesConfig(cpus=first), now=clock)
        before.started(JOB)
        clock.now += 3600
        before.ended(JOB, Outcome("complete", seconds=3600.0))
        told = before.account
        assert told["device_seconds"] == first * 3600
        after = Budget(
            limit,
            ResourcesConfig(cpus=second),
            now=clock,
            trials_before_s=told["trial_seconds"],
            devices_before_s=told["device_seconds"],
        )
        after.started(JOB)
        clock.now += 1800
        assert after.device_hours == spent
        assert bool(after.spent(1, 6, None)) == (spent > 4.2)


def test_a_plateau_ends_the_search_and_not_what_comes_after_it(tmp_path: Path) -> None:
    budget = _budget(Clock(), plateau="1% over 1 trials", hours=1.0)
    flat = LiveFront({"val_accuracy": "max", "macs": "min"})
    flat.baseline({"val_accuracy": 90.0, "macs": 1000.0}, tmp_path)
    for accuracy, macs in ((85.0, 250.0), (83.0, 500.0)):
        flat.trial({"val_accuracy": accuracy, "macs": macs})
    assert "plateau" in budget.spent(2, 6, flat)
    assert budget.spent(2, 6, None) == ""
    assert not budget.used_up


def test_a_limit_stays_reached_and_nothing_is_reached_without_one() -> None:
    clock = Clock()
    budget = _budget(clock, device_hours=1.0)
    budget.started(JOB)
    clock.now += 3600
    assert budget.spent(0, 6, LiveFront({}))
    budget.ended(JOB, Outcome("complete", seconds=60.0))  # it had waited for its node, say
    assert budget.spent(1, 6, LiveFront({}))
    assert _budget(clock, before_s=1e9).spent(5, 6, LiveFront({})) == ""


def test_time_is_saved_now_and_then_so_that_a_killed_driver_is_remembered() -> None:
    clock, saved = Clock(), []
    budget = Budget(SearchConfig(), ResourcesConfig(), 10.0, saved.append, clock, 5.0)
    budget.started(JOB)
    for _ in range(7):
        clock.now += 10
        budget.tick()
    assert [tuple(account.values()) for account in saved] == [(40.0, 35.0, 35.0), (70.0, 65.0, 65.0)]


def test_time_left_is_what_is_to_do_at_the_pace_so_far_and_never_past_the_budget() -> None:
    clock = Clock()
    budget = _budget(clock)
    assert budget.left_s(0, 10) is None
    budget.started(JOB)
    clock.now += 60
    budget.ended(JOB, Outcome("complete", seconds=60.0))
    assert budget.left_s(1, 10) == 9 * 60
    limited = _budget(clock, before_s=3500.0, hours=1.0)
    limited.started(JOB)
    clock.now += 60
    limited.ended(JOB, Outcome("complete"))
    assert limited.left_s(1, 10) == 40.0


# --- in a sweep ---------------------------------------------------------------------------------------------------


def _with_budget(tmp_path: Path, clock: Clock, **search: object) -> tuple[Conductor, Recorder, Recorder]:
    checked = config(tmp_path, {"search.concurrency": 2, **{f"search.{k}": v for k, v in search.items()}})
    folder = Path(checked.folder)
    folder.mkdir(parents=True, exist_ok=True)
    ledger, tracker, progress = (
        Ledger(folder, checked.name, checked.search.objectives),
        Recorder(),
        Recorder(),
    )
    budget = Budget(checked.search, checked.resources, now=clock)
    return Conductor(checked, ledger, tracker, progress, budget=budget), tracker, progress


def _end(conductor: Conductor, job: Job) -> None:
    conductor.finish(job.trial_id, run_job(job, RUNNER, lambda row: None))


def test_once_the_budget_is_spent_running_trials_end_no_new_one_starts_and_the_sweep_is_complete(
    tmp_path: Path,
) -> None:
    clock = Clock()
    conductor, tracker, _ = _with_budget(tmp_path, clock, hours=1)
    baseline, first = conductor.next_job(), conductor.next_job()
    _end(conductor, baseline)
    second = conductor.next_job()
    clock.now += 3600
    assert conductor.next_job() is None
    assert not conductor.complete
    _end(conductor, first)
    assert not conductor.has_work
    _end(conductor, second)
    assert conductor.complete
    assert (conductor.done, conductor.total) == (2, 2)
    assert conductor.budget_spent == (
        "the budget of 1 hour is spent after 2 of 6 trials (raise search.hours to go on)"
    )
    assert set(tracker.statuses.values()) == {"complete"}


def test_a_plateau_ends_the_sweep_and_says_what_grew_by_how_much(tmp_path: Path) -> None:
    points = [{"prune.interval": 4, "prune.ratio": r, "prune.target": 0.5} for r in (0.1, 0.2, 0.3, 0.4)]
    conductor, tracker, _ = _with_budget(
        tmp_path, Clock(), plateau="1% over 2 trials", points=points, concurrency=1
    )
    drive(conductor)  # the fake's results do not depend on the ratio: the second and third add nothing
    assert (conductor.done, conductor.complete) == (3, True)
    assert conductor.budget_spent == (
        "the hypervolume grew by 0 % over the last 2 trials (plateau: 1 %) after 3 of 6 trials"
        " (lower search.plateau to go on)"
    )
    volumes = [(call[2], call[1]) for call in tracker.calls if call[0] == "front"]
    assert [complete for complete, _ in volumes] == [0, 1, 1, 1], "the fake's weights are all the same"
    assert volumes[0][1] == 0.0
    assert volumes[1][1] > 0.0
    assert len({value for _, value in volumes[1:]}) == 1


def test_a_spent_sweep_is_recognised_without_running_it_and_goes_on_with_a_larger_budget(
    tmp_path: Path,
) -> None:
    clock = Clock()
    conductor, _, _ = _with_budget(tmp_path, clock, hours=1)
    jobs = [conductor.next_job(), conductor.next_job()]
    clock.now += 3600
    for job in jobs:
        _end(conductor, job)
    checked = conductor.config
    ledger = Ledger(Path(checked.folder), checked.name, checked.search.objectives)
    records = (ledger.records("trial"), ledger.records("baseline"))
    entry = Entry(
        "0123456789ab", checked.name, None, "e", "run", checked.digest(), "complete", seconds=3600.0
    )
    assert already_spent(checked, entry, *records).startswith("the budget of 1 hour is spent after 1 of 6")
    larger = config(tmp_path, {"search.hours": 2})
    write_config(Path(checked.folder), checked)
    check_unchanged(larger)
    assert already_spent(larger, entry, *records) == ""
    again, recorder, _ = new_conductor(larger)
    drive(again)
    assert again.complete
    assert sorted(recorder.statuses) == [f"t{number:04d}" for number in range(1, 6)]


def test_status_says_why_a_sweep_ended_and_how_long_it_ran(tmp_path: Path) -> None:
    checked = config(tmp_path)
    conductor, _, _ = new_conductor(checked)
    drive(conductor)
    folder = Path(checked.folder)
    write_config(folder, checked)
    entry = Entry("0123456789ab", checked.name, None, "e", "run", checked.digest(), "complete")
    write_entry(folder, dataclasses.replace(entry, message="the budget is spent", seconds=5400.0))
    done = CliRunner().invoke(main, ["status", str(folder)])
    assert "inline: complete (the budget is spent)" in done.stdout
    assert "time       1 h 30 min of running trials" in done.stdout


def test_trials_that_were_held_back_when_the_budget_was_spent_do_not_begin(tmp_path: Path) -> None:
    """Four trials of one schedule: the second waits for what the first is training, and the budget ends meanwhile."""
    clock = Clock()
    points = [{"prune.interval": 1, "prune.ratio": 0.1, "prune.target": t} for t in (0.4, 0.5, 0.6)]
    checked = config(tmp_path, {"search.concurrency": 3, "search.hours": 1, "search.points": points})
    budget = Budget(checked.search, checked.resources, now=clock)
    conductor, recorder, ledger = new_conductor(checked, budget=budget, trunk=Trunk(shared=True))
    baseline = conductor.next_job()
    assert conductor.next_job() is None, "all others wait for the baseline"
    held = [record.job.trial_id for record in ledger.records("trial")]
    assert len(held) == 3
    clock.now += 3600
    _end(conductor, baseline)
    assert conductor.next_job() is None
    assert (conductor.complete, conductor.done, conductor.total) == (True, 0, 0)
    assert conductor.budget_spent.startswith("the budget of 1 hour is spent after 0 of 6 trials")
    assert recorder.named("started") == ["b0000"]
    folder = Path(checked.folder)
    write_config(folder, checked)
    write_entry(folder, Entry("0123456789ab", checked.name, None, "e", "run", checked.digest(), "complete"))
    assert sweep_status(folder).statuses == {}, "what has not begun is no running trial"

    again, recorder, ledger = new_conductor(config(tmp_path, {"search.hours": 2}))
    drive(again)
    assert set(held) <= set(recorder.statuses), "a larger budget lets them begin"
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6


def test_a_trial_that_was_begun_comes_to_its_end_although_the_budget_is_spent(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.concurrency": 2, "search.hours": 1})
    conductor, _, _ = new_conductor(checked)
    _end(conductor, conductor.next_job())
    begun, fresh = conductor.next_job(), conductor.next_job()
    spool.append(Path(begun.folder), {"epoch": 1})
    budget = Budget(checked.search, checked.resources, before_s=3600.0)
    again, recorder, _ = new_conductor(checked, budget=budget)
    drive(again)
    assert recorder.named("started") == [begun.trial_id]
    assert (again.complete, again.done, again.total) == (True, 1, 1)
    assert fresh.trial_id not in recorder.statuses


def test_no_confirmation_run_begins_once_the_hours_are_spent(tmp_path: Path) -> None:
    clock = Clock()
    checked = config(tmp_path, {"search.hours": 1, "confirm.seeds": 2, "search.concurrency": 2})
    budget = Budget(checked.search, checked.resources, now=clock)
    conductor, _, ledger = new_conductor(checked, budget=budget)
    while (job := conductor.next_job()).kind != "confirm":
        if job.kind == "baseline" and job.config.seed:
            baseline = job
        else:
            _end(conductor, job)
    assert conductor.confirm_seeds == 2
    clock.now += 3600
    _end(conductor, baseline)
    _end(conductor, job)
    assert conductor.next_job() is None
    assert conductor.complete
    assert conductor.confirm_seeds == 0, "a larger budget brings the rest"
    assert conductor.budget_spent == (
        "the budget of 1 hour is spent after 6 of 6 trials, before the end of the confirmation"
        " (raise search.hours to go on)"
    )
    entry = Entry("0123456789ab", checked.name, None, "e", "run", checked.digest(), "complete", 6)
    spent = dataclasses.replace(entry, seconds=3600.0)
    records = [ledger.records(kind) for kind in ("trial", "baseline", "confirm")]
    assert "is spent" in already_spent(checked, spent, *records)
    assert already_spent(checked, entry, *records) == ""
    again, _, ledger = new_conductor(config(tmp_path, {"search.hours": 2, "confirm.seeds": 2}))
    drive(again)
    assert {record.status for record in ledger.records("confirm")} == {"complete"}
    assert (again.confirm_seeds, again.budget_spent) == (2, "")


def test_hours_that_end_with_the_search_leave_no_time_to_confirm_and_a_plateau_does(tmp_path: Path) -> None:
    for name, search, begins in [("a", {"search.hours": 1}, False), ("b", {"search.plateau": PLATEAU}, True)]:
        clock = Clock()
        points = [{"prune.interval": 4, "prune.ratio": r, "prune.target": 0.5} for r in (0.1, 0.2, 0.3)]
        more = {"confirm.seeds": 1, "search.points": points, **search}
        checked = config(tmp_path / name, more)
        budget = Budget(checked.search, checked.resources, now=clock)
        conductor, recorder, ledger = new_conductor(checked, budget=budget)
        for _ in range(4):
            _end(conductor, conductor.next_job())
        clock.now += 3600
        drive(conductor)
        assert conductor.complete
        assert ("c0000" in recorder.named("started")) == begins
        assert bool(ledger.records("confirm")) == begins
        assert conductor.total == 3


def test_a_lost_trial_is_entered_with_its_cost(tmp_path: Path) -> None:
    clock = Clock()
    checked = config(tmp_path, {"search.concurrency": 2})
    budget = Budget(checked.search, checked.resources, now=clock)
    conductor, _, ledger = new_conductor(checked, budget=budget)
    _end(conductor, conductor.next_job())
    job = conductor.next_job()
    clock.now += 120
    conductor.finish(job.trial_id, Outcome("lost", error="its node died"))
    assert ledger.records("trial")[0].seconds == 120.0
