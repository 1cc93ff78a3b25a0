"""The search race: what each side has finished, what it cost, and what it is run as."""

from __future__ import annotations

import argparse
import json
import subprocess
import time

import pytest
import yaml

from benchmarks.head_to_head import chooser, measure, search_race
from benchmarks.head_to_head.picture import SEARCH_SIDES
from benchmarks.head_to_head.steps import (
    Step,
    baseline_steps,
    path_steps,
    peer_steps,
    polish_steps,
    reached,
    timeline,
    trial_steps,
)
from sweeps.config.sweep_config import load_config


def _snapshot(trial: str, level: int, left: float, accuracy: float, cost: float, seconds: float) -> dict:
    finals = {"left": left, "val_accuracy": accuracy, "test_accuracy": accuracy - 1, "train_cost": cost}
    return {"trial": trial, "level": level, **finals, "seconds": seconds}


def test_a_snapshot_costs_a_race_what_its_path_took_since_the_one_before():
    models = [
        _snapshot("t0001", 0, 1.0, 70.0, 4.0, 40.0),
        _snapshot("t0000", 1, 0.5, 72.0, 7.5, 90.0),
        _snapshot("t0000", 0, 1.0, 71.0, 4.0, 50.0),
    ]
    steps = sorted(path_steps(models), key=lambda step: step.seconds)
    assert [step.cost for step in steps] == [4.0, 4.0, 3.5]
    assert [step.model["val_accuracy"] for step in steps] == [70.0, 71.0, 72.0]


def test_a_polished_model_costs_a_race_what_came_after_its_snapshot():
    snapshots = [_snapshot("t0000", 1, 0.5, 72.0, 7.5, 90.0), _snapshot("t0001", 1, 0.5, 71.0, 9.0, 95.0)]
    polished = [_snapshot("t0001", 1, 0.5, 77.0, 15.0, 200.0)]
    (step,) = polish_steps(polished, snapshots)
    assert (step.seconds, step.cost, step.model["val_accuracy"]) == (200.0, 6.0, 77.0)


def test_the_best_models_are_polished_each_once_the_smallest_first(tmp_path, monkeypatch):
    """The smallest share has no model, two others have the same one."""
    best = {"macs <= 50%": "t0001@3", "macs <= 35%": "t0001@3", "macs <= 20%": "t0000@4"}
    asked = []

    def run_program(command, **options):
        asked.append(command[1:])
        if command[1] == "polish":
            return subprocess.CompletedProcess(command, 0)
        model = best.get(command[3])
        found = json.dumps({"chosen": [{"model": model, "level": 3}]} if model else {"error": "nothing"})
        return subprocess.CompletedProcess(command, 0 if model else 3, stdout=found.encode())

    monkeypatch.setattr(chooser.subprocess, "run", run_program)
    monkeypatch.setattr(chooser, "search", lambda config, until: asked.append([str(config), until]))
    deadline = time.time() + 1000
    spec = {"config": "c.yaml", "folder": str(tmp_path), "shares": [0.5, 0.1, 0.2, 0.35], "epochs": 12}
    chooser.main(spec | {"deadline": deadline, "polish_s": 400.0})
    assert asked[0] == ["c.yaml", deadline - 400]
    polished = [words[2:] for words in asked if words[0] == "polish"]
    assert polished == [["t0000@4", "train.epochs=12"], ["t0001@3", "train.epochs=12"]]


def test_a_trial_costs_a_race_the_epochs_it_trained_itself_and_a_stopped_one_leads_to_no_model():
    def trial(name: str, status: str, trained: int, **finals: float) -> measure.Trial:
        return measure.Trial(name, "trial", (), status, 10.0, trained, (1000, 600, 600, 600), **finals)

    whole = trial("a", "complete", 4, val_accuracy=70.0, test_accuracy=69.0, macs=600_000.0)
    shared = trial("b", "complete", 2, val_accuracy=71.0, test_accuracy=70.0, macs=600_000.0)
    steps = list(trial_steps([whole, shared, trial("c", "stopped", 1)], dense=1_000_000))
    assert [step.cost for step in steps] == pytest.approx([1 + 1 + 0.6 + 0.6, 0.6 + 0.6, 0.6])
    assert [step.model and step.model["left"] for step in steps] == [0.6, 0.6, None]


def test_the_scores_of_a_trial_are_in_its_cost_in_a_race():
    def trial(cost: float | None) -> measure.Trial:
        return measure.Trial("a", "trial", (), "stopped", 10.0, 2, (1000, 600), train_cost=cost)

    # Alone its two epochs cost 2, and what was looked at 0.06.
    steps = list(trial_steps([trial(None), trial(2.06)], dense=1_000_000))
    assert [step.cost for step in steps] == pytest.approx([2.0, 2.06])


