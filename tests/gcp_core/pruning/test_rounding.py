"""``round_to``: widths that stay multiples, from the first event to what a schedule can reach."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from gcp_core.allocators import removable
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import InfeasibleTarget
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, reachable_share, say_if_spent, select_channels
from gcp_core.training import run_trial
from tests.oracles.nets import random_scores

X = torch.zeros(1, 3, 32, 32)
VGG = find_groups(build_model("vgg_tiny", 10, width=0.25), X)  # widths 8 8 16 16 32 32
RESNET = find_groups(build_model("resnet20", 10), X)
FREE = {"min_channels": 1, "min_share": 0.0}


def sizes(groups):
    return [group.size for group in groups.groups]


@pytest.mark.parametrize("count", [10, 37, 80])
def test_widths_stay_multiples_where_asked_and_the_count_is_met_as_closely_as_that_allows(count):
    plan = select_channels(random_scores(RESNET), RESNET, Budget(count=count, round_to=4, min_channels=4))
    assert all(size % 4 == 0 for size in sizes(RESNET.after(plan)))
    assert abs(plan.num_units - count) <= 2
    assert plan.meta == {"asked": count, "removed": plan.num_units, "round_to": 4}


def test_an_event_takes_one_whole_step_where_less_is_asked_for():
    # 1 % of 112 units is one unit, and the nearest number of whole steps would be none.
    plan = select_channels(random_scores(VGG), VGG, Budget(ratio=0.01, round_to=8))
    assert plan.meta == {"asked": 1, "removed": 8, "round_to": 8}
    assert select_channels(random_scores(VGG), VGG, Budget(count=0, round_to=8)).num_units == 0


def test_the_units_of_a_step_are_the_lowest_of_their_group():
    scores = random_scores(VGG)
    plan = select_channels(scores, VGG, Budget(count=16, round_to=8))
    assert plan.num_units == 16
    for name, units in plan.removed.items():
        assert set(units) == set(scores[name].argsort()[: len(units)].tolist())


def test_steps_are_ranked_by_the_mean_place_of_their_units():
    # Places 0, 1, 2, ... by score: features.7 has the lowest unit but its first eight lie behind features.10's.
    scores = {layer: torch.full((n,), 100.0) for layer, n in VGG.scored_layers().items()}
    scores["features.7"] = torch.arange(16.0) * 20
    scores["features.10"] = 1 + torch.arange(16.0)
    assert set(scores) >= {"features.7", "features.10"}
    assert select_channels(scores, VGG, Budget(count=8, round_to=8)).removed == {
        "features.10": tuple(range(8))
    }


def test_rounding_and_a_limit_go_together():
    limit = 0.7 * RESNET.cost()[0]
    plan = select_channels(random_scores(RESNET), RESNET, Budget(count=300, round_to=8, limit=limit))
    assert RESNET.cost(plan.removed)[0] <= limit
    assert all(size % 8 == 0 for size in sizes(RESNET.after(plan)))


@pytest.mark.parametrize("seed", range(5))
def test_an_event_that_would_pass_the_limit_is_trimmed_to_the_fewest_steps(seed):
    scores, limit = random_scores(RESNET, seed), 0.8 * RESNET.cost()[0]
    plan = select_channels(scores, RESNET, Budget(count=300, round_to=8, limit=limit))
    assert RESNET.cost(plan.removed)[0] <= limit
    shorter = select_channels(scores, RESNET, Budget(count=plan.num_units - 8, round_to=8))
    assert shorter.num_units == plan.num_units - 8
    assert RESNET.cost(shorter.removed)[0] > limit


def test_floors_are_rounded_up_to_the_next_multiple_and_the_reach_stops_there():
    # Floors 2 2 2 2 4 4 become 8 8 8 8 8 8: the two groups of eight cannot lose anything.
    many = [Budget(ratio=0.5, round_to=8)] * 40
    at_floors = VGG
    for budget in many:
        at_floors = at_floors.after(select_channels(random_scores(at_floors), at_floors, budget))
    assert sizes(at_floors) == [8] * 6
    least = at_floors.cost()[0]
    assert reachable_share(VGG, many) == pytest.approx(1 - least / VGG.cost()[0])
    with pytest.raises(InfeasibleTarget, match=f"{least} are left at the floors .*, or round_to"):
        select_channels(random_scores(VGG), VGG, Budget(count=1, round_to=8, limit=least - 1))


def test_what_a_schedule_can_reach_counts_whole_steps_and_bounds_what_selection_reaches():
    budgets = [Budget(ratio=0.05, round_to=8)] * 5
    best = reachable_share(RESNET, budgets)
    for seed in range(5):
        now = RESNET
        for budget in budgets:
            now = now.after(select_channels(random_scores(now, seed), now, budget))
        assert 1 - now.cost()[0] / RESNET.cost()[0] <= best


def grouped(wide):
    """One group whose units are whole groups of a grouped conv: two inputs and three outputs each."""
    return nn.Sequential(
        nn.Conv2d(3, 2 * wide, 1),
        nn.Conv2d(2 * wide, 3 * wide, 1, groups=wide),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


def test_a_group_steps_so_that_every_one_of_its_layers_has_a_multiple():
    model, x = grouped(12), torch.zeros(1, 3, 2, 2)
    model(x)
    groups = find_groups(model, x)
    assert [len(m.channels[0]) for m in groups.groups[0].members] == [2, 3]
    # 2 n and 3 n are multiples of 6 where n is one of 6 = lcm(3, 2); a step of max(3, 2) leaves 27 channels.
    assert removable(groups, Budget(count=1, round_to=6, **FREE)) == [[0, 6]]
    after = groups.after(select_channels(random_scores(groups), groups, Budget(count=3, round_to=6, **FREE)))
    assert [len(units) for units in after.layout.layers.values()][:2] == [12, 18]


class Joined(nn.Module):
    """Two convs side by side, added to one wide conv; the second one's channels may pass a softmax and never go."""

    def __init__(self, first, second, softmax=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, first, 1), nn.Conv2d(3, second, 1)
        self.wide, self.last, self.softmax = (
            nn.Conv2d(3, first + second, 1),
            nn.Conv2d(first + second, 5, 1),
            softmax,
        )

    def forward(self, x):
        first, second = self.first(x), self.second(x)
        second = second.softmax(1) if self.softmax else second
        return self.last(torch.cat([first, second], 1) + self.wide(x)).mean((2, 3))


