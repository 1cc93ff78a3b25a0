"""A snapshot of a path that is trained on with one long cycle: what it is, and that an interruption changes nothing."""

import json
import shutil
import signal

import pytest
import torch
from torch.nn.functional import cross_entropy

from gcp_core.cost.latency import threads
from gcp_core.errors import CheckpointError, ConfigError, Diverged
from gcp_core.models import build_model
from gcp_core.pruning.surgery import apply_plan
from gcp_core.records import checkpoint
from gcp_core.records.checkpoint import STATE, WEIGHTS, load_model, plans_from, read_manifest, weights_digest
from gcp_core.records.results import read_snapshots, rows_of
from gcp_core.schema import FINALS, PER_EPOCH, ModelName
from gcp_core.training import finals as ends
from gcp_core.training import polish as loop
from gcp_core.training import run_trial
from gcp_core.training.evaluation import evaluate_folder
from gcp_core.training.polish import polish
from gcp_core.training.setup import build_setup
from tests.gcp_core.training.interrupted import Killed
from tests.integration import drivers
from tests.oracles.small_paths import PATH, comparable, finals_that_count, path

#: Polished is snapshot 2 of epoch 6, 0.51 of the MACs removed, for three epochs.
LEVEL, EPOCH, EPOCHS = 2, 6, 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(result, folder) of the path; nobody writes there."""
    folder = tmp_path_factory.mktemp("path")
    return run_trial(PATH, checkpoint_dir=folder), folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the path's folder."""
    return shutil.copytree(trained[1], tmp_path / "path")


@pytest.fixture(scope="module")
def straight(trained, tmp_path_factory):
    """The polish that was never interrupted, and the folder it is in."""
    folder = shutil.copytree(trained[1], tmp_path_factory.mktemp("polished") / "path")
    return polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder), folder


def source(folder, level=LEVEL):
    return folder / "snapshots" / f"{level:02d}"


def told(done):
    """Everything of a polish that is no wall time and no place on a disk."""
    rows = [{**row["metrics"], "epoch": row["epoch"], "time/epoch_s": 0.0} for row in rows_of(done.history)]
    model = done.model
    return rows, model.level, model.epoch, model.polish, finals_that_count(model.finals), model.weights_sha256


def on_disk(folder):
    """What every file of a polished model says, wall times apart."""
    place = folder / "snapshots" / "02+3"
    manifest = read_manifest(place)
    for row in manifest["history"]:
        del row["metrics"]["time/epoch_s"]
    manifest["finals"] = finals_that_count(manifest["finals"])
    return manifest, (place / WEIGHTS).read_bytes()


def by_hand(folder, epochs):
    """Slow second definition: an ordinary training of the saved model, its rate one straight line from 0.8 of 0.1."""
    setup = build_setup(PATH)
    model = setup.new_model()
    for plan in plans_from(read_manifest(folder)):
        apply_plan(model, plan)
    model.load_state_dict(load_model(folder).state_dict())
    model.train()
    steps = 3 * epochs  # 96 images, 32 a batch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    done = 0
    for number in range(EPOCH + 1, EPOCH + epochs + 1):
        for images, labels in setup.epoch_batches(number):
            optimizer.param_groups[0]["lr"] = 0.1 * (0.8 * (1 - done / steps))
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            done += 1
    return weights_digest(model.state_dict())


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_polish_is_one_straight_line_of_the_rate_without_an_event_over_epochs_numbered_on(trained, epochs):
    found = polish(PATH, source(trained[1]), epochs)
    # The path's momentum is forgotten; epochs 7, 8 and 9 draw the order of the images.
    with threads(PATH.threads):
        assert found.model.weights_sha256 == by_hand(source(trained[1]), epochs)
    assert [row.epoch for row in found.history] == list(range(7, 7 + epochs))
    assert not any(row.plan for row in found.history)


def test_a_polished_model_is_worth_what_is_measured_and_costs_what_both_trainings_cost(straight, trained):
    done, folder = straight
    snapshot, model = trained[0].snapshots[LEVEL], done.model
    assert (model.level, model.epoch, model.polish, model.folder) == (2, 9, 3, folder / "snapshots" / "02+3")
    assert set(model.finals) == set(snapshot.finals) <= set(FINALS)
    for name in ("macs", "params", "macs_removed", "params_removed", "compression", "target_reached"):
        assert model.finals[name] == snapshot.finals[name]
    share = model.finals["macs"] / trained[0].snapshots[0].finals["macs"]
    assert model.finals["train_cost"] == pytest.approx(snapshot.finals["train_cost"] + 3 * share, rel=1e-12)
    assert model.finals["epochs"] == 9
    assert model.finals["device_hours"] > snapshot.finals["device_hours"]
    assert model.finals["val_accuracy"] == evaluate_folder(model.folder).accuracy
    assert model.finals["test_accuracy"] == evaluate_folder(model.folder, "test").accuracy
    assert all(set(row.metrics) == set(PER_EPOCH) for row in done.history)
    assert done.trained_epochs == 3


