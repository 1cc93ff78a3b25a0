"""What is evaluated is usable: statistics of the norms belong to the model as it is, not to the one before the cut."""

import dataclasses

import pytest
import torch
from torch import nn

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.scatter import scattering
from gcp_core.training import run_trial
from gcp_core.training.evaluation import evaluate_folder
from gcp_core.training.setup import build_setup
from gcp_core.training.statistics import recomputed

TRIAL = TrialConfig(
    data=DataConfig("digits", val_share=0.25, train_images=600),
    model=ModelConfig("vgg_tiny", width=0.25),
    train=TrainConfig(epochs=8, batch_size=32),
    prune=PruneConfig(criterion="frs", start=8, interval=8, ratio=0.9, target=0.3, until=1.0),
)


def test_an_event_after_the_last_epoch_ships_a_model_that_works(tmp_path):
    result = run_trial(TRIAL, checkpoint_dir=tmp_path)
    assert result.plans[-1].meta["epoch"] == 8
    before = result.history[-2].metrics["val/accuracy"]
    assert before > 85
    # With the larger model's statistics it is 48 %.
    assert result.finals["val_accuracy"] > before - 10
    assert result.history[-1].metrics["val/accuracy"] == result.finals["val_accuracy"]
    assert evaluate_folder(result.folder, "val").accuracy == result.finals["val_accuracy"]
    assert evaluate_folder(result.folder, "test").accuracy == result.finals["test_accuracy"]


def test_an_epoch_with_an_event_reports_the_accuracy_of_a_usable_model():
    prune = dataclasses.replace(TRIAL.prune, start=6, until=6)
    result = run_trial(dataclasses.replace(TRIAL, prune=prune))
    accuracy = {r.epoch: r.metrics["val/accuracy"] for r in result.history}
    assert accuracy[6] > accuracy[5] - 10


@pytest.mark.parametrize("rewrite", ["none", "batch_whitening", "consensus_gates"])
def test_a_trial_stopped_in_an_epoch_with_an_event_keeps_the_model_that_was_measured(tmp_path, rewrite):
    train = dataclasses.replace(TRIAL.train, epochs=4, rewrite=rewrite)
    prune = dataclasses.replace(TRIAL.prune, criterion="l1", start=2, interval=1, until=3)
    config = dataclasses.replace(TRIAL, train=train, prune=prune)
    result = run_trial(config, checkpoint_dir=tmp_path, report=lambda row: row.epoch == 2)
    assert (result.status, [plan.meta["epoch"] for plan in result.plans]) == ("stopped", [2])
    kept, measured = evaluate_folder(result.folder, "val"), result.history[-1].metrics
    assert kept.loss == measured["val/loss"]
    assert kept.accuracy == measured["val/accuracy"] == result.finals["val_accuracy"]


def test_looking_at_a_model_does_not_change_how_it_goes_on():
    """Without the look the weights are the same: training sees the statistics it would have seen."""
    from gcp_core.training import trial

    prune = dataclasses.replace(TRIAL.prune, start=3, interval=2, until=5, ratio=0.3)
    config = dataclasses.replace(TRIAL, prune=prune)
    looked = run_trial(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "recomputed", lambda *args, **kwargs: torch.no_grad())
        not_looked = run_trial(config)
    assert looked.weights_sha256 == not_looked.weights_sha256
    assert [r.metrics["val/loss"] for r in looked.history] != [
        r.metrics["val/loss"] for r in not_looked.history
    ]


def _net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.9), nn.Conv2d(6, 6, 3),
        scattering(nn.BatchNorm2d(6, momentum=0.3), 6), nn.InstanceNorm2d(6),
    )  # fmt: skip


@pytest.mark.parametrize("keep", [False, True])
def test_statistics_are_the_plain_mean_over_the_batches_and_come_back_unless_kept(keep):
    net = _net().train()
    net(torch.randn(8, 3, 8, 8))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    batches = [(torch.randn(10, 3, 8, 8) + 3, torch.zeros(10)) for _ in range(3)]
    inputs = [net[0](images) for images, _ in batches]
    with recomputed(net, batches, keep=keep):
        inside = net[1].running_mean.clone()
        expected = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(0)
        torch.testing.assert_close(inside, expected)
        variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
        torch.testing.assert_close(net[1].running_var, variance)
    assert net.training
    assert net[2].training
    assert (net[1].momentum, net[4].momentum) == (0.1, 0.3)
    after = net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == ({f"{n}.running_{s}" for n in (1, 4) for s in ("mean", "var")} if keep else set())


def test_statistics_come_back_after_an_error():
    net = _net()
    before = net[1].running_mean.clone()
    with pytest.raises(ZeroDivisionError), recomputed(net, [(torch.randn(4, 3, 8, 8), None)], keep=False):
        raise ZeroDivisionError
    assert torch.equal(net[1].running_mean, before)


def test_norms_of_single_images_have_the_mean_over_the_batches_too():
    """Theirs is the mean over the images of a batch of each image's own variance."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)).train()
    rng = torch.Generator().manual_seed(0)
    batches = [(3 + torch.randn(10, 3, 8, 8, generator=rng), torch.zeros(10)) for _ in range(3)]
    inputs = [net[0](images).detach() for images, _ in batches]
    with recomputed(net, batches, keep=False):
        means = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(0)
        variances = torch.stack([x.flatten(2).var(2).mean(0) for x in inputs]).mean(0)
        torch.testing.assert_close(net[1].running_mean, means)
        torch.testing.assert_close(net[1].running_var, variances)
    assert net[1].momentum == 0.1


@pytest.mark.parametrize(
    ("train_images", "batch_size", "expected"),
    [(600, 73, [73] * 7), (97, 32, [32] * 3), (98, 32, [32, 32, 32, 2])],
    ids=["512 = 7 * 73 + 1", "97 = 3 * 32 + 1", "a last batch of two"],
)
def test_statistics_are_taken_over_no_batch_of_a_single_image(train_images, batch_size, expected):
    """A norm whose maps have one pixel refuses it."""
    data = dataclasses.replace(TRIAL.data, train_images=train_images)
    train = dataclasses.replace(TRIAL.train, batch_size=batch_size)
    setup = build_setup(dataclasses.replace(TRIAL, data=data, train=train))
    assert [len(labels) for _, labels in setup.statistics_batches()] == expected