@pytest.mark.parametrize(("frozen", "allowed"), [(4, [0, 4]), (7, [0])])
def test_channels_that_never_go_count_into_the_width(frozen, allowed):
    groups = find_groups(Joined(8, frozen, softmax=True), torch.zeros(1, 3, 4, 4))
    assert [m.layer for m in groups.groups[0].members] == ["first", "wide"]
    # Four of eight: the wide conv is left with 12 - 4 = 8 channels, or with 15 - 4 = 11, which is no multiple of 4.
    assert removable(groups, Budget(count=1, round_to=4, **FREE)) == [allowed]


class Crossed(nn.Module):
    """Convs of 7 and 11 channels side by side, added to convs of 11 and 7: three groups, two layers are shared."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, width, 1) for width in (7, 11, 11, 7))
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x):
        joined = torch.cat([self.a(x), self.b(x)], 1) + torch.cat([self.c(x), self.d(x)], 1)
        return self.last(joined).mean((2, 3))


def test_a_layer_that_two_groups_share_only_loses_multiples():
    groups = find_groups(Crossed(), torch.zeros(1, 3, 4, 4))
    assert [[m.layer for m in g.members] for g in groups.groups] == [["a", "c"], ["b", "c"], ["b", "d"]]
    # Three less make a multiple of 4 of each layer, but if two groups lose three, the layer they share is left with 5.
    plan = select_channels(random_scores(groups), groups, Budget(count=9, round_to=4, **FREE))
    before, after = groups.layout.layers, groups.after(plan).layout.layers
    assert all(len(after[x]) % 4 == 0 for x in "abcd" if len(after[x]) < len(before[x]))
    both = find_groups(Joined(8, 8), torch.zeros(1, 3, 4, 4))
    assert removable(both, Budget(count=1, round_to=4, **FREE)) == [[0, 4], [0, 4]]


def test_an_event_that_is_only_imagined_does_not_say_that_it_can_take_nothing(caplog):
    """A driver imagines events by the thousand."""
    with caplog.at_level(logging.WARNING):
        plan = select_channels(random_scores(VGG), VGG, Budget(ratio=0.1, round_to=64))
    assert plan.num_units == 0
    assert not caplog.records


TRIAL = TrialConfig(
    data=DataConfig(train_images=200),
    model=ModelConfig("vgg_tiny", 0.25),
    train=TrainConfig(epochs=2, batch_size=64),
    prune=PruneConfig("l1", interval=1, ratio=0.01, round_to=8, target=None, until=1.0),
)


def test_a_trial_with_a_small_ratio_and_rounding_removes_whole_steps():
    result = run_trial(TRIAL)
    assert [plan.num_units for plan in result.plans] == [8, 8]


@pytest.mark.parametrize("target", [None, 0.3])
def test_a_trial_that_could_remove_nothing_is_refused(target):
    config = replace(TRIAL, prune=replace(TRIAL.prune, round_to=64, target=target))
    with pytest.raises(InfeasibleTarget, match="round_to"):
        run_trial(config)


def test_an_event_of_a_trial_that_can_take_nothing_says_so(caplog):
    config = replace(TRIAL, prune=replace(TRIAL.prune, ratio=0.95, round_to=1))
    with caplog.at_level(logging.WARNING):
        (first,) = run_trial(config, latency=False).plans
    assert first.meta["epoch"] == 1
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is removed: no group has a unit to spare (min_channels=2, min_share=0.1, round_to=1)"
    ]


def test_a_path_that_the_floors_end_says_so(caplog):
    prune = PruneConfig("l1", start=1, interval=1, ratio=0.95, ratio_of="units", target=0.9999)
    path = replace(TRIAL, train=TrainConfig(schedule="cycles", batch_size=64), prune=prune)
    with caplog.at_level(logging.WARNING):
        assert run_trial(path).ended == "floors"
    assert [record.getMessage() for record in caplog.records][1:] == [  # the first foretells it
        "nothing is removed: no group has a unit to spare (min_channels=2, min_share=0.1, round_to=1)"
    ]


def test_an_event_whose_allocator_keeps_all_does_not_blame_the_floors(caplog):
    with caplog.at_level(logging.WARNING):
        say_if_spent(random_scores(VGG), VGG, Budget(ratio=0.1))
    assert not caplog.records
