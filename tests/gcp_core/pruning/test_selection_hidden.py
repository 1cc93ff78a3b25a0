"""Hidden linear layers with a ranking and a count of their own, as the paper has them in VGG."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, hidden_groups, reachable_share, select_channels
from gcp_core.training.setup import check_config
from tests.gcp_core.pruning.test_selection import ARCHIVE, published_scores
from tests.oracles.greedy_selection import pick_one_by_one
from tests.oracles.nets import random_scores

X = torch.zeros(1, 3, 32, 32)
VGG16 = find_groups(build_model("vgg16_bn", 10, width=0.0625), X)
FREE = {"min_channels": 1, "min_share": 0.0}


def two_hidden_layers() -> nn.Module:
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
    ]
    hidden = [nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 4)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden)


MIXED = find_groups(two_hidden_layers(), torch.zeros(1, 3, 8, 8))


def units(plan):
    return {(name, unit) for name, removed in plan.removed.items() for unit in removed}


def test_hidden_linear_layers_are_told_from_convolutions():
    assert [MIXED.groups[g].name for g in hidden_groups(MIXED)] == ["8", "10"]
    assert [VGG16.groups[g].name for g in hidden_groups(VGG16)] == ["classifier.0"]
    assert hidden_groups(find_groups(build_model("resnet20", 10, width=0.25), X)) == []


def test_one_event_reproduces_both_published_rankings():
    archive = np.load(ARCHIVE)
    groups = find_groups(build_model("vgg16_bn", 10, width=0.125), X)
    convs, hidden, places = published_scores(archive)
    plan = select_channels(convs | hidden, groups, Budget(count=60, hidden_count=8, **FREE))
    picks = {
        (unit, 12 - places.index(int(name.split(".")[1])))
        for name, unit in units(plan)
        if name != "classifier.0"
    }
    assert picks == {tuple(row) for row in archive["round1/order"].tolist()}
    assert plan.removed["classifier.0"] == tuple(sorted(archive["round1/fc_hidden"].tolist()))
    assert plan.meta == {"asked": 68, "removed": 68, "hidden_count": 8}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("groups", [MIXED, VGG16], ids=["two hidden layers", "vgg16"])
def test_two_rankings_equal_picking_one_by_one_in_each(groups, seed):
    scores = {layer: (s * 6).round() for layer, s in random_scores(groups, seed).items()}  # many ties
    plan = select_channels(scores, groups, Budget(count=7, hidden_count=5, min_channels=2, min_share=0.2))
    hidden = {groups.groups[g].name for g in hidden_groups(groups)}
    slow = pick_one_by_one({k: v for k, v in scores.items() if k not in hidden}, groups, 7, 2, 0.2)
    slow += pick_one_by_one({k: v for k, v in scores.items() if k in hidden}, groups, 5, 2, 0.2)
    assert units(plan) == set(slow)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 40),
    hidden_count=st.integers(0, 20),
    min_channels=st.integers(1, 6),
)
def test_each_ranking_gives_exactly_its_count_and_keeps_its_floors(seed, count, hidden_count, min_channels):
    budget = Budget(count=count, hidden_count=hidden_count, min_channels=min_channels, min_share=0.0)
    plan = select_channels(random_scores(MIXED, seed), MIXED, budget)
    gone = {g.name: len(plan.removed.get(g.name, ())) for g in MIXED.groups}
    room = {g.name: g.size - budget.floor(g) for g in MIXED.groups}
    assert all(gone[name] <= room[name] for name in room)
    assert gone["0"] + gone["3"] == min(count, room["0"] + room["3"])
    assert gone["8"] + gone["10"] == min(hidden_count, room["8"] + room["10"])


def test_a_ratio_is_of_the_units_outside_the_hidden_layers():
    plan = select_channels(random_scores(MIXED), MIXED, Budget(ratio=0.25, hidden_count=3, **FREE))
    assert len(plan.removed.get("0", ())) + len(plan.removed.get("3", ())) == 5  # 0.25 * (8 + 12)
    assert len(plan.removed.get("8", ())) + len(plan.removed.get("10", ())) == 3


@pytest.mark.parametrize("share", [0.9, 0.75, 0.6])
def test_an_event_cut_short_by_a_limit_takes_the_same_share_of_both_rankings(share):
    limit = share * MIXED.cost()[0]
    scores = random_scores(MIXED, 1)
    budget = Budget(count=16, hidden_count=8, limit=limit, **FREE)
    hidden = {"8", "10"}
    orders = [
        pick_one_by_one({k: v for k, v in scores.items() if (k in hidden) == inside}, MIXED, count, 1, 0.0)
        for inside, count in ((False, 16), (True, 8))
    ]
    # Slow: one unit at a time from the ranking that is less far along, until the limit is met.
    taken: list[tuple[str, int]] = []
    along = [0, 0]
    while MIXED.cost({name: [u for n, u in taken if n == name] for name, _ in taken})[0] > limit:
        behind = min((0, 1), key=lambda q: ((along[q] + 1) / len(orders[q]), q))
        taken.append(orders[behind][along[behind]])
        along[behind] += 1
    assert units(select_channels(scores, MIXED, budget)) == set(taken)
    assert abs(along[0] / 16 - along[1] / 8) <= 1 / 8


def test_rounding_holds_in_both_rankings():
    groups = find_groups(build_model("vgg11_bn", 10, width=0.125), X)
    budget = Budget(count=60, hidden_count=20, round_to=4, min_channels=4)
    after = groups.after(select_channels(random_scores(groups), groups, budget))
    assert all(group.size % 4 == 0 for group in after.groups)
    assert after.group("classifier.0").size == 44  # 64 - 20


def test_the_reachable_share_counts_both_rankings_and_bounds_what_selection_reaches():
    budgets = [Budget(count=3, hidden_count=2, **FREE)] * 3
    best = reachable_share(MIXED, budgets)
    assert reachable_share(MIXED, [Budget(count=3, hidden_count=0, **FREE)] * 3) < best
    for seed in range(5):
        now = MIXED
        for budget in budgets:
            now = now.after(select_channels(random_scores(now, seed), now, budget))
        assert 1 - now.cost()[0] / MIXED.cost()[0] <= best + 1e-12


def test_a_negative_count_is_refused():
    with pytest.raises(ConfigError, match=r"budget\.hidden_count: -1 is negative"):
        Budget(count=1, hidden_count=-1)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: PruneConfig(hidden_count=0), "prune.hidden_count: 0 is not a whole number >= 1"),
        (
            lambda: check_config(
                TrialConfig(
                    data=DataConfig(train_images=100),
                    model=ModelConfig("vgg_tiny", 0.125),
                    train=TrainConfig(epochs=2),
                    prune=PruneConfig(hidden_count=2, interval=1, target=0.1, until=1.0),
                )
            ),
            "prune.hidden_count: 2 units of hidden linear layers, but none can be pruned (null ranks",
        ),
    ],
)
def test_a_hidden_count_that_means_nothing_is_refused(build, text):
    with pytest.raises(ConfigError) as caught:
        build()
    assert text in str(caught.value)
