"""The published schedules: every preset loads, fits its network, and removes what was published. Nothing is trained."""

from pathlib import Path

import numpy as np
import pytest

from gcp_core.data import RawData
from gcp_core.pruning.selection import hidden_groups, select_channels
from gcp_core.schedule.clock import event_epochs, learning_pace
from gcp_core.training.setup import budget_for, build_setup
from sweeps.config.sweep_config import load_trial
from tests.oracles.nets import random_scores

CONFIGS = Path(__file__).parents[3] / "configs"
#: preset -> epochs of its events, prunable units besides hidden ones, removed per event, hidden units removed per event
PUBLISHED = {
    # 2 * 128 + 3 * 256 + 6 * 512 = 4096 channels in convs 3 to 13
    "vgg16_cifar10": (range(15, 151, 15), 4096, 160, 22),
    "vgg16_cifar100": (range(15, 151, 15), 4096, 100, 22),
    # 2 * 128 + 4 * 256 + 8 * 512 = 5376
    "vgg19_cifar10": (range(15, 151, 15), 5376, 210, 22),
    # 9 blocks of two convs: 18 * (16 + 32 + 64) = 2016
    "resnet56_cifar10": (range(21, 148, 21), 2016, 120, 0),
    "resnet110_cifar10": (range(21, 148, 21), 4032, 264, 0),
    # 18 blocks of three convs: 18 * 6 * (16 + 32 + 64) = 12096
    "resnet164_cifar10": (range(21, 148, 21), 12096, 720, 0),
    # two convs a block: 6 * 64 + 8 * 128 + 12 * 256 + 6 * 512 = 7552
    "resnet34_imagenet": (range(9, 46, 9), 7552, 250, 0),
}


def small_images(config):
    """Two images of each of a hundred classes in place of the preset's data."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(300) % 100
    return RawData.build(images[:200], labels[:200], images[200:], labels[200:])


def test_every_preset_has_its_row_here():
    assert {path.stem.removeprefix("paper_") for path in CONFIGS.glob("paper_*.yaml")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_removes_what_was_published_at_the_published_epochs(name):
    epochs, units, count, hidden_count = PUBLISHED[name]
    data = {"data.name": f"{__name__}:small_images", "data.path": None, "data.val_images": 100}
    config = load_trial(CONFIGS / f"paper_{name}.yaml", data)
    assert event_epochs(config.prune, config.train.epochs) == tuple(epochs)
    setup = build_setup(config)
    hidden = {setup.groups.groups[g].name for g in hidden_groups(setup.groups)}
    assert sum(g.size for g in setup.groups.groups if g.name not in hidden) == units
    plan = select_channels(random_scores(setup.groups), setup.groups, budget_for(config.prune, setup.limit))
    taken = {g: len(picked) for g, picked in plan.removed.items()}
    assert sum(n for g, n in taken.items() if g not in hidden) == count
    assert sum(n for g, n in taken.items() if g in hidden) == hidden_count
    assert all(cut.dim != 0 or not cut.tensor.startswith(("conv1.", "features.0.")) for cut in plan.cuts)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("vgg16_cifar10", {1: 0.1, 100: 0.1, 101: 0.01, 150: 0.01, 151: 0.001, 200: 0.001}),
        ("resnet34_imagenet", {1: 0.01, 30: 0.01, 31: 0.001, 60: 0.001, 61: 0.0001, 90: 0.0001}),
    ],
)
def test_a_preset_lowers_the_learning_rate_where_the_paper_does(name, factors):
    train = load_trial(CONFIGS / f"paper_{name}.yaml").train
    pace = learning_pace(train, 10)
    assert {epoch: pytest.approx(train.lr * pace((epoch - 1) * 10)) for epoch in factors} == factors