def test_the_gradients_that_taylor_importance_takes_are_in_the_cost_of_the_peer(tmp_path):
    for importance in ("l1", "taylor"):
        config = {"importance": importance, "epochs": 4, "until": 0.5, "interval": 1}
        last = {"left": 0.25, "val_accuracy": 70.0, "test_accuracy": 69.0}
        rows = [
            {"epoch": epoch, "train_cost": cost, "timestamp": 100 + epoch, "config": config}
            for epoch, cost in ((1, 1.0), (2, 1.5), (3, 1.75), (4, 2.0))
        ]
        (tmp_path / importance).mkdir()
        text = "".join(json.dumps(row | (last if row["epoch"] == 4 else {})) + "\n" for row in rows)
        (tmp_path / importance / "result.json").write_text(text)
    plain, taylor = peer_steps(tmp_path, started=100.0, looked=0.05)
    assert (plain.seconds, plain.cost) == (4.0, 2.0)
    # Events after the epochs 1 and 2, of the whole net and of half of it.
    assert taylor.cost == pytest.approx(2.0 + 0.05 * (1 + 0.5))


def test_the_unpruned_net_of_a_race_of_paths_is_charged_from_the_start():
    def baseline(end: float | None, trained: int = 18) -> measure.Trial:
        return measure.Trial("b0000", "baseline", (), "unfinished", end, trained, ())

    def charged(trial: measure.Trial, from_the_start: bool) -> list[tuple[float, float]]:
        return [(one.seconds, one.cost) for one in baseline_steps([trial], from_the_start)]

    assert charged(baseline(400.0), True) == charged(baseline(None), True) == [(0.0, 18.0)]
    assert charged(baseline(400.0), False) == [(400.0, 18.0)]
    assert charged(baseline(None), False) == charged(baseline(None, 0), True) == []


@pytest.fixture
def search_options(tmp_path):
    return argparse.Namespace(path=tmp_path / "cifar10", seed=7, cores=2, smoke=False, minutes=45.0, note="")


@pytest.mark.parametrize("side", search_race.SIDES)
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ""),
        ({"minutes": 20.0}, ""),
        ({"seed": 8}, "with --seed 7, not 8"),
        ({"cores": 4}, "with --cores 2, not 4"),
        ({"smoke": True}, "with images 10000, not 400"),
        ({"minutes": 60.0}, "for 45.0 minutes"),
    ],
)
def test_a_side_of_a_search_race_is_judged_as_what_it_was_run_as(tmp_path, search_options, side, more, said):
    ended = "by itself" if side in ("peer", "polished") else "asked"
    ran = {"started": 1000.0, "seconds": 2701.0, "ended": ended, "exit_code": 0, "leftovers": 0, "load": []}
    (tmp_path / "ran.json").write_text(json.dumps(ran))
    if side == "peer":
        spec = {"seed": 7, "cores": 2, "train_rows": [0] * 10_000, "deadline": 3700.0}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
    else:
        tree = search_race.config_of(side, search_options, tmp_path)
        (tmp_path / "ours.yaml").write_text(yaml.safe_dump(tree))
        (tmp_path / "spec.json").write_text(json.dumps({"deadline": 3700.0}))
    vars(search_options).update(more)
    if side == "polished" and more.get("minutes") == 20.0:
        said = "for 45.0 minutes"  # it would have chosen earlier
    if not said:
        search_race.check(side, tmp_path, search_options)
        return
    with pytest.raises(SystemExit, match=said):
        search_race.check(side, tmp_path, search_options)


def test_the_time_line_of_a_race_grows_with_every_step_and_tells_when_a_level_was_reached():
    def step(seconds: float, left: float, accuracy: float) -> Step:
        return Step(seconds, 2.0, {"left": left, "val_accuracy": accuracy, "test_accuracy": accuracy})

    # Dominated boxes by hand: 73.24 is the top, 10 the bottom of one anchor, 63.24 that of the other.
    rows = timeline([step(1.0, 0.5, 73.24), Step(2.0, 2.0, None), step(3.0, 0.25, 68.24)])
    assert [row["hypervolume, from chance"] for row in rows] == [0.5, 0.5, 0.7302]
    assert [row["hypervolume, usable"] for row in rows] == [0.5, 0.5, 0.625]
    assert [(row["training cost"], row["models"]) for row in rows] == [(2.0, 1), (4.0, 1), (6.0, 2)]
    assert reached(rows, "hypervolume, usable", 0.6) == 3.0
    assert reached(rows, "hypervolume, usable", 0.6, "training cost") == 6.0
    assert reached(rows, "hypervolume, usable", 0.7) is None


def test_the_guide_is_a_sweep_of_its_three_settings_and_of_nothing_else(tmp_path, search_options):
    config = load_config(search_race.config_of("guide", search_options, tmp_path))
    assert config.search.trials == len(config.search.points) == 3
    assert config.tree["prune"]["criterion"] == "frs"
    assert config.tree["train"]["restart"] == 1.0


def test_every_side_of_a_race_is_drawn():
    assert set(SEARCH_SIDES) == set(search_race.SIDES)


def test_another_side_is_overtaken_on_test_by_the_models_that_validation_chose():
    def step(seconds: float, val: float, test: float) -> Step:
        return Step(seconds, 2.0, {"left": 0.5, "val_accuracy": val, "test_accuracy": test})

    rows = timeline([step(1.0, 70.0, 72.0), step(2.0, 71.0, 70.0), step(3.0, 72.0, 72.0)])
    on_test = [row["hypervolume of the test accuracy, from chance"] for row in rows]
    assert on_test[0] == on_test[2] > on_test[1]
    found = search_race.overtaken(rows, rows[2])
    assert found["from chance"] == {"seconds": 3.0, "training cost": 6.0}
    assert found["from chance, on test"] == {"seconds": 1.0, "training cost": 2.0}