def test_its_folder_says_what_it_was_made_of_and_rebuilds_it(straight, trained):
    done, folder = straight
    manifest, snapshot = read_manifest(done.model.folder), trained[0].snapshots[LEVEL]
    assert manifest["polish"] == {"epochs": 3, "from": snapshot.weights_sha256}
    assert manifest["snapshot"] == {"level": 2, "epoch": 6}
    assert manifest["plans"] == read_manifest(snapshot.folder)["plans"]
    assert [row["epoch"] for row in manifest["history"]] == list(range(1, 10))
    assert manifest["finals"] == done.model.finals
    assert weights_digest(load_model(done.model.folder).state_dict()) == done.model.weights_sha256
    assert manifest["weights_sha256"] == done.model.weights_sha256 != snapshot.weights_sha256
    assert not (folder / "polish" / "02+3" / "epochs").exists(), "nothing is left to go on from"


def test_polished_again_it_is_what_is_there_and_for_another_length_another_model(straight, folder):
    first = polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "snapshots").rglob("*")}
    again = polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    assert (again.trained_epochs, told(again)) == (0, told(first))
    assert {path: path.stat().st_mtime_ns for path in (folder / "snapshots").rglob("*")} == before
    other = polish(PATH, source(folder), 2, checkpoint_dir=folder)
    assert other.model.weights_sha256 != first.model.weights_sha256
    assert sorted(p.name for p in (folder / "snapshots").iterdir()) == [
        "00",
        "01",
        "02",
        "02+2",
        "02+3",
        "03",
    ]


def test_a_polished_model_whose_weights_are_gone_is_made_again(straight, folder):
    polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    (folder / "snapshots" / "02+3" / WEIGHTS).unlink()
    again = polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    assert (again.trained_epochs, told(again)) == (3, told(straight[0]))


#: Moment -> what dies there, the how manieth time.
MOMENTS = {
    "after the first epoch's training": (1, "after", loop, "train_epoch"),
    "after the last epoch's training": (3, "after", loop, "train_epoch"),
    # Reading the snapshot takes the first digest.
    "while a checkpoint is written": (3, "before", checkpoint, "file_digest"),
    "before the final evaluation": (1, "before", ends, "finals_of"),
    "before the model is saved": (1, "before", ends, "save_model"),
    "while the model is written": (1, "before", checkpoint, "flush"),
    "before the checkpoints go": (1, "before", checkpoint.EpochCheckpoints, "clear"),
}


