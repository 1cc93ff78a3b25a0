"""The live front: its hypervolume, a scale before the baseline of paths has ended, and what one path is worth."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from gcp_core.schema import FINALS, snapshot_artifact
from sweeps.config.limits import WITHOUT_SCALE
from sweeps.config.sweep_config import SearchConfig
from sweeps.records.job import Job, Snap
from sweeps.records.ledger import SnapshotRecord
from sweeps.strategy.front import LiveFront
from tests.sweeps.inline import OF_PATHS, PATHS, config, drive, new_conductor

GOALS = {"val_accuracy": "max", "macs": "min"}
UNPRUNED = {"val_accuracy": 80.0, "macs": 1000.0, "params": 10.0, "train_cost": 2.0, "epochs": 2.0}


def job(tmp_path: Path, number: int = 3, classes: int | None = None) -> Job:
    checked = config(tmp_path, {**OF_PATHS, "baseline.epochs": 20})
    point = checked.space.first()
    name = f"t{number:04d}"
    folder = tmp_path / name
    if classes is not None:
        file = folder / snapshot_artifact(0, "model/manifest.json")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"num_classes": classes}))
    return Job(name, "trial", number, checked.space.resolve(point), point, str(folder))


def _front(tmp_path: Path, *points: tuple[float, float] | None) -> LiveFront:
    """Ten classes, a baseline of 90 % at 1000 MACs: the box is 80 .. 90 % by 1000 .. 0 MACs."""
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "manifest.json").write_text(json.dumps({"num_classes": 10}))
    front = LiveFront(GOALS)
    front.baseline({"val_accuracy": 90.0, "macs": 1000.0}, tmp_path)
    for point in points:
        front.trial(None if point is None else {"val_accuracy": point[0], "macs": point[1], "params": 1.0})
    return front


def test_the_best_snapshot_0_stands_for_the_baseline_until_one_has_ended(tmp_path: Path) -> None:
    front = LiveFront(GOALS)
    front.trial({"val_accuracy": 78.0, "macs": 500.0})
    assert (front.scale(), front.hypervolume(), front.hypervolume_of([]), front.stand_in) == (
        None,
        None,
        None,
        "",
    )
    front.unpruned(job(tmp_path, 3), UNPRUNED)
    assert front.scale() == ({"val_accuracy": 70.0, "macs": 1000.0}, {"val_accuracy": 80.0, "macs": 0.0})
    assert front.hypervolume() == pytest.approx(0.8 * 0.5)
    front.unpruned(job(tmp_path, 4), {**UNPRUNED, "val_accuracy": 79.0, "macs": 900.0})
    assert front.stand_in == "t0003@0", "the best one"
    front.unpruned(job(tmp_path, 5), {**UNPRUNED, "val_accuracy": float("nan")})
    front.unpruned(job(tmp_path, 6), {**UNPRUNED, "val_accuracy": 82.0})
    assert front.stand_in == "t0006@0"
    assert front.hypervolume() == pytest.approx(0.6 * 0.5)
    front.baseline({"val_accuracy": 85.0, "macs": 1000.0}, tmp_path)
    assert (front.stand_in, front.scale()[0]["val_accuracy"]) == ("", 75.0)
    assert front.hypervolume() == pytest.approx(0.3 * 0.5)
    front.unpruned(job(tmp_path, 7), {**UNPRUNED, "val_accuracy": 99.0})
    assert (front.stand_in, front.scale()[0]["val_accuracy"]) == ("", 75.0), "a baseline stays"


def test_what_a_path_is_worth_is_the_hypervolume_of_its_models_alone(tmp_path: Path) -> None:
    front = LiveFront(GOALS)
    front.unpruned(job(tmp_path), UNPRUNED)
    front.trial({"val_accuracy": 80.0, "macs": 10.0})
    rows = [{"val_accuracy": 80.0, "macs": 1000.0}, {"val_accuracy": 79.0, "macs": 500.0}]
    assert front.hypervolume_of(rows) == pytest.approx(0.9 * 0.5)
    assert front.hypervolume_of([]) == 0.0


def test_the_scale_never_begins_below_chance_which_the_snapshots_manifest_tells(tmp_path: Path) -> None:
    front = LiveFront(GOALS)
    front.unpruned(job(tmp_path, classes=2), {**UNPRUNED, "val_accuracy": 55.0})
    assert front.scale()[0]["val_accuracy"] == 50.0


def test_the_cost_of_training_is_scaled_to_the_baselines_length(tmp_path: Path) -> None:
    front = LiveFront({"val_accuracy": "max", "train_cost": "min"})
    front.unpruned(job(tmp_path), UNPRUNED)
    assert front.scale()[0]["train_cost"] == pytest.approx(20.0)


def test_objectives_without_a_scale_of_the_task_have_none(tmp_path: Path) -> None:
    front = LiveFront({"compression": "max"})
    front.unpruned(job(tmp_path), {**UNPRUNED, "compression": 1.0})
    assert (front.scale(), front.hypervolume_of([{"compression": 2.0}])) == (None, None)


def test_a_driver_that_takes_over_knows_what_stood_for_the_baseline(tmp_path: Path) -> None:
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 1})
    conductor, _, ledger = new_conductor(checked)
    one = conductor.next_job()
    conductor.snapshot(one.trial_id, Snap(0, 2, {**UNPRUNED, "macs_removed": 0.0}))
    assert conductor._front.stand_in == "t0000@0"
    front = LiveFront(GOALS)
    front.recall(ledger.records("trial"), [], ledger.snapshots())
    assert (front.stand_in, front.scale()) == ("t0000@0", conductor._front.scale())


def test_a_driver_that_takes_over_sees_the_front_grow_in_the_order_in_which_trials_ended(
    tmp_path: Path,
) -> None:
    """After t0001, which ended first, t0000 added nothing. By their numbers all growth would have come last."""
    conductor, _, ledger = new_conductor(config(tmp_path, {"search.trials": 2}))
    drive(conductor)
    poor, good = ({"val_accuracy": 86.0, "macs": 900_000.0}, {"val_accuracy": 94.0, "macs": 100_000.0})
    records = [
        dataclasses.replace(record, finals=finals, values=tuple(finals.values()), ended_ms=ended_ms)
        for record, finals, ended_ms in zip(ledger.records("trial"), (poor, good), (20, 10), strict=True)
    ]
    front = LiveFront(GOALS)
    front.recall(records, ledger.records("baseline"))
    # The box is 85 .. 95 % by 1,000,000 .. 0 MACs.
    assert front.hypervolume(1) == pytest.approx(0.9 * 0.9)
    assert front.growth(1) == pytest.approx(0.0)


def test_an_infeasible_snapshot_0_stands_for_the_baseline_too(tmp_path: Path) -> None:
    """Its accuracy is that of the unpruned net; that it costs too much is no matter."""
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 1, "search.constraints": ["macs <= 600"]})
    conductor, _, _ = new_conductor(checked)
    one = conductor.next_job()
    conductor.snapshot(one.trial_id, Snap(0, 2, {**UNPRUNED, "macs_removed": 0.0}))
    assert (conductor._front.stand_in, conductor._front.complete) == ("t0000@0", 0)
    known = SnapshotRecord(
        "t0000", Snap(0, 2, UNPRUNED, status="infeasible"), (80.0, 1000.0), {"macs <= 600": 400.0}
    )
    front = LiveFront(GOALS)
    front.recall(conductor._ledger.records("trial"), [], {"t0000": [known]})
    assert front.stand_in == "t0000@0"


def test_tracker_and_progress_are_told_what_stands_for_the_baseline(tmp_path: Path) -> None:
    conductor, recorder, _ = new_conductor(config(tmp_path, {**OF_PATHS, "search.trials": 2}))
    drive(conductor, PATHS)
    told = [call[-1] for call in recorder.calls if call[0] == "front"]
    assert told == ["t0000@0", "", ""], "the first path ended before its baseline"


def test_the_hypervolume_and_its_growth_are_those_of_all_trials_though_only_the_best_are_looked_at(
    tmp_path,
) -> None:
    rng, rows = random.Random(0), []
    front = LiveFront({"val_accuracy": "max", "macs": "min"})
    front.baseline({"val_accuracy": 90.0, "macs": 100.0}, tmp_path)
    for number in range(120):
        row = {"val_accuracy": float(rng.randint(80, 92)), "macs": float(rng.randint(1, 20) * 5)}
        rows.append(None if rng.random() < 0.1 else row)
        front.trial(rows[-1])
        if number % 3 == 0:
            assert front.hypervolume() == pytest.approx(front.hypervolume_of([r for r in rows if r]))
        if number % 7 == 0 and number > 20:
            assert front.hypervolume(20) == pytest.approx(front.hypervolume_of([r for r in rows[:-20] if r]))


def test_in_a_sweep_of_paths_a_trial_is_a_path_with_all_its_models(tmp_path) -> None:
    """Two paths of three models each: the second one's models added a good deal, only its last two nothing."""
    front = LiveFront({"val_accuracy": "max", "macs": "min"})
    front.baseline({"val_accuracy": 90.0, "macs": 100.0}, tmp_path)
    for trial_id, accuracies in (("t0000", (82.0, 82.0, 82.0)), ("t0001", (88.0, 82.0, 82.0))):
        assert front.growth(1) is None, "no path ended before the last one"
        for accuracy in accuracies:
            front.model({"val_accuracy": accuracy, "macs": 50.0})
        front.path_left(trial_id)
    # The box is 80 .. 90 % by 100 .. 0 MACs.
    assert front.growth(1) == pytest.approx(100 * (0.8 / 0.2 - 1))
    front.path_left("t0000")
    assert front.growth(1) == pytest.approx(100 * (0.8 / 0.2 - 1)), "it rested, and has now ended: one path"
    front.model({"val_accuracy": 82.0, "macs": 50.0})
    front.path_left("t0000")
    assert front.growth(1) == pytest.approx(0.0), "it went on, and rests again"


