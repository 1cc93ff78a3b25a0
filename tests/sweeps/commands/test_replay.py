"""Training a trial once more: equal weights, and what is said when they are not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.commands.rehearsal import Rehearsal, distinct_states
from sweeps.commands.replay import replay
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import read_config, write_config
from sweeps.strategy.feasibility import Feasibility
from sweeps.worker.trial import DEFAULT_RUNNER, run_job
from tests.sweeps.inline import RUNNER, config, drive, new_conductor

TREE = {
    "name": "small",
    "data": {"name": "digits", "train_images": 200, "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.125},
    "train": {"epochs": 3, "batch_size": 50},
    "prune": {"criterion": "l1", "interval": 1, "ratio": 0.3, "target": {"choice": [0.3, 0.5]}, "until": 1.0},
    "search": {"sampler": "grid", "trials": None},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep really trained: a baseline and two trials that share their first epoch."""
    checked = load_config(TREE, {"storage": str(tmp_path_factory.mktemp("runs"))})
    conductor, _, _ = new_conductor(checked)
    write_config(Path(checked.folder), checked)
    drive(conductor, DEFAULT_RUNNER)
    return Path(checked.folder)


@pytest.mark.parametrize("trial_id", ["t0001", "b0000"])
def test_a_trial_that_shared_training_has_the_same_weights_when_trained_alone(
    trained: Path, trial_id: str
) -> None:
    found = replay(trained, trial_id)
    assert found.equal
    assert (found.changed, found.first_epoch) == ([], 0)
    assert found.weights_sha256 == found.recorded
    assert found.text().startswith(f"{trial_id}: the same weights, bit by bit")


def test_a_trial_without_a_gpu_is_trained_again_without_one_where_one_is_seen(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = replay(trained, "t0001")
    assert (found.equal, found.changed) == (True, [])


def test_the_command_prints_json_and_leaves_the_sweep_alone(trained: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in trained.rglob("*"))
    done = CliRunner().invoke(main, ["replay", str(trained), "t0000", "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["equal"], answer["trial_id"], len(answer["weights_sha256"])) == (True, "t0000", 64)
    assert sorted((path, path.stat().st_mtime_ns) for path in trained.rglob("*")) == before


def test_the_epochs_trained_are_about_those_that_the_plan_foresees(trained: Path) -> None:
    config = read_config(trained)
    rehearsal = Rehearsal(Feasibility())
    played = [rehearsal.play(config.space.resolve(point)) for point in config.space.grid()]
    played.append(rehearsal.play(played[0].config.baseline()))
    results = [json.loads(file.read_text()) for file in trained.glob("trials/*/result.json")]
    # Random scores reach a target with other units than real ones do: an event more or less is possible.
    assert abs(sum(result["trained_epochs"] for result in results) - distinct_states(played)) <= 1
    assert distinct_states(played) < 9, "three runs of three epochs"


def _fake(tmp_path: Path, **recorded: object) -> Path:
    """A sweep of the fake runner with one trial, whose ledger entry is what ``recorded`` says."""
    checked = config(tmp_path, {"search.trials": 1})
    conductor, _, _ = new_conductor(checked)
    write_config(Path(checked.folder), checked)
    baseline = conductor.next_job()
    conductor.finish(baseline.trial_id, run_job(baseline, RUNNER, lambda row: None))
    job = conductor.next_job()
    outcome = run_job(job, RUNNER, lambda row: None)
    provenance = {**outcome.provenance, **recorded.pop("provenance", {})}
    (Path(job.folder) / "outcome.json").unlink()
    changed = dataclasses.replace(outcome, provenance=provenance, **recorded)
    (Path(job.folder) / "outcome.json").write_text(changed.to_json())
    conductor.finish(job.trial_id, changed)
    return Path(checked.folder)


def test_other_weights_are_exit_code_1_with_what_changed_and_the_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = ({"epoch": 1, "train/loss": 1.0}, {"epoch": 2, "train/loss": 0.4})
    folder = _fake(tmp_path, weights_sha256="f" * 64, provenance={"torch": "1.0"}, history=history)
    monkeypatch.setattr(replay, "__defaults__", (None, RUNNER))
    done = CliRunner().invoke(main, ["replay", str(folder), "t0000"])
    assert done.exit_code == 1
    assert "t0000: different weights" in done.stdout
    assert f"recorded  {'f' * 64}" in done.stdout
    assert f"replayed  {'0' * 64}" in done.stdout
    assert "the training loss first differs in epoch 2" in done.stdout
    assert "changed   torch: 1.0 -> " in done.stdout


def test_weights_that_differ_without_a_reason_are_said_to(tmp_path: Path) -> None:
    found = replay(_fake(tmp_path, weights_sha256="f" * 64), "t0000", runner=RUNNER)
    assert not found.equal
    assert "nothing in the record has changed" in found.text()


@pytest.mark.parametrize("status", ["stopped", "complete"])
def test_a_trial_that_was_stopped_early_is_replayed_up_to_there(tmp_path: Path, status: str) -> None:
    folder = _fake(tmp_path, status=status, finals={"epochs": 1.0, "val_accuracy": 1.0, "macs": 1.0})
    stopped: list[bool] = []

    def spy(row: object) -> None:
        stopped.append(True)

    replay(folder, "t0000", report=spy, runner="tests.sweeps.commands.test_replay:stoppable")
    assert len(stopped) == (1 if status == "stopped" else 2)


def stoppable(config, *, report=None, checkpoint_dir=None):
    """The fake runner, but it ends when it is told to, as the core does."""
    from tests.sweeps.fake_runner import run

    class Enough(Exception):
        pass

    def passed_on(row):
        if report(row):
            raise Enough

    try:
        return run(config, report=passed_on, checkpoint_dir=checkpoint_dir)
    except Enough:
        return run(config)


def test_an_unknown_trial_and_one_without_weights_are_named(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.trials": 1, "model.name": "broken"})
    conductor, _, _ = new_conductor(checked)
    write_config(Path(checked.folder), checked)
    drive(conductor)
    folder = Path(checked.folder)
    with pytest.raises(ConfigError, match="the sweep has no trial 't0009'"):
        replay(folder, "t0009")
    with pytest.raises(ConfigError, match=r"t0000: ended as failed, without weights to compare \(ValueError"):
        replay(folder, "t0000")
    done = CliRunner().invoke(main, ["replay", str(tmp_path), "t0000"])
    assert done.exit_code == 2
    assert "there is no sweep in this folder" in done.stderr