def dies(patch, time, when, owner, name):
    real, left = getattr(owner, name), [time]

    def dying(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and when == "before":
            raise Killed
        found = real(*args, **kwargs)
        if left[0] == 0:
            raise Killed
        return found

    patch.setattr(owner, name, dying)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_polish_killed_at_any_moment_goes_on_as_if_nothing_had_happened(straight, folder, moment):
    with pytest.MonkeyPatch.context() as patch:
        dies(patch, *MOMENTS[moment])
        with pytest.raises(Killed):
            polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    torch.manual_seed(99)  # whatever the new process has drawn before
    resumed = polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    assert resumed.trained_epochs < 3 or "first" in moment
    assert told(resumed) == told(straight[0])
    assert on_disk(folder) == on_disk(straight[1])
    assert not (folder / "polish" / "02+3" / "epochs").exists()
    left = [path.name for path in (folder / "snapshots").iterdir() if path.name.startswith(".")]
    assert not left


def test_a_polish_killed_by_the_system_goes_on_in_a_new_process(straight, folder):
    code = """
import json, os, signal, sys
from gcp_core.config import TrialConfig
from gcp_core.training.polish import polish
def saved(place):
    if place.name == "epoch_0008":
        os.kill(os.getpid(), signal.SIGKILL)
config = TrialConfig.from_dict(json.loads(sys.argv[1]))
polish(config, sys.argv[2] + "/snapshots/02", 3, saved=saved, checkpoint_dir=sys.argv[2])
"""
    killed = drivers.run(code, [json.dumps(PATH.to_dict()), folder])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    assert resumed.trained_epochs == 1
    assert told(resumed) == told(straight[0])
    assert on_disk(folder) == on_disk(straight[1])


def test_a_report_that_says_stop_ends_it_before_there_is_a_model_and_it_goes_on_later(straight, folder):
    stopped = polish(PATH, source(folder), EPOCHS, report=lambda row: row.epoch == 7, checkpoint_dir=folder)
    assert (stopped.model, stopped.trained_epochs) == (None, 1)
    assert not (folder / "snapshots" / "02+3").exists()
    resumed = polish(PATH, source(folder), EPOCHS, report=lambda row: row.epoch == 9, checkpoint_dir=folder)
    assert (resumed.trained_epochs, told(resumed)) == (2, told(straight[0]))


def test_checkpoints_of_other_weights_are_not_gone_on_from(straight, folder):
    """A snapshot that was trained again, on another machine say, is another one."""
    polish(PATH, source(folder), EPOCHS, report=lambda row: True, checkpoint_dir=folder)
    epochs = folder / "polish" / "02+3" / "epochs" / "epoch_0007"
    manifest = json.loads((epochs / "manifest.json").read_text())
    manifest["polish"]["from"] = "f" * 64
    (epochs / "manifest.json").write_text(json.dumps(manifest))
    again = polish(PATH, source(folder), EPOCHS, checkpoint_dir=folder)
    assert (again.trained_epochs, told(again)) == (3, told(straight[0]))


@pytest.mark.parametrize(
    "values",
    [
        {"train": {"optimizer": "adamw", "lr": 1e-3}},
        {"train": {"pace": "slow_start"}},
        {"train": {"eval_images": 50}},
        {"model": {"name": "resnet20"}, "residual": "scatter"},
    ],
)
def test_other_optimisers_paces_and_models_are_polished_and_go_on_bit_by_bit(tmp_path, values):
    config = path(**values, target=0.2)
    run_trial(config, checkpoint_dir=tmp_path)
    whole = polish(config, source(tmp_path, 1), 2)
    polish(config, source(tmp_path, 1), 2, report=lambda row: True, checkpoint_dir=tmp_path)
    resumed = polish(config, source(tmp_path, 1), 2, checkpoint_dir=tmp_path)
    assert resumed.trained_epochs == 1
    assert told(resumed) == told(whole)
    assert resumed.model.finals["val_accuracy"] == evaluate_folder(resumed.model.folder).accuracy


def test_a_pace_is_told_of_a_cycle_after_the_snapshots_own_and_of_all_its_steps(trained, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "gcp_core.schedule.clock.build_pace", lambda name: lambda *where: seen.append(where) or 1.0
    )
    polish(PATH, source(trained[1]), 2)
    # Asked for all of them before the training, then one after the other.
    assert seen == [(3, step, 6) for step in range(6)] * 2


def test_a_path_that_goes_on_does_not_take_a_polished_model_for_its_snapshot(trained, folder, tmp_path):
    deeper = path(target=0.8)
    polish(PATH, source(folder, 3), 1, checkpoint_dir=folder)
    polish(PATH, source(folder, 0), 1, checkpoint_dir=folder)
    assert [s.level for s in read_snapshots(folder)] == [0, 1, 2, 3]
    again = run_trial(PATH, checkpoint_dir=folder)
    assert comparable(again) == comparable(trained[0])
    assert again.folder.name == "03"
    on = run_trial(deeper, checkpoint_dir=folder)
    whole = run_trial(deeper, checkpoint_dir=tmp_path / "whole")
    assert [s.weights_sha256 for s in on.snapshots] == [s.weights_sha256 for s in whole.snapshots]
    assert (folder / "snapshots" / "03+1" / WEIGHTS).exists()


def test_the_raised_target_of_a_path_makes_no_other_polish(straight, folder):
    done = polish(path(target=0.8), source(folder), EPOCHS, checkpoint_dir=folder)
    assert done.model.weights_sha256 == straight[0].model.weights_sha256


def test_a_polished_model_began_with_what_its_path_began_with_whatever_the_file_is_now(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "weights.pt"
    torch.save(build_model("vgg_tiny", 10, 1, 0.125).state_dict(), file)
    config = path(model={"weights": str(file)}, target=0.2)
    run_trial(config, checkpoint_dir=tmp_path)
    first = checkpoint.file_digest(file)
    torch.save(build_model("vgg_tiny", 10, 1, 0.125).state_dict(), file)
    assert checkpoint.file_digest(file) != first
    said = []

    def saved(place):
        said.append(read_manifest(place)["initial_sha256"])

    done = polish(config, source(tmp_path, 1), 1, checkpoint_dir=tmp_path, saved=saved)
    assert [*said, read_manifest(done.model.folder)["initial_sha256"]] == [first, first]
    manifest = read_manifest(source(tmp_path, 1))
    del manifest["initial_sha256"]  # as those of earlier versions
    (source(tmp_path, 1) / "manifest.json").write_text(json.dumps(manifest))
    file.unlink()  # nothing of it is needed, whatever else is measured
    done = polish(config, source(tmp_path, 1), 2, checkpoint_dir=tmp_path, latency=True)
    made = read_manifest(done.model.folder)
    assert "initial_sha256" not in made
    assert made["config"]["model"]["weights"] == str(file)


def _weights(folder, change):
    """Replace the weights; the manifest names the file that is there."""
    manifest = read_manifest(folder)
    state = torch.load(folder / WEIGHTS, weights_only=True)
    change(state)
    checkpoint.write_folder(folder, WEIGHTS, state, manifest)


def _zero(state):
    next(iter(state.values())).zero_()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: (place / WEIGHTS).write_bytes(b"x"), "SHA-256 differs"),
        (lambda place: _weights(place, _zero), "not those that the manifest names"),
        (lambda place: (place / WEIGHTS).unlink(), "the file is missing"),
        (lambda place: (place / "manifest.json").unlink(), "there is no manifest"),
        (lambda place: _edited(place, snapshot=None), "is no snapshot of a path"),
        (lambda place: _edited(place, history=[]), "knows 0 epochs, not 6"),
        (lambda place: _edited(place, data_digest="other"), "the data changed"),
        (lambda place: _edited(place, config_key="other"), "another configuration"),
    ],
)
def test_a_snapshot_that_is_not_what_it_was_is_refused_before_anything_is_trained(folder, damage, said):
    damage(source(folder))
    rows = []
    with pytest.raises(CheckpointError, match=said):
        polish(PATH, source(folder), EPOCHS, report=rows.append, checkpoint_dir=folder)
    assert not rows
    assert not (folder / "polish").exists()


