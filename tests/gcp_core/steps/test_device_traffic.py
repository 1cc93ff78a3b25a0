"""A step neither waits for its device nor copies to it: counted on a device that is not there."""

import dataclasses

import numpy as np
import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from gcp_core.data import load_splits, training_batches
from gcp_core.data.images import Images, Normalise
from gcp_core.data.pipeline import num_steps
from gcp_core.data.streaming import RowFile
from gcp_core.models import build_model
from gcp_core.rewrites.places import Place
from gcp_core.rewrites.whitened import Settings, Whitened
from gcp_core.steps.step import PlainStep
from gcp_core.training.epoch import build_optimizer, train_epoch
from gcp_core.training.evaluation import evaluate
from gcp_core.training.setup import build_setup
from gcp_core.training.team.norms import synchronised
from tests.oracles.traffic import META, Traffic, pretended_gpu

#: An epoch's order, rows and columns of its crops, who is mirrored, its learning rates; and its mean loss is looked at.
PER_EPOCH = {"up": 4, "reads": 1}


def traffic_of_an_epoch(batch_size: int, optimizer: str = "sgd", model=None) -> Traffic:
    config = TrialConfig(
        data=DataConfig(augment="crop_flip"),
        model=ModelConfig("vgg_tiny", 0.125),
        train=TrainConfig(batch_size=batch_size, optimizer=optimizer),
        prune=None,
    )
    setup = dataclasses.replace(build_setup(config), device=META)
    with pretended_gpu():
        net = (model or build_model("vgg_tiny", 10, 1, 0.125)).to(META)
        chosen = build_optimizer(net, config.train)
        images = setup.train_images
        setup.splits.normalise(images.pixels[:1])  # its constants travel once per process
        with Traffic() as traffic:
            train_epoch(net, chosen, setup, 1)
    assert [type(group["lr"]) for group in chosen.param_groups] == [float]
    return traffic


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_epoch_uploads_four_tensors_and_is_looked_at_once_however_many_steps_it_has(optimizer):
    for batch_size in (256, 64):
        assert dict(traffic_of_an_epoch(batch_size, optimizer).seen) == PER_EPOCH


class Looking(torch.nn.Module):
    """A network that does in every step what none should."""

    def __init__(self, deed) -> None:
        super().__init__()
        self.net, self.deed = build_model("vgg_tiny", 10, 1, 0.125), deed

    def forward(self, x):
        self.deed(x)
        return self.net(x)


DEEDS = {
    "reads a value": (lambda x: x.sum().item(), "reads"),
    "asks whether": (lambda x: bool((x > 0).all()), "reads"),
    "moves a tensor": (lambda x: torch.zeros(3).to(x.device), "up"),
    "moves it without waiting": (lambda x: torch.zeros(3).to(x.device, non_blocking=True), "sent"),
    "makes one of numbers": (lambda x: torch.tensor([1.0, 2.0], device=x.device), "up"),
    "indexes with one of the host": (lambda x: x[torch.tensor([0, 1])], "up"),
    "fills one from the host": (lambda x: torch.zeros(3, device=x.device).copy_(torch.ones(3)), "up"),
    "brings one back": (lambda x: x.cpu(), "down"),
}


@pytest.mark.parametrize("name", DEEDS)
def test_the_count_sees_what_a_step_must_not_do(name):
    deed, kind = DEEDS[name]
    images = load_splits(DataConfig()).train
    expected = PER_EPOCH | {kind: PER_EPOCH.get(kind, 0) + num_steps(images, 256)}
    assert dict(traffic_of_an_epoch(256, model=Looking(deed)).seen) == expected


def test_the_rates_of_an_epoch_are_the_schedules_on_a_gpu_as_on_a_cpu(monkeypatch):
    """The copies on the device have no values here: what is uploaded has."""
    made = []
    monkeypatch.setattr(PlainStep, "begin", lambda self, rates: made.append(rates))
    monkeypatch.setattr(PlainStep, "__call__", lambda self, images, labels: None)
    config = TrialConfig(model=ModelConfig("vgg_tiny", 0.125), train=TrainConfig(epochs=2), prune=None)
    setup = build_setup(config)
    model = setup.new_model()
    train_epoch(model, build_optimizer(model, config.train), setup, 2)
    steps = len(made[0])
    # One-cycle: the second of two epochs goes down from 2/3 of the peak to nothing.
    assert made[0][0] == [pytest.approx(0.1 * 0.5 / 0.75)]
    assert made[0][-1] == [pytest.approx(0.1 / (0.75 * 2 * steps))]


def test_an_evaluation_uploads_nothing_and_is_looked_at_twice():
    setup = build_setup(TrialConfig(model=ModelConfig("vgg_tiny", 0.125), prune=None))
    model = setup.new_model().to(META)
    val = setup.splits.val.to(META)
    setup.splits.normalise(val.pixels[:1])
    with pretended_gpu(), Traffic() as traffic:
        evaluate(model, val, setup.splits.normalise, batch_size=50)
    assert dict(traffic.seen) == {"reads": 2}  # how many are right, and the loss


def test_batches_from_the_disk_are_sent_from_page_locked_memory_and_nobody_waits(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    kept = np.load(tmp_path / "pixels.npy", mmap_mode="c")
    labels = torch.arange(64) % 2
    images = Images(torch.from_numpy(kept), labels, torch.arange(64), RowFile.behind(kept)).to(META)
    normalise = Normalise((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    locked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: locked.append(tensor.dtype) or tensor)
    normalise(torch.zeros(1, 4, 4, 3, dtype=torch.uint8, device=META))
    options = {"batch_size": 16, "augment": "crop_flip", "padding": 1, "seed": 0, "epoch": 1}
    with Traffic() as traffic:
        assert all(x.device == y.device == META for x, y in training_batches(images, normalise, **options))
    assert dict(traffic.seen) == {"sent": 8}
    assert locked == [torch.uint8, torch.int64] * 4


def test_a_norm_over_several_processes_copies_nothing_and_is_not_waited_for(monkeypatch):
    shared = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: shared.append(len(tensor)))
    net = torch.nn.BatchNorm2d(4).to(META)
    images = torch.empty(2, 4, 3, 3, device=META, requires_grad=True)
    with Traffic() as traffic, synchronised(net):
        net(images).sum().backward()
    assert dict(traffic.seen) == {}
    assert shared == [5, 4, 4, 5], "sums and their number, squares, and the gradients of both"


@pytest.mark.parametrize("channels", [16, 20, 21])
def test_a_whitened_norm_copies_nothing_and_is_not_waited_for(channels):
    """16 are one group, 20 two of equal size, 21 two that are not."""
    place = Place("conv", "bn", 9)
    net = Whitened(place, torch.nn.BatchNorm2d(channels), Settings()).to(META)
    images = torch.empty(2, channels, 3, 3, device=META)
    with pretended_gpu(), Traffic() as traffic:
        net(images).sum().backward()
    assert dict(traffic.seen) == {}
