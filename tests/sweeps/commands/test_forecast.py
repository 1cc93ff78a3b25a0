"""What `gcp-sweep plan` foresees: shared epochs, early ends, seconds and bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from sweeps.cli import main
from sweeps.commands import calibration
from sweeps.commands import forecast as module
from sweeps.commands.calibration import Calibration, Line, calibrate, slots_of
from sweeps.commands.forecast import forecast, makespan, trial_seconds
from sweeps.commands.rehearsal import Played, Rehearsal, distinct_states, stopped_early
from sweeps.config.sweep_config import SearchConfig, load_config
from sweeps.strategy.feasibility import Feasibility
from tests.oracles.sweeps.prefix_tree import ideal_epochs

TREE = {
    "name": "plan",
    "data": {"name": "digits", "train_images": 300},
    "model": {"name": "vgg_tiny", "width": 0.25},
    "train": {"epochs": 12, "batch_size": 64},
    "prune": {
        "criterion": "l1",
        "start": 4,
        "interval": {"choice": [1, 2]},
        "ratio": {"choice": [0.15, 0.3]},
        "target": {"choice": [0.3, 0.5, 0.7]},
    },
    "search": {"sampler": "grid", "trials": None, "concurrency": 2, "stopping": "none"},
}


@pytest.fixture(scope="module")
def grid() -> list[Played]:
    """The reference grid: 12 trials of 12 epochs."""
    config = load_config(TREE)
    rehearsal = Rehearsal(Feasibility())
    return [rehearsal.play(config.space.resolve(point)) for point in config.space.grid()]


def test_trials_are_foreseen_to_share_what_an_ideal_prefix_tree_would(grid: list[Played]) -> None:
    assert distinct_states(grid) == ideal_epochs(grid, epochs=12)
    assert distinct_states(grid) < 12 * 12 / 1.5
    assert len({trial.states[3] for trial in grid}) == 1, "no event before epoch 4"
    assert {trial.config.prune.interval: trial.states[5] for trial in grid}[1] not in {
        trial.states[5] for trial in grid if trial.config.prune.interval == 2
    }


def test_a_baseline_is_the_trunk_of_its_trials(grid: list[Played]) -> None:
    baseline = Rehearsal(Feasibility()).play(grid[0].config.baseline())
    assert baseline.events == baseline.plans == ()
    assert baseline.states[:4] == grid[0].states[:4]
    assert set(baseline.states[4:]).isdisjoint(state for trial in grid for state in trial.states)
    assert set(baseline.macs) == {baseline.final[0]}


def test_cost_falls_at_events_only_and_ends_at_the_target(grid: list[Played]) -> None:
    for trial in grid:
        falls = {e for e in range(1, 12) if trial.macs[e] < trial.macs[e - 1]}
        assert falls == {plan.meta["epoch"] for plan in trial.plans if plan.meta["epoch"] < 12}
        assert trial.reached == (trial.final[0] <= (1 - trial.config.prune.target) * trial.macs[0])


def test_other_criteria_and_seeds_part_at_the_first_event() -> None:
    rehearsal = Rehearsal(Feasibility())
    base = load_config(TREE).space.resolve({"prune.interval": 1, "prune.ratio": 0.3, "prune.target": 0.5})
    other = TrialConfig(base.seed, base.data, base.model, base.train, PruneConfig("random", 4, 1, 0.3))
    one, two = rehearsal.play(base), rehearsal.play(other)
    assert one.states[:4] == two.states[:4]
    assert one.states[4] != two.states[4]
    seeded = TrialConfig(1, base.data, base.model, base.train, base.prune)
    assert set(rehearsal.play(seeded).states).isdisjoint(one.states)


def test_early_stopping_is_foreseen_only_where_it_is_on(grid: list[Played]) -> None:
    feasibility = Feasibility()
    assert stopped_early(SearchConfig(stopping="none"), grid, feasibility) == grid
    cut = stopped_early(SearchConfig(stopping="rungs"), grid, feasibility)
    stopped = [short for short, whole in zip(cut, grid, strict=True) if short.epochs < whole.epochs]
    assert 0 < len(stopped) < len(grid)
    assert {short.epochs for short in stopped} <= {3, 6}
    assert all(plan.meta["epoch"] <= short.epochs for short in stopped for plan in short.plans)


# --- seconds ------------------------------------------------------------------------------------------------------

STEP, IMAGE = Line(1000.0, 1.0, 500.0, 0.6), Line(1000.0, 0.01, 500.0, 0.006)
MEASURED = Calibration(
    setup_s=2.0,
    step=STEP,
    batch_size=64,
    steps=10,
    image=IMAGE,
    epoch_val=100,
    final=300,
    score_s={"l1": 0.5},
    surgery_s=0.25,
    save_s=0.125,
    latency_s=0.0625,
)


def test_a_line_passes_through_both_measurements_and_never_promises_work_for_nothing() -> None:
    assert (STEP(1000), STEP(500)) == (1.0, 0.6)
    assert STEP(750) == pytest.approx(0.8)
    assert STEP(0) == pytest.approx(0.2)
    assert Line(1000.0, 1.0, 500.0, 0.4)(0) == pytest.approx(0.04)
    assert Line(1000.0, 0.5, 500.0, 0.6)(100) == 0.5, "a pruned model that measured slower is noise"


def _trial(batch_size: int = 64) -> Played:
    config = TrialConfig(train=TrainConfig(epochs=2, batch_size=batch_size), prune=PruneConfig("l1"))
    return Played(config, ("a", "b"), (1000, 500), (10, 5), (500.0, 5.0), (1,), True)


def test_a_trials_seconds_are_the_sum_of_its_parts() -> None:
    fixed = (
        2.0 + 0.0625 + module.BETWEEN_S + 0.125 + 300 * 0.006
    )  # setup, latency, gap, model, final evaluation
    event = 0.5 + 0.25
    first = 10 * 1.0 + 100 * 0.01 + 2 * 0.125
    second = 10 * 0.6 + 100 * 0.006 + 2 * 0.125
    assert trial_seconds(_trial(), [1, 2], MEASURED) == pytest.approx(fixed + event + first + second)
    taken_over = 100 * 0.01 + 0.125
    assert trial_seconds(_trial(), [2], MEASURED) == pytest.approx(fixed + event + second + taken_over)


def test_looks_repairs_and_questions_to_a_clock_take_their_time() -> None:
    """A repair per event, on the model of that epoch; the clock is asked after every epoch that may end in an event."""
    plain = trial_seconds(_trial(), [1, 2], MEASURED)
    filled = PruneConfig(
        "l1", repair="least_squares", allocator="least_used", clock="density_saturated", interval=1, until=2
    )
    trial = replace(_trial(), config=replace(_trial().config, prune=filled))
    slots = slots_of(filled)
    assert set(slots) == {"allocator", "repair", "clock"}
    assert slots_of(_trial().config.pruning) == {}
    seconds = {slots["allocator"]: 4.0, slots["repair"]: 8.0, slots["clock"]: 16.0}
    slow = trial_seconds(trial, [1, 2], replace(MEASURED, slot_s=seconds))
    assert slow - plain == pytest.approx(4.0 + 8.0 + 16.0 + 16.0 * 500 / 1000)


def test_a_larger_batch_means_fewer_longer_steps() -> None:
    assert trial_seconds(_trial(128), [1, 2], MEASURED) == pytest.approx(
        trial_seconds(_trial(), [1, 2], MEASURED)
    )


def test_the_makespan_is_that_of_first_come_first_served() -> None:
    assert makespan([3, 1, 1, 2], 1) == 7
    assert makespan([3, 1, 1, 2], 2) == 4
    assert makespan([3, 1, 1, 2], 9) == 3
    assert makespan([], 2) == 0


@pytest.mark.parametrize(("gpus", "slots"), [(0, 8), (1, 2), (2, 1), (4, 1), (0.5, 4), (0.4, 4)])
def test_no_more_trials_at_a_time_are_foreseen_than_there_are_gpus_for(
    monkeypatch: pytest.MonkeyPatch, gpus: float, slots: int
) -> None:
    """On sixteen CPUs and two GPUs; 0.4 of a GPU fits twice on each."""
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 2)
    assert module._slots(load_config(TREE, {"search.concurrency": 8, "resources.gpus": gpus})) == slots


def test_calibration_measures_every_part_of_a_real_trial() -> None:
    config = load_config(TREE)
    trial = config.space.resolve(config.space.first())
    filled = replace(trial.pruning, repair="least_squares", allocator="least_used", clock="density_saturated")
    measured = calibrate(trial, {"l1": {}, "random": {}}, [trial.pruning, filled])
    assert set(measured.slot_s) == set(slots_of(filled).values())
    assert all(0 < seconds < 60 for seconds in measured.slot_s.values())
    assert measured.steps == 5  # 300 images in batches of 64
    assert set(measured.score_s) == {"l1", "random"}
    assert measured.step.pruned_macs < measured.step.dense_macs
    parts = (
        measured.setup_s,
        measured.step.dense_s,
        measured.image.dense_s,
        measured.save_s,
        measured.latency_s,
    )
    assert all(0 < seconds < 60 for seconds in parts)
    assert measured.state_bytes > 0


# --- the command --------------------------------------------------------------------------------------------------


def test_plan_writes_nothing_and_says_time_and_disk(tmp_path: Path) -> None:
    config = load_config(TREE, {"storage": str(tmp_path)})
    prediction = forecast(config)
    # 12 trials and their baseline; the rehearsal says what of it is trained once
    assert (prediction.trials, prediction.baselines, prediction.epochs) == (12, 1, 13 * 12)
    assert prediction.epochs_trained < prediction.epochs
    assert prediction.stopped_share == 0.0
    assert 0 < prediction.device_hours < prediction.slots * prediction.wall_hours
    assert "time              about" in prediction.text()
    assert list(tmp_path.iterdir()) == []


def test_without_sharing_every_epoch_is_trained(tmp_path: Path) -> None:
    off = forecast(load_config(TREE, {"storage": str(tmp_path), "search.share": False}), timed=False)
    assert off.epochs_trained == off.epochs
    assert off.device_hours is off.wall_hours is None
    assert "time " not in off.text()


def test_confirmation_runs_and_a_small_disk_are_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_free", lambda folder: 1000)
    text = forecast(
        load_config(TREE, {"storage": str(tmp_path), "confirm": {"seeds": 3}}), timed=False
    ).text()
    assert "3 runs per member of the front" in text
    assert "the disk is too small: storage=FOLDER chooses another place" in text


def test_plan_says_which_share_of_the_space_is_too_dear_and_how_long_the_baseline_is(tmp_path: Path) -> None:
    """Paths of 2 or 9 dense epochs and cycles of 1 or 2 epochs at 50 and 25 %: 2.75, 3.5, 9.75 and 10.5 in all."""
    paths = {
        **TREE,
        "train": {"schedule": "cycles", "batch_size": 64},
        "prune": {
            "criterion": "l1",
            "start": {"choice": [2, 9]},
            "interval": {"choice": [1, 2]},
            "ratio": 0.5,
            "target": 0.75,
            "min_share": 0.05,
        },
        "search": {"trials": 2, "max_path_cost": 9.8},
        "storage": str(tmp_path),
    }
    some = forecast(load_config(paths), timed=False)
    assert (some.too_dear_share, some.impossible_share, some.baseline_epochs) == (0.25, 0.0, 10)
    assert "  too dear          25 % of the space (never proposed)" in some.text()
    assert "  baseline          10 epochs, unpruned" in some.text()
    most = forecast(load_config(paths, {"search.max_path_cost": 3}), timed=False)
    assert (most.too_dear_share, most.path_epochs) == (0.75, [4, 4])
    free = forecast(load_config(paths, {"search.max_path_cost": None}), timed=False)
    assert (free.too_dear_share, free.baseline_epochs) == (0.0, 11)
    single = forecast(load_config(TREE, {"storage": str(tmp_path)}), timed=False)
    assert (single.too_dear_share, single.baseline_epochs) == (0.0, None)
    assert "too dear" not in single.text()


def test_a_space_of_which_no_sampled_path_is_affordable_is_foreseen_all_the_same(tmp_path: Path) -> None:
    """Of a million schedules the twelve with start + 0.75 interval <= 5 are affordable (ends: 50 and 75 % removed)."""
    ranges = {"start": {"low": 1, "high": 1000}, "interval": {"low": 1, "high": 1000}}
    paths = {
        **TREE,
        "train": {"schedule": "cycles", "batch_size": 64},
        "prune": {"criterion": "l1", **ranges, "ratio": 0.5, "target": 0.75, "min_share": 0.05},
        "search": {"trials": 2, "max_path_cost": 5},
        "storage": str(tmp_path),
    }
    found = forecast(load_config(paths), timed=False)
    assert (found.too_dear_share, found.snapshots, found.path_epochs) == (1.0, 0, None)
    text = found.text()
    assert "too dear          100 % of the space (never proposed)" in text
    assert "as paths" not in text


@pytest.mark.parametrize(
    ("settings", "proposed"),
    [
        ({}, True),
        ({"prune.clock": "end"}, False),
        ({"prune.finish": True}, False),
        ({"prune.count": 20, "prune.ratio": None}, False),
    ],
)
def test_paths_are_proposed_only_where_they_take_the_settings(
    tmp_path: Path, settings: dict[str, object], proposed: bool
) -> None:
    config = load_config(TREE, {"storage": str(tmp_path), "prune.target": 0.3, **settings})
    assert ("as paths" in forecast(config, timed=False).text()) == proposed


def test_a_time_without_the_compiled_steps_says_so(tmp_path: Path) -> None:
    for compiled in ("off", "auto", "inductor"):  # on a CPU auto does nothing
        config = load_config(TREE, {"storage": str(tmp_path), "train.compile": compiled})
        timed = replace(forecast(config, timed=False), wall_hours=1.0, device_hours=2.0)
        assert ("at a time, without train.compile)" in timed.text()) == (compiled == "inductor")


def test_the_command_has_an_untimed_form(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(TREE))
    done = CliRunner().invoke(main, ["plan", str(file), f"storage={tmp_path}/runs", "--untimed", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["wall_hours"] is None


def test_baselines_are_counted_without_values_that_cannot_be_together() -> None:
    """Two by three combinations, one of which (Nesterov without a momentum) is refused."""
    searched = {"train.nesterov": {"choice": [False, True]}, "train.momentum": {"choice": [0.9, 0.0, 0.8]}}
    assert module.num_baselines(load_config(TREE, searched)) == 5


@pytest.mark.parametrize("tf32", [False, True])
def test_parts_are_timed_in_the_arithmetic_of_a_trial(monkeypatch: pytest.MonkeyPatch, tf32: bool) -> None:
    """cuDNN's own choice is TF32, which takes a fraction of the time of float32."""
    trial = load_config(TREE, {"train.tf32": tf32}).space.resolve({"prune.interval": 1, "prune.ratio": 0.3})
    trial = replace(trial, prune=replace(trial.prune, target=0.3))
    seen: dict[str, set[str]] = {"step": set(), "image": set(), "score": set()}
    for part, found in seen.items():

        def timed(*_: object, found: set[str] = found) -> float:
            found.add(torch.backends.cudnn.conv.fp32_precision)
            return 1.0

        monkeypatch.setattr(calibration, f"_{part}_s", timed)
    before = torch.backends.cudnn.conv.fp32_precision
    calibrate(trial)
    assert seen == {"step": {"tf32" if tf32 else "ieee"}, "image": {"ieee"}, "score": {"ieee"}}
    assert torch.backends.cudnn.conv.fp32_precision == before != "ieee"
