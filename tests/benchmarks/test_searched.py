"""The benchmark that holds two searches against each other at equal cost."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sweeps.commands.polish as command
from benchmarks.head_to_head import front_race, search_race
from benchmarks.head_to_head.steps import Step
from benchmarks.search import searched
from sweeps.config.sweep_config import load_config
from tests.sweeps.commands.polish import polishing


def step(seconds: float, cost: float, left: float | None = None, accuracy: float = 70.0) -> Step:
    model = {"left": left, "val_accuracy": accuracy, "test_accuracy": accuracy - 1}
    return Step(seconds, cost, None if left is None else model)


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        path=tmp_path, work=tmp_path, cost=40.0, seed=7, cores=2, smoke=True, sides=["paths"]
    )


@pytest.mark.parametrize("side", searched.SIDES)
@pytest.mark.parametrize("smoke", [False, True])
def test_the_sweep_of_a_side_is_a_config_without_points_found_on_this_data(side, smoke, options):
    options.smoke = smoke
    tree = searched.config_of(side, options, Path("w"))
    config = load_config(tree)
    assert config.search.points == ()
    assert config.tree["seed"] == 7
    assert config.search.trials == search_race.TRIALS


def test_what_goes_beyond_the_cost_does_not_count():
    steps = [step(30.0, 5.0, 0.5), step(10.0, 4.0, 0.9), step(20.0, 4.0), step(40.0, 0.1, 0.4)]
    # In the order of time; nothing that came after the first one too many, however cheap it was.
    assert [one.seconds for one in searched.within(steps, 12.9)] == [10.0, 20.0]
    assert [one.seconds for one in searched.within(steps, 13.0)] == [10.0, 20.0, 30.0]


def test_sides_are_judged_at_parts_of_the_cost():
    singles = [step(1.0, 10.0), step(2.0, 10.0, 0.5, 70.0), step(3.0, 20.0, 0.2, 68.0)]
    paths = [step(1.0, 10.0, 1.0, 71.0), step(2.0, 10.0, 0.2, 72.0), step(3.0, 25.0, 0.1, 73.0)]
    found, rows = searched.judge({"paths": paths, "singles": singles}, cost=40.0)
    name = "val accuracy at 20% of the MACs"
    by_cost = {part: found["sides"]["paths"][f"after {part} dense epochs"][name] for part in (10, 20, 30, 40)}
    assert by_cost == {10: None, 20: 72.0, 30: 72.0, 40: 72.0}, "its third model would have cost 45"
    assert [row["training cost"] for row in rows["paths"]] == [10.0, 20.0]
    needed = found["dense epochs to the last hypervolume of the single trials"]
    assert needed["paths"] == {"from chance": 20.0, "usable": 20.0}
    assert needed["singles"] == {"from chance": 40.0, "usable": 40.0}


def test_a_sweep_is_asked_to_end_when_it_is_enough(options, tmp_path, monkeypatch):
    """The stand-in for the sweep makes a step a look, and writes how it was ended."""
    place = tmp_path / "paths"
    script = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    pathlib.Path('ended').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end)\n"
        "pathlib.Path('ours').mkdir()\n"
        "while True: time.sleep(0.01)\n"
    )
    real = subprocess.Popen
    monkeypatch.setattr(
        searched.subprocess,
        "Popen",
        lambda command, **how: real([sys.executable, "-c", script], cwd=place, **how),
    )
    monkeypatch.setattr(searched, "LOOK_S", 0.05)
    looks = []

    def our_steps(side, folder, started):
        looks.append(side)
        return [step(float(n), 15.0) for n in range(len(looks))]

    monkeypatch.setattr(searched, "our_steps", our_steps)
    searched.run("paths", options, place)
    assert (place / "ended").exists()
    assert len(looks) == 3, "15, 30, 45 of 40 dense epochs"
    searched.run("paths", options, place)
    assert len(looks) == 4, "there already: nothing is started"
    options.seed = 8
    with pytest.raises(SystemExit, match="begun with other settings"):
        searched.run("paths", options, place)


def test_a_sweep_that_ends_by_itself_is_not_enough():
    sweep = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SystemExit, match="by itself, with code 3"):
        searched.watch(sweep, lambda: False)


def test_models_of_before_the_polish_are_polished_and_cost_what_came_after(
    tmp_path, monkeypatch, options, empty_store
):
    """A real sweep of two paths; of the second nothing is finished yet when models are chosen."""
    place = tmp_path / "paths"
    polishing.made(place, empty_store, name="ours")
    (place / "ours.yaml").write_text(yaml.safe_dump(polishing.TREE))
    monkeypatch.setattr(command, "_write", lambda *_: 0)  # neither MLflow nor figures
    asked = []

    def polish(folder, models, epochs, deadline):
        for model in models:
            asked.append(model)
            assert polishing.call("polish", str(folder), model, f"train.epochs={epochs}").exit_code == 0

    monkeypatch.setattr(searched, "polish", polish)
    monkeypatch.setattr(searched, "CHOSEN", [0.5, 1.0])
    models = front_race.models_of_ours(place, 0.0)
    whole = sorted(searched.our_steps("paths", place, 0.0), key=lambda one: one.seconds)
    assert len(whole) == len(models) + 1, "all snapshots, and the unpruned baseline"
    options.cost = searched.cost_of(whole[:4]) + searched.kept_for_polish(options)
    steps = searched.polished_steps(options, place)
    assert steps[:4] == whole[:4]
    first = [one for one in models if one["seconds"] <= whole[3].seconds]
    best = [front_race.chosen(first, share) for share in (0.5, 1.0)]
    assert asked == list(dict.fromkeys(f"{one['trial']}@{one['level']}" for one in best))
    assert {name.split("@")[0] for name in asked} == {"t0000"}
    for one in steps[4:]:
        # An epoch of what is left of the net.
        assert one.cost == pytest.approx(one.model["left"], abs=1e-3)
    assert searched.polished_steps(options, place) == steps
    assert len(asked) == len(steps) - 4, "what is there is not polished again"


def test_the_picture_and_the_table_have_every_side(tmp_path):
    sides = {name: [step(1.0, 4.0), step(2.0, 6.0, 0.5)] for name in ("paths", "polished", "singles")}
    found, rows = searched.judge(sides, cost=10.0)
    searched.draw_search(tmp_path / "out", rows, found | {"cost": 10.0}, by="training cost")
    assert (tmp_path / "out.png").stat().st_size > 10_000
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["side", *(side for side in sides for _ in (1, 2))]
    assert list(found["sides"]["polished"]) == ["after 10 dense epochs", "models made"]
    json.dumps(found)  # what the record is written as
