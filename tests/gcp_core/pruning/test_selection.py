"""Selection: exact, deterministic, never below a floor."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcp_core.errors import ConfigError, InfeasibleTarget, PlanError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, Ranking, reachable_share, select_channels
from tests.oracles.greedy_selection import pick_one_by_one
from tests.oracles.nets import random_scores

ARCHIVE = Path(__file__).parents[2] / "data" / "vgg16bn_thin_case.npz"
X = torch.zeros(1, 3, 32, 32)
VGG = find_groups(build_model("vgg_tiny", 10, width=0.25), X)
RESNET = find_groups(build_model("resnet20", 10, width=0.5), X)


def published_scores(archive):
    convs = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    scores = {f"features.{convs[i]}": torch.from_numpy(archive[f"f64/frs_conv{i:02d}"]) for i in range(2, 13)}
    return scores, {"classifier.0": torch.from_numpy(archive["f64/frs_fc_hidden"])}, convs


def test_the_published_picks_are_reproduced():
    archive = np.load(ARCHIVE)
    groups = find_groups(build_model("vgg16_bn", 10, width=0.125), X)
    conv_scores, hidden_scores, convs = published_scores(archive)
    free = {"min_channels": 1, "min_share": 0.0}
    plan = select_channels(conv_scores, groups, Budget(count=60, **free))
    picks = {
        (unit, 12 - convs.index(int(name.split(".")[1])))
        for name, units in plan.removed.items()
        for unit in units
    }
    assert picks == {tuple(row) for row in archive["round1/order"].tolist()}
    hidden = select_channels(hidden_scores, groups, Budget(count=8, **free))
    assert hidden.removed == {"classifier.0": tuple(sorted(archive["round1/fc_hidden"].tolist()))}


@settings(max_examples=1000, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 400),
    min_channels=st.integers(1, 12),
    min_share=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    residual=st.booleans(),
    allocator=st.sampled_from(["global", "uniform"]),
)
def test_exactly_the_asked_number_goes_and_no_layer_is_emptied(
    seed, count, min_channels, min_share, residual, allocator
):
    groups = RESNET if residual else VGG
    budget = Budget(
        count=count, min_channels=min_channels, min_share=min_share, ranking=Ranking(allocator=allocator)
    )
    plan = select_channels(random_scores(groups, seed), groups, budget)
    room = sum(g.size - budget.floor(g) for g in groups.groups)
    assert plan.num_units == min(count, room)
    for group in groups.groups:
        assert group.size - len(plan.removed.get(group.name, ())) >= min(group.size, min_channels) >= 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("groups", [VGG, RESNET], ids=["vgg", "resnet"])
def test_the_ranking_equals_picking_one_by_one(groups, seed):
    scores = {k: (v * 8).round() for k, v in random_scores(groups, seed).items()}  # many ties
    plan = select_channels(scores, groups, Budget(count=40, min_channels=3, min_share=0.2))
    slow = pick_one_by_one(scores, groups, 40, 3, 0.2)
    assert {(name, u) for name, units in plan.removed.items() for u in units} == set(slow)


def test_selection_does_not_depend_on_the_order_of_the_scores():
    scores = {k: (v * 5).round() for k, v in random_scores(RESNET).items()}
    names = list(scores)
    random.Random(1).shuffle(names)
    budget = Budget(count=30)
    assert select_channels({n: scores[n] for n in names}, RESNET, budget) == select_channels(
        scores, RESNET, budget
    )


def test_ties_go_by_lowest_channel_then_by_the_last_layer():
    scores = {layer: torch.zeros(size) for layer, size in VGG.scored_layers().items()}
    plan = select_channels(scores, VGG, Budget(count=8))
    last_two = [g.name for g in VGG.groups][-2:]
    assert plan.removed == {**{g.name: (0,) for g in VGG.groups}, **dict.fromkeys(last_two, (0, 1))}


def test_a_unit_has_the_mean_of_its_scored_members():
    scores = {layer: torch.ones(size) for layer, size in RESNET.scored_layers().items()}
    scores["layer1.0.conv2"][5] = -2.0  # mean of -2, 1, 1 = 0
    scores["layer1.1.conv1"][1] = 0.1
    plan = select_channels(scores, RESNET, Budget(count=1))
    assert plan.removed == {"layer1.0.conv2": (5,)}


def test_a_unit_without_a_score_is_never_picked():
    scores = random_scores(VGG)
    del scores["features.0"]
    plan = select_channels(scores, VGG, Budget(count=10_000, min_channels=1, min_share=0.0))
    assert "features.0" not in plan.removed
    assert plan.meta == {"asked": 10_000, "removed": plan.num_units}
    assert plan.num_units == VGG.num_units - 8 - 5  # all but features.0 and one unit of each other group


def test_floors_are_a_number_and_a_share_of_the_original_size():
    budget = Budget(count=10_000, min_channels=2, min_share=0.1)
    plan = select_channels(random_scores(VGG), VGG, budget)
    assert [g.size for g in VGG.after(plan).groups] == [2, 2, 2, 2, 4, 4]  # ceil(0.1 * 16) = 2, ceil(3.2) = 4
    again = select_channels(random_scores(VGG.after(plan)), VGG.after(plan), budget)
    assert again.num_units == 0


@pytest.mark.parametrize(("ratio", "units"), [(0.25, 28), (0.5, 56), (0.004, 1), (0.0135, 2)])
def test_a_ratio_counts_living_units_rounded_half_up_and_at_least_one(ratio, units):
    assert VGG.num_units == 112  # 0.0135 * 112 = 1.512
    assert select_channels(random_scores(VGG), VGG, Budget(ratio=ratio)).num_units == units


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("allocator", ["global", "uniform"])
def test_an_event_that_would_pass_the_limit_is_trimmed_to_the_fewest_units(of, allocator):
    index = ("macs", "params").index(of)
    limit = 0.6 * RESNET.cost()[index]
    ranking = Ranking(allocator=allocator)
    scores = random_scores(RESNET)
    plan = select_channels(scores, RESNET, Budget(count=150, limit=limit, of=of, ranking=ranking))
    assert RESNET.cost(plan.removed)[index] <= limit
    shorter = select_channels(scores, RESNET, Budget(count=plan.num_units - 1, ranking=ranking))
    assert RESNET.cost(shorter.removed)[index] > limit


def test_an_event_that_does_not_reach_the_limit_removes_its_full_count():
    plan = select_channels(random_scores(VGG), VGG, Budget(count=3, limit=0.3 * VGG.cost()[0]))
    assert plan.num_units == 3


def test_nothing_goes_once_the_limit_is_met():
    assert select_channels(random_scores(VGG), VGG, Budget(count=3, limit=VGG.cost()[0] + 1)).num_units == 0


def test_uniform_allocation_takes_the_same_share_of_every_group():
    plan = select_channels(random_scores(VGG), VGG, Budget(ratio=0.25, ranking=Ranking(allocator="uniform")))
    assert [len(plan.removed[g.name]) for g in VGG.groups] == [2, 2, 4, 4, 8, 8]


def test_normalisation_makes_layers_of_different_scale_comparable():
    scores = {
        layer: torch.arange(1.0, n + 1) * 10.0**i for i, (layer, n) in enumerate(VGG.scored_layers().items())
    }
    raw = select_channels(scores, VGG, Budget(count=6))
    assert set(raw.removed) == {"features.0"}
    for name in ("unit_l2", "mean", "max"):
        plan = select_channels(scores, VGG, Budget(count=6, ranking=Ranking(normalise=name)))
        assert len(plan.removed) > 1


def test_cost_weighting_prefers_costly_channels():
    scores = {layer: torch.ones(n) for layer, n in VGG.scored_layers().items()}
    plan = select_channels(scores, VGG, Budget(count=6, ranking=Ranking(cost_power=1.0)))
    costliest = max(VGG.groups, key=lambda g: VGG.marginal_cost("macs")[g.first_unit]).name
    assert set(plan.removed) == {costliest}


def test_the_marginal_cost_is_what_one_unit_takes_along():
    for index, of in enumerate(("macs", "params")):
        saved = VGG.marginal_cost(of)
        for group in VGG.groups:
            exact = VGG.cost()[index] - VGG.cost({group.name: [0]})[index]
            assert saved[group.first_unit] == pytest.approx(exact, rel=1e-6)


def test_the_reachable_share_grows_with_events_and_bounds_what_selection_reaches():
    budgets = [Budget(ratio=0.2)] * 6
    shares = [reachable_share(RESNET, budgets[:n]) for n in range(7)]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    now = RESNET
    for budget in budgets:
        now = now.after(select_channels(random_scores(now), now, budget))
    assert 1 - now.cost()[0] / RESNET.cost()[0] <= shares[-1] < 1
    assert reachable_share(RESNET, [Budget(ratio=0.2, of="params")] * 6) > 0.5


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            {"features.0": torch.tensor([1.0] * 7 + [float("nan")])},
            "features.0: the score of channel 7 is nan",
        ),
        ({"features.3": torch.full((8,), float("inf"))}, "features.3: the score of channel 0 is inf"),
        ({"features.0": torch.ones(5)}, "features.0: scores of shape (5,), but the layer has 8 channels"),
        (
            {"featuers.0": torch.ones(8)},
            'featuers.0: scores for a layer the model does not have (did you mean "feat',
        ),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores, message):
    with pytest.raises(PlanError) as caught:
        select_channels(scores, VGG, Budget(count=1))
    assert message in str(caught.value)


def test_a_limit_below_the_floors_is_refused():
    with pytest.raises(InfeasibleTarget) as caught:
        select_channels(random_scores(VGG), VGG, Budget(count=1, min_share=0.5, limit=0.1 * VGG.cost()[0]))
    assert "macs cannot be reached" in str(caught.value)
    assert "lower min_channels and min_share" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either count or ratio"),
        ({"count": 1, "ratio": 0.1}, "give either count or ratio"),
        ({"count": -1}, "budget.count: -1 is negative"),
        ({"ratio": 1.5}, "budget.ratio: 1.5 is not in (0, 1]"),
        ({"count": 1, "min_channels": 0}, "min_channels=0"),
        ({"count": 1, "of": "mac"}, 'did you mean "macs"?'),
        ({"count": 1, "round_to": 0}, "budget.round_to: 0 is not >= 1"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        Budget(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalise": "unitl2"}, "ranking.normalise: 'unitl2' is unknown (did you mean \"unit_l2\"?)"),
        ({"allocator": ""}, "ranking.allocator: '' is not an allocator's name"),
        ({"cost_power": float("nan")}, "ranking.cost_power: nan is not a number >= 0"),
    ],
)
def test_rankings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        Ranking(**arguments)
    assert message in str(caught.value)