def _edited(place, **values):
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(manifest | values))


@pytest.mark.parametrize("epochs", [0, -3, 1.5, True, "30"])
def test_a_length_that_is_none_is_refused(trained, epochs):
    with pytest.raises(ConfigError, match="is not a whole number >= 1"):
        polish(PATH, source(trained[1]), epochs)


def test_only_snapshots_of_paths_are_polished(straight):
    with pytest.raises(ConfigError, match="only snapshots of paths are polished"):
        polish(PATH.baseline(), source(straight[1]), 1)
    with pytest.raises(ConfigError, match="is polished already"):
        polish(PATH, straight[0].model.folder, 1)


def test_a_polish_that_diverges_says_so_and_leaves_no_model(tmp_path):
    config = path(train={"lr": 1e-2, "restart": 1.0}, target=0.2)
    run_trial(config, checkpoint_dir=tmp_path)
    manifest = read_manifest(source(tmp_path, 1))
    state = torch.load(source(tmp_path, 1) / WEIGHTS, weights_only=True)
    name = next(name for name in state if name.endswith("weight"))
    state[name].fill_(float("inf"))
    checkpoint.write_folder(
        source(tmp_path, 1), WEIGHTS, state, {**manifest, "weights_sha256": weights_digest(state)}
    )
    with pytest.raises(Diverged):
        polish(config, source(tmp_path, 1), 1, checkpoint_dir=tmp_path)
    assert not (tmp_path / "snapshots" / "01+1").exists()
    assert not list((tmp_path / "polish").rglob(STATE))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("t0008", ("t0008", None, 0)),
        ("t0007@0", ("t0007", 0, 0)),
        ("t0007@12+30", ("t0007", 12, 30)),
        # Names of nothing: they count as a trial's, which does not exist.
        ("t0007@03", ("t0007@03", None, 0)),
        ("t0007@3+0", ("t0007@3+0", None, 0)),
        ("t0007+30", ("t0007+30", None, 0)),
        ("t0007@", ("t0007@", None, 0)),
        ("t0007@3+30+10", ("t0007@3+30+10", None, 0)),
    ],
)
def test_a_name_of_a_model_is_taken_apart_and_put_together(text, parts):
    name = ModelName.parse(text)
    assert (name.trial, name.level, name.polish) == parts
    assert str(name) == text
