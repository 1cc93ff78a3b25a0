"""Training a path again: whole or as far as one snapshot, compared bit by bit; cleaned weights come back."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from gcp_core.errors import ConfigError
from gcp_core.records.checkpoint import load_model
from gcp_core.training import run_trial
from sweeps.cli import main
from sweeps.commands.clean import clean
from sweeps.commands.replay import replay
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.oracles.small_paths import weights_on_disk
from tests.sweeps.inline import OF_PATHS, PATHS, RUNNER, config, drive, new_conductor

#: Snapshots after epochs 2, 4 and 6.
TREE = {
    "name": "paths",
    "data": {"name": "digits", "train_images": 96, "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.125},
    "train": {"schedule": "cycles", "batch_size": 32},
    "prune": {"start": 2, "interval": 2, "ratio": 0.3, "target": {"choice": [0.5]}, "min_channels": 1, "min_share": 0.03},
    "baseline": {"epochs": 3},
    "search": {"trials": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one path, really trained, with its baseline."""
    checked = load_config(TREE, {"storage": str(tmp_path_factory.mktemp("runs"))})
    conductor, _, _ = new_conductor(checked)
    folder = Path(checked.folder)
    write_config(folder, checked)
    drive(conductor, DEFAULT_RUNNER)
    write_entry(folder, Entry("aaaa", checked.name, None, checked.name, "r", "d", "complete"))
    return folder


@pytest.fixture
def own(walked: Path, tmp_path: Path) -> Path:
    return shutil.copytree(walked, tmp_path / "own" / "paths")


def test_a_snapshot_is_trained_again_as_far_as_it_and_no_further(walked: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in walked.rglob("*"))
    epochs: list[int] = []
    found = replay(walked, "t0000@1", report=lambda row: epochs.append(row.epoch))
    assert epochs == [1, 2, 3, 4]
    assert found.equal
    assert (found.trial_id, found.model, found.snapshots) == ("t0000", "t0000@1", {"t0000@1": True})
    manifest = json.loads((walked / "trials/t0000/snapshots/01/manifest.json").read_text())
    assert found.recorded == found.weights_sha256 == manifest["weights_sha256"]
    assert found.text().startswith("t0000@1: the same weights, bit by bit (sha256 ")
    assert sorted((path, path.stat().st_mtime_ns) for path in walked.rglob("*")) == before


def test_a_whole_path_is_compared_in_every_snapshot(walked: Path) -> None:
    found = replay(walked, "t0000")
    assert (found.equal, found.restored) == (True, [])
    assert found.snapshots == {"t0000@0": True, "t0000@1": True, "t0000@2": True}
    assert "bit by bit in all 3 snapshots" in found.text()


def test_cleaned_weights_come_back_bit_by_bit_and_only_those_that_were_asked_for(own: Path) -> None:
    trial = own / "trials" / "t0000"
    before = weights_on_disk(trial)
    manifests = {file: file.read_bytes() for file in trial.rglob("manifest.json")}
    clean(own, "none")
    assert not list(own.rglob("weights.pt"))
    done = CliRunner().invoke(main, ["replay", str(own), "t0000@1"])
    assert done.exit_code == 0, done.output
    assert "weights put back: t0000@1" in done.stdout
    assert [file.parent.name for file in own.rglob("weights.pt")] == ["01"]
    assert replay(own, "t0000").restored == ["t0000@0", "t0000@2"]
    assert weights_on_disk(trial) == before
    assert {file: file.read_bytes() for file in trial.rglob("manifest.json")} == manifests
    assert load_model(trial / "snapshots" / "02")
    assert replay(own, "b0000").restored == ["b0000"], "final weights of a single trial alike"
    assert load_model(own / "trials" / "b0000" / "model")


def other_seed(config, *, report=None, checkpoint_dir=None):
    return run_trial(dataclasses.replace(config, seed=7), report=report, checkpoint_dir=checkpoint_dir)


@pytest.mark.parametrize("name", ["t0000", "t0000@2", "b0000"])
def test_other_weights_are_said_and_never_put_back(own: Path, name: str) -> None:
    clean(own, "none")
    found = replay(own, name, runner=f"{__name__}:other_seed")
    assert (found.equal, found.restored) == (False, [])
    assert not list(own.rglob("weights.pt"))
    assert f"{name}: different weights" in found.text()
    assert "the training loss first differs in epoch 1" in found.text()
    if name == "t0000":
        assert "the first snapshot that differs is t0000@0" in found.text()


def other_middle(config, *, report=None, checkpoint_dir=None):
    result = run_trial(config, report=report, checkpoint_dir=checkpoint_dir)
    first, middle, *rest = result.snapshots
    wrong = dataclasses.replace(middle, weights_sha256="f" * 64)
    return dataclasses.replace(result, snapshots=(first, wrong, *rest))


def test_a_path_is_not_the_same_if_one_of_its_snapshots_is_not(walked: Path) -> None:
    found = replay(walked, "t0000", runner=f"{__name__}:other_middle")
    assert found.weights_sha256 == found.recorded, "the last one is"
    assert not found.equal
    assert found.snapshots == {"t0000@0": True, "t0000@1": False, "t0000@2": True}
    assert "the first snapshot that differs is t0000@1" in found.text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t0000@9", "t0000@9: the path has 3 snapshots, t0000@0 .. t0000@2"),
        ("t0000@x", "the sweep has no trial 't0000@x'"),
        ("t0009@1", "the sweep has no trial 't0009'"),
        ("b0000@0", "b0000@0: is not a path"),
    ],
)
def test_a_snapshot_that_is_not_there_is_exit_code_2_and_nothing_is_trained(
    walked: Path, name: str, said: str
) -> None:
    done = CliRunner().invoke(main, ["replay", str(walked), name])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "epoch" not in done.stderr


@pytest.mark.parametrize("command", [["replay"], ["polish", "train.epochs=3"]])
def test_a_path_that_failed_before_its_first_snapshot_is_refused_in_one_sentence(
    tmp_path: Path, command: list[str]
) -> None:
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 1, "model.name": "broken"})
    conductor, _, _ = new_conductor(checked)
    write_config(Path(checked.folder), checked)
    drive(conductor, RUNNER)
    entry = Entry("aaaa", checked.name, None, checked.name, "r", "d", "complete")
    write_entry(Path(checked.folder), entry)
    name, *overrides = command
    done = CliRunner().invoke(main, [name, checked.folder, "t0000@0", *overrides])
    assert done.exit_code == 2, done.output
    assert "the path has no snapshot yet" in done.stderr


def test_the_snapshots_of_a_path_that_failed_can_be_replayed_and_it_cannot(tmp_path: Path) -> None:
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 1, "model.name": "breaks"})
    conductor, _, _ = new_conductor(checked)
    write_config(Path(checked.folder), checked)
    drive(conductor, PATHS)
    hint = r"t0000: ended as failed, .*its snapshots can be replayed: t0000@0 \.\. t0000@1"
    with pytest.raises(ConfigError, match=hint):
        replay(checked.folder, "t0000")
