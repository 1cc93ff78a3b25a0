"""A trial from start to end: it prunes to its target, resumes bit by bit, and says how it ended."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import CheckpointError, ConfigError, DataError, InfeasibleTarget, ModelError
from gcp_core.records.checkpoint import load_model, read_manifest, weights_digest
from gcp_core.schema import FINALS, PER_EPOCH
from gcp_core.training import run_trial
from gcp_core.training.evaluation import evaluate_folder
from gcp_core.training.setup import check_config
from tests.gcp_core.training.interrupted import Killed, killed_in

SMALL = TrialConfig(
    seed=1,
    data=DataConfig("digits", val_share=0.25, train_images=320),
    model=ModelConfig("vgg_tiny", width=0.25),
    train=TrainConfig(epochs=6, batch_size=64),
    prune=PruneConfig(criterion="frs", interval=2, ratio=0.2, target=0.5, until=1.0),
)


def test_a_trial_reports_every_epoch_and_every_final():
    seen = []
    result = run_trial(SMALL, report=lambda r: seen.append(r))
    assert result.status == "complete"
    assert [r.epoch for r in seen] == [1, 2, 3, 4, 5, 6]
    assert all(set(r.metrics) == set(PER_EPOCH) for r in seen)
    assert [r.plan is not None for r in seen] == [False, True, False, True, False, False]
    assert set(result.finals) == set(FINALS) - {"accuracy_drop"}
    assert result.finals["epochs"] == 6
    assert 0.5 <= result.finals["macs_removed"] < 0.56
    assert result.finals["target_reached"] == 1
    assert result.history[-1].metrics["cost/macs"] == result.finals["macs"]


def test_the_baseline_removes_nothing():
    result = run_trial(SMALL.baseline())
    assert (result.plans, result.finals["macs_removed"], result.finals["compression"]) == ((), 0, 1)


def test_a_trial_that_ends_short_of_its_target_is_valid():
    # Two events of 30 % of the units reach 0.86 of the MACs with the costliest first; l1 takes others.
    prune = dataclasses.replace(
        SMALL.prune, criterion="l1", start=4, interval=1, until=5, ratio=0.3, target=0.85
    )
    result = run_trial(dataclasses.replace(SMALL, prune=prune))
    assert result.status == "complete"
    assert 0.2 < result.finals["macs_removed"] < 0.8
    assert result.finals["target_reached"] == 0


def test_a_target_that_the_floors_allow_exactly_can_be_reached():
    """Every unit costs a tenth of the net, two may go: 1 - 0.8 is a hair below 0.2."""
    prune = PruneConfig("l1", interval=1, ratio=1.0, target=0.2, until=1.0, min_channels=8, min_share=0.0)
    model = ModelConfig("tests.oracles.small_paths:ten_channels")
    trial = dataclasses.replace(SMALL, model=model, train=TrainConfig(epochs=2, batch_size=64), prune=prune)
    result = run_trial(trial, latency=False)
    assert [plan.num_units for plan in result.plans] == [2]
    assert result.finals["target_reached"] == 1


def test_without_a_target_every_event_until_the_end_takes_its_count():
    prune = PruneConfig(criterion="l1", interval=2, count=9, target=None, until=5)
    result = run_trial(dataclasses.replace(SMALL, prune=prune))
    assert [plan.num_units for plan in result.plans] == [9, 9]
    assert [plan.meta["epoch"] for plan in result.plans] == [2, 4]
    assert result.finals["target_reached"] == 1


@pytest.mark.parametrize("criterion", ["frs", "random"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("killed_after", [2, 3])
def test_a_trial_killed_after_an_event_and_resumed_equals_an_uninterrupted_one(
    tmp_path, alone, criterion, optimizer, killed_after
):
    config = dataclasses.replace(
        SMALL,
        prune=dataclasses.replace(SMALL.prune, criterion=criterion),
        train=dataclasses.replace(SMALL.train, optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 1e-3),
    )
    straight = alone(config)
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(killed_after + 1), checkpoint_dir=tmp_path)
    seen = []
    resumed = run_trial(config, report=lambda r: seen.append(r.epoch), checkpoint_dir=tmp_path)
    assert seen == list(range(killed_after + 1, 7))
    assert resumed.weights_sha256 == straight.weights_sha256
    assert resumed.plans == straight.plans
    assert [r.metrics["val/accuracy"] for r in resumed.history] == [
        r.metrics["val/accuracy"] for r in straight.history
    ]


def test_dropout_draws_the_same_numbers_after_a_resume(tmp_path):
    config = dataclasses.replace(
        SMALL,
        model=ModelConfig("vgg11_bn", width=0.125),
        data=dataclasses.replace(SMALL.data, name=f"{__name__}:large_digits"),
        train=dataclasses.replace(SMALL.train, epochs=3),
        prune=dataclasses.replace(SMALL.prune, criterion="l1", interval=1, target=0.3),
    )
    straight = run_trial(config)
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(2), checkpoint_dir=tmp_path)
    assert run_trial(config, checkpoint_dir=tmp_path).weights_sha256 == straight.weights_sha256


def large_digits(config):
    """Digits repeated to 32 x 32 pixels, as VGG needs them."""
    from gcp_core.data import RawData
    from gcp_core.data.digits import load_digits

    raw = load_digits(config)
    big = [images.repeat(4, axis=1).repeat(4, axis=2) for images in (raw.train_images, raw.test_images)]
    return RawData.build(big[0], raw.train_labels, big[1], raw.test_labels)


def test_a_corrupt_last_checkpoint_falls_back_to_the_one_before(tmp_path, alone):
    with pytest.raises(Killed):
        run_trial(SMALL, report=killed_in(5), checkpoint_dir=tmp_path)
    newest = tmp_path / "epochs" / "epoch_0004" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    seen = []
    result = run_trial(SMALL, report=lambda r: seen.append(r.epoch), checkpoint_dir=tmp_path)
    assert seen == [4, 5, 6]
    assert result.weights_sha256 == alone(SMALL).weights_sha256


def test_a_finished_trial_is_not_trained_again(tmp_path):
    first = run_trial(SMALL, checkpoint_dir=tmp_path)
    again = run_trial(SMALL, report=lambda r: pytest.fail("trained again"), checkpoint_dir=tmp_path)
    assert again.finals == first.finals
    assert again.plans == first.plans
    assert not (tmp_path / "epochs").exists()


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    run_trial(SMALL, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        run_trial(dataclasses.replace(SMALL, seed=2), checkpoint_dir=tmp_path)


def test_the_saved_model_reproduces_accuracy_and_cost(tmp_path):
    from torch.utils.flop_counter import FlopCounterMode

    result = run_trial(SMALL, checkpoint_dir=tmp_path)
    model = load_model(result.folder)
    assert weights_digest(model.state_dict()) == result.weights_sha256
    assert evaluate_folder(result.folder, "val").accuracy == result.finals["val_accuracy"]
    assert evaluate_folder(result.folder, "test").accuracy == result.finals["test_accuracy"]
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 8, 8))
    assert counter.get_total_flops() / 2 == result.finals["macs"]
    assert sum(p.numel() for p in model.parameters()) == result.finals["params"]


def test_a_report_that_returns_true_stops_the_trial_without_looking_at_test_images():
    result = run_trial(SMALL, report=lambda r: r.epoch == 3)
    assert (result.status, len(result.history)) == ("stopped", 3)
    assert "test_accuracy" not in result.finals


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(tmp_path):
    config = dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, lr=1e20))
    result = run_trial(config, checkpoint_dir=tmp_path)
    assert result.status == "diverged"
    assert "the training loss is" in result.error
    assert result.folder is None
    assert run_trial(config, checkpoint_dir=tmp_path).status == "diverged"


def test_a_last_step_that_ruins_the_weights_ends_the_trial_as_diverged(tmp_path):
    """One step an epoch: its loss is taken before it, so the training loss of the only epoch is finite."""
    config = dataclasses.replace(
        SMALL,
        data=dataclasses.replace(SMALL.data, train_images=64),
        train=dataclasses.replace(SMALL.train, epochs=1, lr=1e38),
    ).baseline()
    reported = []
    result = run_trial(config, report=lambda r: reported.append(r), checkpoint_dir=tmp_path)
    assert result.status == "diverged"
    assert "after epoch 1 (try a smaller train.lr)" in result.error
    assert (reported, result.folder, set(result.finals)) == ([], None, {"epochs", "device_hours"})


def test_a_validation_loss_that_is_not_finite_ends_the_trial_as_diverged(monkeypatch):
    from gcp_core.training import observe

    real = observe.evaluate

    def overflowing(*args, **kwargs):
        return dataclasses.replace(real(*args, **kwargs), loss=float("inf"))

    monkeypatch.setattr(observe, "evaluate", overflowing)
    result = run_trial(SMALL)
    assert (result.status, result.history) == ("diverged", ())
    assert "the validation loss is inf after epoch 1" in result.error


def change(**parts):
    """SMALL with fields of its parts replaced, e.g. change(prune={"target": 0.9})."""
    return dataclasses.replace(
        SMALL, **{name: dataclasses.replace(getattr(SMALL, name), **values) for name, values in parts.items()}
    )


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (
            change(prune={"target": 0.99}),
            InfeasibleTarget,
            "prune.target: 0.99 of the macs cannot be removed",
        ),
        (change(prune={"start": 9}), InfeasibleTarget, "no event falls between start and until in 6 epochs"),
        (change(prune={"criterion": "l3"}), ConfigError, "prune.criterion"),
        (change(prune={"exclude": ("block7.*",)}), ConfigError, "pattern 'block7.*' matches no module"),
        (change(model={"name": "vgg_tny"}), ModelError, 'did you mean "vgg_tiny"?'),
        (
            change(model={"name": "torchvision:resnet19"}),
            ModelError,
            "torchvision has no classifier 'resnet19'",
        ),
        (change(data={"name": "digitz"}), DataError, 'did you mean "digits"?'),
        (
            change(train={"device": "gpu"}),
            ConfigError,
            "train.device: 'gpu' is not a device (auto, cpu, cuda",
        ),
        (
            change(train={"device": "meta"}),
            ConfigError,
            "train.device: 'meta' is not supported (auto, cpu, cuda",
        ),
        (
            change(data={"train_images": 12}, train={"processes": 8, "batch_size": 16}),
            DataError,
            "12 training images are too few for one step",
        ),
        (change(model={"weights": "absent.pt"}), ConfigError, "model.weights: 'absent.pt' is not a file"),
    ],
)
def test_what_cannot_work_is_refused_before_training(config, error, text):
    with pytest.raises(error) as caught:
        check_config(config)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"channels_last": False},
        {"nesterov": True, "schedule": "cosine"},
        {"schedule": "step", "label_smoothing": 0.1},
        {"optimizer": "adamw", "lr": 1e-3, "schedule": "constant"},
        {"eval_images": 50},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_way_of_training_learns_and_prunes(options):
    result = run_trial(change(train=options))
    assert result.finals["macs_removed"] >= 0.5
    assert result.history[-1].metrics["train/loss"] < result.history[0].metrics["train/loss"]


def test_bf16_trains_under_autocast_and_is_evaluated_in_float32(tmp_path):
    config = change(train={"precision": "bf16", "epochs": 2}, data={"train_images": 128}).baseline()
    with torch.autocast("cpu", torch.bfloat16):  # as a caller may have it on
        result = run_trial(config, checkpoint_dir=tmp_path)
    assert result.history[1].metrics["train/loss"] < result.history[0].metrics["train/loss"]
    exact = run_trial(dataclasses.replace(config, train=dataclasses.replace(config.train, precision="fp32")))
    assert result.weights_sha256 != exact.weights_sha256
    # Bit by bit what a plain float32 evaluation of the saved weights gives, not merely the same accuracy.
    assert evaluate_folder(result.folder, "val").loss == result.history[1].metrics["val/loss"]
    assert result.history[0].metrics["train/loss"] == pytest.approx(
        exact.history[0].metrics["train/loss"], rel=0.01
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_trial(SMALL, checkpoint_dir=tmp_path_factory.mktemp("trial"))


@pytest.fixture
def copy(finished, tmp_path):
    import shutil

    return Path(shutil.copytree(finished.folder, tmp_path / "model"))


def edit_manifest(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def flip_byte(folder):
    path = folder / "weights.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def put_pickle(folder):
    import hashlib

    torch.save({"weight": Evil()}, folder / "weights.pt")
    digest = hashlib.sha256((folder / "weights.pt").read_bytes()).hexdigest()
    edit_manifest(folder, sha256=digest)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (flip_byte, "the file is truncated or was changed"),
        (lambda f: (f / "weights.pt").unlink(), "the file is missing"),
        (lambda f: (f / "manifest.json").unlink(), "there is no manifest"),
        (lambda f: (f / "manifest.json").write_text("{"), "the manifest cannot be read"),
        (lambda f: edit_manifest(f, format=99), "format 99 is not 1"),
        (lambda f: edit_manifest(f, plans=[]), "the weights do not fit the architecture"),
        (lambda f: edit_manifest(f, num_classes=11), "the weights do not fit the architecture"),
        (lambda f: edit_manifest(f, file="../weights.pt"), "names a file outside its folder"),
        (put_pickle, "cannot be read as plain tensors"),
    ],
)
def test_a_damaged_model_folder_is_refused_and_never_unpickled(copy, harm, text, monkeypatch):
    monkeypatch.chdir(copy)
    harm(copy)
    with pytest.raises(CheckpointError) as caught:
        load_model(copy)
    assert text in str(caught.value)
    assert not (copy / "executed").exists()


def test_the_manifest_says_where_the_model_comes_from(finished):
    manifest = read_manifest(finished.folder)
    assert TrialConfig.from_dict(manifest["config"]) == SMALL
    assert manifest["finals"] == dict(finished.finals)
    assert len(manifest["plans"]) == len(finished.plans)
    assert manifest["weights_sha256"] == finished.weights_sha256
