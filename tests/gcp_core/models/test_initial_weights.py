"""Training from given weights: a state dict file, also one for other classes; anything else is refused."""

import os
from pathlib import Path

import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from gcp_core.errors import CheckpointError, ConfigError
from gcp_core.models import build_model
from gcp_core.training import run_trial
from gcp_core.training.setup import build_setup
from tests.gcp_core.training.interrupted import Killed, killed_in


def setup_from(path):
    config = TrialConfig(
        data=DataConfig(train_images=100), model=ModelConfig("vgg_tiny", 0.125, str(path)), prune=None
    )
    return build_setup(config)


def weights(num_classes=10, width=0.125):
    return build_model("vgg_tiny", num_classes, 1, width).state_dict()


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["state dict", "training checkpoint", "wrapped model"],
)
def test_training_starts_from_the_given_weights(tmp_path, wrapped):
    state = weights()
    torch.save(wrapped(state), tmp_path / "weights.pt")
    found = setup_from(tmp_path / "weights.pt").new_model().state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_an_output_layer_for_other_classes_starts_from_random_weights(tmp_path, caplog):
    state = weights(num_classes=1000)
    torch.save(state, tmp_path / "weights.pt")
    setup = setup_from(tmp_path / "weights.pt")
    caplog.clear()
    found = setup.new_model().state_dict()
    assert found["classifier.0.weight"].shape == (10, 16)
    others = [name for name in state if not name.startswith("classifier")]
    assert all(torch.equal(found[name], state[name]) for name in others)
    assert "classifier.0.weight in" in caplog.text
    assert "is for 1000 classes" in caplog.text


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def truncated(path):
    torch.save(weights(), path)
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (
            lambda p: torch.save(weights(width=0.25), p),
            "the weights do not fit the architecture: size mismatch",
        ),
        (
            lambda p: torch.save(build_model("resnet20", 10, 1).state_dict(), p),
            "the weights do not fit the arch",
        ),
        (lambda p: torch.save(torch.zeros(3), p), "holds a Tensor, not a state dict"),
        (lambda p: torch.save({"optimizer": 1}, p), "the weights do not fit the architecture"),
        (lambda p: torch.save({"model": Evil()}, p), "cannot be read as plain tensors"),
        (lambda p: torch.save(build_model("vgg_tiny", 10), p), "cannot be read as plain tensors"),
        (truncated, "cannot be read as plain tensors"),
        (lambda p: p.write_text("no weights"), "cannot be read as plain tensors"),
    ],
    ids=["width", "network", "tensor", "optimizer", "evil", "pickled model", "truncated", "text"],
)
def test_files_that_are_no_weights_of_this_network_are_refused_and_never_executed(
    tmp_path, monkeypatch, write, text
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        setup_from(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert not Path("executed").exists()


def test_a_file_may_be_named_from_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(weights(), tmp_path / "weights.pt")
    assert setup_from("~/weights.pt").initial == setup_from(tmp_path / "weights.pt").initial != ""


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.weights: '.*absent\.pt' is not a file"):
        setup_from(tmp_path / "absent.pt")


def test_a_trial_does_not_go_on_from_another_file_under_the_same_path(tmp_path):
    torch.manual_seed(0)
    file, folder = tmp_path / "weights.pt", tmp_path / "trial"
    torch.save(weights(), file)
    first = file.read_bytes()
    config = TrialConfig(
        data=DataConfig(train_images=100),
        model=ModelConfig("vgg_tiny", 0.125, str(file)),
        train=TrainConfig(epochs=2),
        prune=None,
    )
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(2), checkpoint_dir=folder, latency=False)
    torch.save(weights(), file)
    with pytest.raises(CheckpointError, match=r"epochs: model\.weights is another file now"):
        run_trial(config, checkpoint_dir=folder, latency=False)
    file.write_bytes(first)
    finished = run_trial(config, checkpoint_dir=folder, latency=False)
    assert (finished.status, finished.trained_epochs) == ("complete", 1)
    torch.save(weights(), file)
    with pytest.raises(CheckpointError, match=r"trial: model\.weights is another file now"):
        run_trial(config, checkpoint_dir=folder, latency=False)
    file.unlink()  # a finished trial needs it no more
    assert run_trial(config, checkpoint_dir=folder, latency=False).weights_sha256 == finished.weights_sha256


def test_a_folder_with_a_trial_from_one_file_is_another_configuration_s_for_a_trial_from_another(tmp_path):
    """Whoever is told that the file has changed would look for it in vain: it lies where it was."""
    torch.manual_seed(0)
    trials = []
    for name in ("a.pt", "b.pt"):
        torch.save(weights(), tmp_path / name)
        trials.append(
            TrialConfig(
                data=DataConfig(train_images=100),
                model=ModelConfig("vgg_tiny", 0.125, str(tmp_path / name)),
                train=TrainConfig(epochs=2),
                prune=None,
            )
        )
    with pytest.raises(Killed):
        run_trial(trials[0], report=killed_in(2), checkpoint_dir=tmp_path / "trial", latency=False)
    with pytest.raises(CheckpointError, match=r"epochs: the folder holds a trial of another configuration"):
        run_trial(trials[1], checkpoint_dir=tmp_path / "trial", latency=False)


def test_weights_of_another_library_show_how_both_sides_name_their_layers(tmp_path):
    torch.save({f"features_{name}": value for name, value in weights().items()}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError) as caught:
        setup_from(tmp_path / "weights.pt")
    assert caught.value.hint == (
        "no key is the same: the weights begin with 'features_features.0.weight', the model with"
        " 'features.0.weight'"
    )


def test_a_whole_pickled_model_says_how_to_write_its_weights(tmp_path):
    torch.save(build_model("vgg_tiny", 10, 1, 0.125), tmp_path / "weights.pt")
    with pytest.raises(
        CheckpointError, match=r"plain tensors: .*\(torch\.save\(model\.state_dict\(\), FILE\)"
    ):
        setup_from(tmp_path / "weights.pt")
