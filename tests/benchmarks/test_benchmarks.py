"""What the benchmarks read from a trial's folder, on folders that today's code has left."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import trial_logs
from benchmarks.head_to_head import front_race, run
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
