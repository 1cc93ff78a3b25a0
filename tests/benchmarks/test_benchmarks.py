"""What the benchmarks read from a trial's folder, on folders that today's code has left."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks import trial_logs
from benchmarks.head_to_head import chooser, front_race, measure, run, search_race
from benchmarks.head_to_head.run import Ran
from benchmarks.record import ROOT
from sweeps.config.sweep_config import load_config
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.sweeps.inline import drive, new_conductor

SMALL = {
    "name": "small",
    "data": {"name": "digits", "train_images": 96, "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.125},
}
PATHS = {
    "train": {"schedule": "cycles", "batch_size": 32},
    "prune": {
        "start": 2,
        "interval": {"choice": [1, 2]},
        "levels": [0.3, 0.5],
        "min_channels": 1,
        "min_share": 0.03,
    },
    "baseline": {"epochs": 3},
}
SINGLE = {
    "train": {"epochs": 3, "batch_size": 32},
    "prune": {"criterion": "l1", "interval": {"choice": [1, 2]}, "ratio": 0.3, "target": 0.3},
}


def logs_of(storage: Path, part: dict) -> dict[str, trial_logs.TrialLog]:
    """Name of every trial of a sweep that is really trained here -> its log."""
    checked = load_config(
        {**SMALL, **part, "search": {"sampler": "grid", "trials": None}}, {"storage": str(storage)}
    )
    conductor, _, _ = new_conductor(checked)
    drive(conductor, DEFAULT_RUNNER)
    return {path.name: trial_logs.read(path) for path in Path(checked.folder).glob("trials/*")}


def test_the_log_of_a_path_tells_its_epochs_and_snapshots(tmp_path):
    logs = logs_of(tmp_path, PATHS)
    (first,), (second,) = logs["t0000"].attempts, logs["t0001"].attempts
    assert (first.trained, first.taken_over) == ((1, 2, 3, 4), ())
    assert first.snapshots == ((0, 2), (1, 3), (2, 4))
    assert (second.trained, second.taken_over) == ((3, 4, 5, 6), (1, 2)), "the dense phase is shared"
    assert second.snapshots == ((0, 2), (1, 4), (2, 6))
    assert (first.ended, second.ended) == ("complete", "complete")


def test_the_log_of_a_single_trial_tells_its_epochs(tmp_path):
    logs = logs_of(tmp_path, SINGLE)
    assert logs["b0000"].attempts[0].trained == (1, 2, 3)
    (attempt,) = logs["t0000"].attempts
    assert (attempt.trained, attempt.taken_over, attempt.snapshots) == ((2, 3), (1,), ())


def test_what_was_trained_again_after_a_snapshot_was_finished_is_found():
    line = "2026-01-01 00:00:00,000 INFO "
    epoch = line + "gcp_core.training.observe: epoch {}/?  loss 1.0"
    start = line + "sweeps.worker.trial: t0000 starts in process {}: {{}}"
    taken = line + "gcp_core.training.path: snapshot {} after epoch {}: 90 % validation accuracy"
    first = [start.format(1), epoch.format(1), epoch.format(2), taken.format(0, 2), epoch.format(3)]
    sound = trial_logs.parse("\n".join([*first, start.format(2), epoch.format(3), epoch.format(4)]))
    assert (sound.epochs_trained, sound.epochs_repeated, sound.snapshots_retrained) == (5, [1], set())
    lost = trial_logs.parse("\n".join([*first, start.format(2), epoch.format(2), epoch.format(3)]))
    assert (lost.epochs_repeated, lost.snapshots_retrained) == ([2], {0})


def _snapshot(trial: str, level: int, left: float, accuracy: float, cost: float, seconds: float) -> dict:
    finals = {"left": left, "val_accuracy": accuracy, "test_accuracy": accuracy - 1, "train_cost": cost}
    return {"trial": trial, "level": level, **finals, "seconds": seconds}


def test_a_snapshot_costs_a_race_what_its_path_took_since_the_one_before():
    models = [
        _snapshot("t0001", 0, 1.0, 70.0, 4.0, 40.0),
        _snapshot("t0000", 1, 0.5, 72.0, 7.5, 90.0),
        _snapshot("t0000", 0, 1.0, 71.0, 4.0, 50.0),
    ]
    steps = sorted(search_race.path_steps(models), key=lambda step: step.seconds)
    assert [step.cost for step in steps] == [4.0, 4.0, 3.5]
    assert [step.model["val_accuracy"] for step in steps] == [70.0, 71.0, 72.0]


def test_a_polished_model_costs_a_race_what_came_after_its_snapshot():
    snapshots = [_snapshot("t0000", 1, 0.5, 72.0, 7.5, 90.0), _snapshot("t0001", 1, 0.5, 71.0, 9.0, 95.0)]
    polished = [_snapshot("t0001", 1, 0.5, 77.0, 15.0, 200.0)]
    (step,) = search_race.polish_steps(polished, snapshots)
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
    steps = list(search_race.trial_steps([whole, shared, trial("c", "stopped", 1)], dense=1_000_000))
    assert [step.cost for step in steps] == pytest.approx([1 + 1 + 0.6 + 0.6, 0.6 + 0.6, 0.6])
    assert [step.model and step.model["left"] for step in steps] == [0.6, 0.6, None]


def test_the_scores_of_a_trial_are_in_its_cost_in_a_race():
    def trial(cost: float | None) -> measure.Trial:
        return measure.Trial("a", "trial", (), "stopped", 10.0, 2, (1000, 600), train_cost=cost)

    # Alone its two epochs cost 2, and what was looked at 0.06.
    steps = list(search_race.trial_steps([trial(None), trial(2.06)], dense=1_000_000))
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
    plain, taylor = search_race.peer_steps(tmp_path, started=100.0, looked=0.05)
    assert (plain.seconds, plain.cost) == (4.0, 2.0)
    # Events after the epochs 1 and 2, of the whole net and of half of it.
    assert taylor.cost == pytest.approx(2.0 + 0.05 * (1 + 0.5))


def test_the_unpruned_net_of_a_race_of_paths_is_charged_from_the_start():
    def baseline(end: float | None, trained: int = 18) -> measure.Trial:
        return measure.Trial("b0000", "baseline", (), "unfinished", end, trained, ())

    def charged(trial: measure.Trial, from_the_start: bool) -> list[tuple[float, float]]:
        return [(one.seconds, one.cost) for one in search_race.baseline_steps([trial], from_the_start)]

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
    def step(seconds: float, left: float, accuracy: float) -> search_race.Step:
        return search_race.Step(
            seconds, 2.0, {"left": left, "val_accuracy": accuracy, "test_accuracy": accuracy}
        )

    # Dominated boxes by hand: 73.24 is the top, 10 the bottom of one anchor, 63.24 that of the other.
    rows = search_race.timeline(
        [step(1.0, 0.5, 73.24), search_race.Step(2.0, 2.0, None), step(3.0, 0.25, 68.24)]
    )
    assert [row["hypervolume, from chance"] for row in rows] == [0.5, 0.5, 0.7302]
    assert [row["hypervolume, usable"] for row in rows] == [0.5, 0.5, 0.625]
    assert [(row["training cost"], row["models"]) for row in rows] == [(2.0, 1), (4.0, 1), (6.0, 2)]
    assert search_race.reached(rows, "usable", 0.6) == 3.0
    assert search_race.reached(rows, "usable", 0.6, "training cost") == 6.0
    assert search_race.reached(rows, "usable", 0.7) is None


def test_two_records_of_a_race_become_one_with_the_seeds_of_both():
    def rows(seed: int, value: float) -> dict:
        return {"ours": {"seeds": [seed], "models": [7], "cost": {"seeds": [value], "mean": value}}}

    both = front_race.joined(rows(1, 4.0), rows(0, 2.0))["ours"]
    assert (both["seeds"], both["models"]) == ([0, 1], [7, 7])
    assert (both["cost"]["seeds"], both["cost"]["mean"]) == ([2.0, 4.0], 3.0)
    assert both["cost"]["half_width"] == pytest.approx(12.706, abs=1e-3)


def test_a_seed_that_both_records_of_a_race_have_is_refused_and_a_side_of_one_of_them_is_kept():
    rows = {"seeds": [1], "models": [7], "cost": {"seeds": [4.0], "mean": 4.0}}
    with pytest.raises(SystemExit, match="ours: the earlier record has seed 1, too"):
        front_race.joined({"ours": rows}, {"ours": rows})
    both = front_race.joined(
        {"ours": rows, "steps": rows}, {"ours": {**rows, "seeds": [0]}, "one_shot": rows}
    )
    assert both["ours"]["seeds"] == [0, 1]
    assert both["steps"] == both["one_shot"] == rows


@pytest.fixture
def front_options(monkeypatch, tmp_path):
    """A front race that starts nothing: every side ends at once, having left a line of its own."""

    def ends(command, seconds, log, environment, stop):
        command(1000.0)
        with (log.parent / "models.jsonl").open("a") as file:
            file.write("{}\n")
        return Ran(0.0, 1.0, "by itself", 0, 0, [])

    monkeypatch.setattr(front_race, "run_side", ends)
    monkeypatch.setattr(
        front_race, "rows_of", lambda tree: {"train_rows": [1], "val_rows": [2], "epoch_val": [0]}
    )
    return argparse.Namespace(path=tmp_path / "cifar10", smoke=False, cores=2, seeds=[0])


def test_a_side_of_a_front_race_that_was_interrupted_begins_anew(front_options, tmp_path):
    place = tmp_path / "seed-0" / "steps"
    place.mkdir(parents=True)
    (place / "models.jsonl").write_text("what an interrupted call left\n")
    front_race.run("steps", front_options, 0, tmp_path)
    assert (place / "models.jsonl").read_text() == "{}\n"
    front_race.run("steps", front_options, 0, tmp_path)
    assert (place / "models.jsonl").read_text() == "{}\n", "it came to its end, and is not run again"


@pytest.mark.parametrize("side", ["ours", "steps"])
def test_a_side_of_a_front_race_that_was_run_with_other_settings_is_refused(front_options, tmp_path, side):
    front_race.run(side, front_options, 0, tmp_path)
    front_options.path = tmp_path / "moved"
    front_race.run(side, front_options, 0, tmp_path)
    front_options.smoke = True
    with pytest.raises(SystemExit, match="was run with other settings: use another --work"):
        front_race.run(side, front_options, 0, tmp_path)


def test_a_front_race_of_one_side_is_judged_without_the_others(front_options, tmp_path):
    front_race.run("steps", front_options, 0, tmp_path)
    models = [
        {"importance": "taylor", "left": left, "val_accuracy": 70.0, "test_accuracy": 69.0}
        | {"train_cost": 4.0, "seconds": 9.0}
        for left in (1.0, 0.09)
    ]
    text = "".join(json.dumps(model) + "\n" for model in models)
    (tmp_path / "seed-0" / "steps" / "models.jsonl").write_text(text)
    sides = front_race.judge(front_options, tmp_path)["sides"]
    assert list(sides) == ["steps"]
    assert sides["steps"]["val accuracy at 10% of the MACs"]["mean"] == 70.0


def test_a_side_of_a_race_does_not_outlive_a_call_that_is_interrupted(monkeypatch, tmp_path):
    sides = []

    def interrupted(child, end, loads):
        sides.append(child)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_watch", interrupted)
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(KeyboardInterrupt):
        run.run_side(lambda deadline: waits, 60.0, tmp_path / "log", {}, stop=False)
    assert sides[0].returncode is not None


def test_a_race_that_is_judged_again_is_written_under_the_name_of_its_own_kind(tmp_path):
    def kind(**more: bool) -> str:
        about = {"smoke": False, "short": False, "criterion": "l1", "cores": 2, "seed": 0}
        return run.kind_of(run.config_of(argparse.Namespace(path=tmp_path, **about | more), tmp_path))

    assert (kind(), kind(short=True), kind(smoke=True)) == ("", "_short", "_smoke")


def test_what_benchmarks_have_trials_run_by_exists():
    """Named in a string, because workers import it themselves."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    named = [name for source in sources for name in re.findall(r'runner="([^"]+)"', source)]
    assert len(named) >= 2
    for name in named:
        module, _, function = name.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def _imported() -> Iterator[tuple[str, str, str]]:
    """(file, module, name) of what benchmarks import from the project, in functions too."""
    for file in sorted((ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) and not node.level else ""
            if module.split(".")[0] in ("analysis", "benchmarks", "gcp_core", "sweeps"):
                yield from ((file.name, module, alias.name) for alias in node.names)


def test_all_names_that_benchmarks_import_exist():
    """Many are imported where they are used, after hours of training."""
    found = list(_imported())
    assert len(found) > 100
    gone = []
    for file, module, name in found:
        if not hasattr(importlib.import_module(module), name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ModuleNotFoundError:
                gone.append(f"{file}: {module}.{name}")
    assert gone == []