def test_a_driver_that_takes_over_counts_paths_that_rest_or_ended_as_trials(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path, {**OF_PATHS, "search.trials": 2}))
    drive(conductor, PATHS)
    front = LiveFront(GOALS)
    front.recall(ledger.records("trial"), ledger.records("baseline"), ledger.snapshots())
    assert len(ledger.snapshots()) == 2
    assert front._ends == [front._ends[0], len(front._rows)] == conductor._front._ends


# --- the hypervolume of single trials --------------------------------------------------------------------------------


def test_the_hypervolume_is_the_share_of_the_box_below_the_front(tmp_path: Path) -> None:
    # (85 - 80) / 10 wide times (1000 - 250) / 1000 high, then a step of (87.5 - 85) / 10 times 0.5 more.
    assert _front(tmp_path, (85.0, 250.0)).hypervolume() == pytest.approx(0.5 * 0.75)
    front = _front(tmp_path, (85.0, 250.0), None, (87.5, 500.0))
    assert front.hypervolume() == pytest.approx(0.5 * 0.75 + 0.25 * 0.5)
    assert front.complete == 2
    assert front.growth(1) == pytest.approx(100 * 0.125 / 0.375)
    assert front.growth(2) == pytest.approx(100 * 0.125 / 0.375), "a failed trial counts as one of the last"


