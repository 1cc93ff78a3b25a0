"""A killed trial goes on bit by bit, across events, in all three residual modes; damaged records are refused."""

import dataclasses
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import CheckpointError
from gcp_core.records.checkpoint import load_model
from gcp_core.scatter import ScatterBatchNorm2d
from gcp_core.training import run_trial
from gcp_core.training.evaluation import evaluate_folder
from tests.gcp_core.training.interrupted import Killed, killed_in
from tests.integration import drivers

pytestmark = pytest.mark.integration

#: Three events in four epochs: a trial killed in epoch 3 resumes with two behind it, in the middle of its momentum.
RESNET = TrialConfig(
    seed=2,
    data=DataConfig("digits", val_share=0.25, train_images=200),
    model=ModelConfig("resnet20", width=0.25),
    train=TrainConfig(epochs=4, batch_size=64),
    prune=PruneConfig(criterion="frs", interval=1, ratio=0.15, target=None, until=3, min_channels=1),
)
VGG = TrialConfig(
    data=DataConfig("digits", val_share=0.25, train_images=128),
    model=ModelConfig("vgg_tiny", width=0.125),
    train=TrainConfig(epochs=3, batch_size=64),
    prune=PruneConfig(criterion="l1", interval=1, ratio=0.2, target=None, until=2),
)


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
def test_a_trial_killed_between_events_equals_an_uninterrupted_one(tmp_path, alone, residual):
    config = dataclasses.replace(RESNET, prune=dataclasses.replace(RESNET.prune, residual=residual))
    straight = alone(config)
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(3), checkpoint_dir=tmp_path)
    torch.manual_seed(99)  # whatever the new process has drawn before
    resumed = run_trial(config, checkpoint_dir=tmp_path)
    assert resumed.trained_epochs == 2
    assert resumed.weights_sha256 == straight.weights_sha256
    assert resumed.plans == straight.plans
    assert [plan.meta["epoch"] for plan in resumed.plans] == [1, 2, 3]
    kept = ("train/loss", "val/loss", "val/accuracy", "cost/macs", "prune/channels_left")
    assert [[row.metrics[k] for k in kept] for row in resumed.history] == [
        [row.metrics[k] for k in kept] for row in straight.history
    ]
    scattered = [m for m in load_model(resumed.folder).modules() if isinstance(m, ScatterBatchNorm2d)]
    assert bool(scattered) == (residual == "scatter")


def test_a_scattered_trial_killed_by_the_system_goes_on_in_a_new_process(tmp_path, alone):
    code = """
import json, os, signal, sys
from gcp_core.config import TrialConfig
from gcp_core.training import run_trial
def report(seen):
    if seen.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
run_trial(TrialConfig.from_dict(json.loads(sys.argv[1])), report=report, checkpoint_dir=sys.argv[2])
"""
    config = dataclasses.replace(RESNET, prune=dataclasses.replace(RESNET.prune, residual="scatter"))
    killed = drivers.run(code, [json.dumps(config.to_dict()), tmp_path])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_trial(config, checkpoint_dir=tmp_path)
    assert resumed.trained_epochs == 2
    assert resumed.weights_sha256 == alone(config).weights_sha256


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def replace_state(folder):
    """A pickle that would run code, with a manifest that vouches for it."""
    torch.save({"model": Evil()}, folder / "state.pt")
    sha = hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": sha}))


@pytest.fixture
def killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        run_trial(VGG, report=killed_in(3), checkpoint_dir=tmp_path)
    return tmp_path


def epochs(folder):
    return sorted((folder / "epochs").iterdir())


def test_epoch_checkpoints_with_foreign_pickles_are_passed_over_and_never_executed(killed, caplog):
    for folder in epochs(killed):
        replace_state(folder)
    result = run_trial(VGG, checkpoint_dir=killed)
    assert result.trained_epochs == 3
    assert "cannot be read as plain tensors" in caplog.text
    assert not Path("executed").exists()


def edit(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_plans(folder):
    """The first plan twice: it fits no model."""
    plans = json.loads((folder / "manifest.json").read_text())["plans"]
    edit(folder, plans=[plans[0], plans[0]])


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda f: edit(f, config_key="0123456789ab"), "the folder holds a trial of another configuration"),
        (lambda f: edit(f, data_digest="0"), "the data changed since the checkpoint was written"),
        (lambda f: edit(f, std=[0.5]), "the checkpoint was written: the images are now normalised with std"),
        (lambda f: edit(f, plans=3), "the checkpoint does not describe this trial"),
        (lambda f: edit(f, history=[{"epoch": 1}]), "the checkpoint does not describe this trial: 'metrics'"),
        (other_plans, "the checkpoint does not describe this trial"),
        (lambda f: edit(f, plans=[]), "the weights do not fit the architecture"),
    ],
    ids=[
        "another configuration",
        "other data",
        "normalised otherwise",
        "no plans",
        "no history",
        "a plan twice",
        "plans left out",
    ],
)
def test_a_checkpoint_that_does_not_belong_to_the_trial_is_refused(killed, harm, text):
    harm(epochs(killed)[-1])
    with pytest.raises(CheckpointError) as caught:
        run_trial(VGG, checkpoint_dir=killed)
    assert text in str(caught.value)
    assert str(killed / "epochs") in str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run_trial(VGG, checkpoint_dir=folder)
    return folder


@pytest.mark.parametrize("text", ['{"config_key": ', "[]", "{}", "missing"])
def test_a_damaged_result_is_refused_with_a_way_out(finished, text):
    path = finished / "result.json"
    whole = path.read_text()
    content = json.loads(whole)
    if text == "missing":
        text = json.dumps({k: v for k, v in content.items() if k != "finals"})
    if text == "{}":
        text = json.dumps({"config_key": content["config_key"], "plans": 7})
    try:
        path.write_text(text)
        with pytest.raises(CheckpointError) as caught:
            run_trial(VGG, checkpoint_dir=finished)
    finally:
        path.write_text(whole)
    assert str(path) in str(caught.value)
    assert "the result cannot be read" in str(caught.value)
    assert "delete it to train again" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"data_digest": "0"}, "the model was trained on 0"),
        ({"mean": [0.5]}, "the model was trained with [0.5]"),
        ({"evaluation_batch": None}, "the manifest is incomplete"),
        ({"config": {"model": {"nmae": 1}}}, "the manifest is incomplete"),
    ],
)
def test_a_model_is_not_evaluated_on_other_data_or_by_half_a_manifest(finished, values, text):
    path = finished / "model" / "manifest.json"
    whole = path.read_text()
    try:
        edit(finished / "model", **values)
        with pytest.raises(CheckpointError) as caught:
            evaluate_folder(finished / "model")
    finally:
        path.write_text(whole)
    assert text in str(caught.value)


def test_the_last_validation_is_the_final_one_and_is_not_done_twice(monkeypatch):
    from gcp_core.training import finals, observe

    seen = []
    real = observe.evaluate

    def counting(model, images, *args, **kwargs):
        seen.append(len(images))
        return real(model, images, *args, **kwargs)

    for module in (observe, finals):
        monkeypatch.setattr(module, "evaluate", counting)
    whole = run_trial(VGG)
    num_val, num_test = 337, 450  # 0.25 * 1347
    assert seen == [num_val] * 3 + [num_test]
    seen.clear()
    part = run_trial(dataclasses.replace(VGG, train=dataclasses.replace(VGG.train, eval_images=100)))
    assert seen == [100] * 3 + [num_val, num_test]
    assert part.finals["val_accuracy"] == whole.finals["val_accuracy"]
