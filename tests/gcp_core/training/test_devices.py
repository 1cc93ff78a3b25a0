"""Nothing on the way from images to a plan assumes a CPU.

There may be no GPU here. The ``meta`` device stands for one: it refuses tensors of another device as a GPU does.
"""

import contextlib
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.data import evaluation_batches, load_splits, training_batches
from gcp_core.data.images import Normalise
from gcp_core.data.pipeline import ScoringBatches, scoring_sample
from gcp_core.errors import ConfigError
from gcp_core.models import build_model
from gcp_core.training import setup
from gcp_core.training.setup import build_setup
from gcp_core.training.state import State
from gcp_core.training.team import follower as follower_module
from gcp_core.training.team.follower import Follower
from gcp_core.training.team.member import packed

META = torch.device("meta")


def all_batches(splits):
    train, normalise = splits.train.to(META), splits.normalise
    options = {"batch_size": 100, "padding": 1, "seed": 0, "epoch": 1}
    for augment in ("none", "crop", "crop_flip"):
        yield from training_batches(train, normalise, augment=augment, **options)
    yield from evaluation_batches(splits.val.to(META), normalise, 100)
    sample = scoring_sample(splits.train, "auto", splits.num_classes, 0).to(META)
    assert len(sample.pixels) == len(sample) == 100  # only the sample travels, not the whole training set
    yield from ScoringBatches(sample, normalise)


def test_every_kind_of_batch_is_made_where_the_images_are():
    splits = load_splits(DataConfig(val_share=0.25))
    model = build_model("vgg_tiny", 10, 1, 0.125).to(META)
    for images, labels in all_batches(splits):
        assert images.shape[1:] == (1, 8, 8)
        assert (images.device, labels.device) == (META, META)
        torch.nn.functional.cross_entropy(model(images), labels).backward()


def test_mean_and_deviation_are_put_on_each_device_once(monkeypatch):
    normalise = Normalise((0.123, 0.4, 0.5), (0.2, 0.25, 0.3))
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    first = normalise(images)
    made = []
    monkeypatch.setattr(torch, "tensor", lambda *args, **kwargs: made.append(args))
    assert torch.equal(normalise(images), first)
    assert made == []
    monkeypatch.undo()
    slow = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(normalise.mean)[:, None, None]) / torch.tensor(
        normalise.std
    )[:, None, None]
    assert torch.allclose(first, slow, atol=1e-6)


def test_a_process_of_several_trains_on_the_gpu_that_it_is_told(monkeypatch):
    """The config's own device is one for all of them; there may be no second GPU here."""
    asked = []
    monkeypatch.setattr(setup, "device_named", lambda name: asked.append(name) or torch.device("cpu"))
    config = TrialConfig(train=TrainConfig(processes=2, batch_size=16), prune=None)
    assert Follower()._prepare(config.to_dict(), "cuda:1") == "cpu"
    assert asked == ["cuda:1"]


def trained_on_meta(**train):
    """A trial before its first epoch."""
    train = TrainConfig(epochs=2, penalty="tests.oracles.fillings:Remembered", **train)
    prune = PruneConfig(interval=1, clock="tests.gcp_core.training.test_devices:Waits")
    config = TrialConfig(model=ModelConfig("vgg_tiny", 0.125), train=train, prune=prune)
    return State.fresh(dataclasses.replace(build_setup(config), device=META))


class Waits:
    """A clock with a tensor."""

    def __init__(self):
        self.left = torch.ones(2)

    def due(self, epoch, model, groups, batches, generator):
        return False

    def state_dict(self):
        return {"left": self.left}

    def load_state_dict(self, state):
        self.left = state["left"]


def test_what_penalty_and_clock_remember_comes_back_on_the_device_that_is_trained_on():
    """Files give it on the CPU, where a step on a GPU could do nothing with it."""
    state, mean = trained_on_meta(), torch.zeros(3)
    tensors = {**state.tensors(), "penalty": {"steps": 4, "norm.weight": mean}, "clock": {"left": mean}}
    state.take_up({**state.manifest(), "history": []}, tensors, "here")
    assert (state.penalty.steps, state.penalty.means["norm.weight"].device) == (4, META)
    assert state.clock.left.device == META
    assert mean.device.type == "cpu"


def test_what_a_penalty_has_learned_reaches_another_process_on_its_device(monkeypatch):
    follower = Follower()
    follower._state = trained_on_meta(processes=2)
    follower._share = SimpleNamespace(training=lambda *about: contextlib.nullcontext())
    monkeypatch.setattr(follower_module, "train_epoch", lambda *about: 0.0)
    monkeypatch.setattr(follower_module, "mark_of", lambda state: "")  # meta tensors have no bits
    follower._train(1, [1.0], 0, packed({"steps": 4, "norm.weight": torch.zeros(3)}))
    assert follower.state.penalty.means["norm.weight"].device == META


def test_statistics_made_under_inference_mode_can_be_used_in_training():
    normalise = Normalise((0.321,), (0.2,))
    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    with torch.inference_mode():
        normalise(images)
    weight = torch.ones(1, requires_grad=True)
    (normalise(images) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("name", "available", "text"),
    [
        ("cuda", False, "train.device: 'cuda': this process sees no GPU (auto or cpu)"),
        ("cuda:3", True, "train.device: 'cuda:3': this process sees 2 GPUs (cuda:0 .. cuda:1)"),
        ("mps", True, "train.device: 'mps' is not supported (auto, cpu, cuda, cuda:1)"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, available, text):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError) as caught:
        build_setup(TrialConfig(train=TrainConfig(device=name), prune=None))
    assert str(caught.value) == text