def test_there_is_no_hypervolume_before_the_baseline_and_no_growth_out_of_nothing(tmp_path: Path) -> None:
    early = LiveFront(GOALS)
    early.trial({"val_accuracy": 85.0, "macs": 250.0})
    assert early.hypervolume() is None
    assert early.growth(1) is None
    assert _front(tmp_path).hypervolume() == 0.0
    assert _front(tmp_path, (85.0, 250.0)).growth(1) is None
    assert _front(tmp_path, None, (85.0, 250.0)).growth(1) is None


def test_an_objective_without_a_scale_of_the_task_has_no_hypervolume_while_the_sweep_runs(
    tmp_path: Path,
) -> None:
    front = LiveFront({"val_accuracy": "max", "compression": "max"})
    front.baseline({"val_accuracy": 90.0, "compression": 1.0}, tmp_path)
    front.trial({"val_accuracy": 80.0, "compression": 2.0})
    assert front.hypervolume() is None


def test_a_plateau_needs_objectives_with_a_scale_of_the_task(tmp_path: Path) -> None:
    finals = dict.fromkeys(FINALS, 0.5) | {"val_accuracy": 90.0, "test_accuracy": 90.0}
    for name in FINALS:
        front = LiveFront({name: "max"})
        front.baseline(finals, tmp_path)
        assert (front.hypervolume() is None) == (name in WITHOUT_SCALE), name
    with pytest.raises(ConfigError, match=r"search\.plateau: the objective compression has no fixed scale"):
        SearchConfig(objectives={"compression": "max"}, plateau="1% over 5 trials")


def test_it_is_what_analysis_publishes(tmp_path: Path) -> None:
    import pandas as pd

    from analysis.front.anchors import anchors_for
    from analysis.front.pareto import hypervolume

    points = [(85.0, 250.0), (87.5, 500.0), (86.0, 600.0), (91.0, 900.0)]
    table = pd.DataFrame([(90.0, 1000.0), *points], columns=list(GOALS))
    table["kind"] = ["baseline", *["trial"] * len(points)]
    table["candidate"] = table["kind"] == "trial"
    table.attrs["chance"] = 10.0
    expected = hypervolume(table, GOALS, anchors_for(table, GOALS)).value
    assert _front(tmp_path, *points).hypervolume() == pytest.approx(expected)
