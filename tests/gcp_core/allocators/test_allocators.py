"""Whatever an allocator answers, the plan keeps floors and whole steps and passes a budget by at most one step."""

import dataclasses

import numpy as np
import pytest
import torch

from gcp_core.allocators import Budget, Ranking, allocator_names, build_allocator, removable
from gcp_core.errors import ConfigError, PlanError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import select_channels, select_within
from gcp_core.testing import criterion_case
from tests.oracles.fillings import FirstGroup, Looking, Sets

GROUPS = find_groups(build_model("resnet20", 10, 3, 0.5), torch.zeros(1, 3, 32, 32))
VGG = find_groups(build_model("vgg_tiny", 10, width=0.25), torch.zeros(1, 3, 8, 8))


def scores_of(groups, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        layer: torch.rand(size, generator=rng, dtype=torch.float64)
        for layer, size in groups.scored_layers().items()
    }


class Everything:
    """Takes every unit of every group."""

    def allot(self, scores, groups, budget):
        return {group.name: 0 for group in groups.groups}


class Nothing:
    """Takes nothing."""

    def allot(self, scores, groups, budget):
        return {}


class Given:
    def __init__(self, keep):
        self.keep = keep

    def allot(self, scores, groups, budget):
        return self.keep


def shares(plan, groups):
    return [len(plan.removed.get(g.name, ())) / g.size for g in groups.groups]


def test_an_answer_that_takes_too_much_is_cut_down_evenly_to_the_count():
    plan = select_channels(scores_of(VGG), VGG, Budget(count=28, min_channels=1, min_share=0), Everything())
    assert plan.num_units == 28
    # 28 of 112 units, a quarter of each group.
    assert shares(plan, VGG) == [0.25] * 6


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("groups", [GROUPS, VGG])
def test_an_answer_that_passes_the_limit_is_cut_down_until_a_unit_less_would_be_too_few(groups, of):
    for share in (0.3, 0.55, 0.8):
        limit = share * groups.cost()[of == "params"]
        budget = Budget(ratio=1.0, limit=limit, of=of, min_channels=1, min_share=0.05)
        plan = select_channels(scores_of(groups), groups, budget, Everything())
        assert groups.cost(plan.removed)[of == "params"] <= limit
        assert any(
            groups.cost({n: u[1:] if n == name else u for n, u in plan.removed.items()})[of == "params"]
            > limit
            for name in plan.removed
        )


def test_floors_and_whole_steps_are_kept_whatever_the_answer():
    budget = Budget(ratio=1.0, min_channels=3, min_share=0.2, round_to=4)
    plan = select_channels(scores_of(GROUPS), GROUPS, budget, Everything())
    for group, allowed in zip(GROUPS.groups, removable(GROUPS, budget), strict=True):
        assert len(plan.removed.get(group.name, ())) == allowed[-1]
    odd = Given({GROUPS.groups[0].name: GROUPS.groups[0].size - 3})
    assert select_channels(scores_of(GROUPS), GROUPS, budget, odd).num_units == 0, "three are no whole step"


def test_the_lowest_units_of_a_group_go():
    scores = scores_of(VGG)
    plan = select_channels(scores, VGG, Budget(count=5), Given({"features.0": 3}))
    assert list(plan.removed) == ["features.0"]
    assert set(plan.removed["features.0"]) == set(scores["features.0"].argsort()[:5].tolist())


def test_units_without_a_score_stay_whatever_the_answer():
    scores = scores_of(VGG)
    del scores["features.0"]
    plan = select_channels(scores, VGG, Budget(ratio=1.0, min_channels=1, min_share=0), Everything())
    assert "features.0" not in plan.removed


def test_an_answer_that_takes_less_is_taken_as_it_is_unless_the_limit_is_to_be_reached():
    limit = 0.5 * VGG.cost()[0]
    short = Given({"features.0": 4})
    budget = Budget(ratio=1.0, limit=limit, min_channels=1, min_share=0)
    assert select_channels(scores_of(VGG), VGG, budget, short).num_units == 4
    whole = dataclasses.replace(budget, whole=True)
    plan = select_channels(scores_of(VGG), VGG, whole, short)
    assert len(plan.removed["features.0"]) >= 4
    assert VGG.cost(plan.removed)[0] <= limit
    # With nothing said, the rest is what the global ranking takes.
    said = select_channels(scores_of(VGG), VGG, whole, Nothing())
    assert said.removed == select_channels(scores_of(VGG), VGG, whole).removed


@pytest.mark.parametrize("allocator", [Nothing(), Given({"features.0": 4}), Everything(), None])
def test_where_the_floors_prevent_the_limit_that_is_to_be_reached_all_that_they_allow_goes(allocator):
    """Half of every group may go, and 90 % of the MACs shall."""
    budget = Budget(ratio=1.0, limit=0.1 * VGG.cost()[0], min_channels=1, min_share=0.5, whole=True)
    plan = select_within(scores_of(VGG), VGG, budget, allocator)
    assert shares(plan, VGG) == [0.5] * 6
    # An event that is not the one to reach it takes what the allocator says.
    some = select_within(
        scores_of(VGG), VGG, dataclasses.replace(budget, whole=False), Given({"features.0": 4})
    )
    assert {name: len(units) for name, units in some.removed.items()} == {"features.0": 4}


def test_an_order_of_groups_is_kept_where_the_limit_cuts_it_short():
    """First group first: the limit is reached inside the second one, the third is whole."""
    budget = Budget(count=12, min_channels=1, min_share=0)
    plan = select_channels(scores_of(VGG), VGG, budget, FirstGroup())
    assert [len(plan.removed.get(g.name, ())) for g in VGG.groups][:3] == [7, 5, 0]


def test_hidden_layers_with_a_count_of_their_own_are_held_to_it():
    groups = find_groups(build_model("vgg16_bn", 10, 3, 0.125), torch.zeros(1, 3, 32, 32))
    budget = Budget(count=40, hidden_count=3, min_channels=1, min_share=0)
    plan = select_channels(scores_of(groups), groups, budget, Everything())
    hidden = sum(len(units) for name, units in plan.removed.items() if name.startswith("classifier"))
    assert (hidden, plan.num_units - hidden) == (3, 40)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"features.1": 3}, "the allocator names a group that is not there"),
        ({"features.0": 9}, "the allocator keeps 9 units; the group has 8"),
        ({"features.0": -1}, "the allocator keeps -1 units"),
        ({"features.0": 2.5}, "the allocator keeps 2.5 units, no whole number"),
        ({"features.0": float("nan")}, "no whole number"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_with_its_group(keep, message):
    with pytest.raises(PlanError) as caught:
        select_channels(scores_of(VGG), VGG, Budget(count=3), Given(keep))
    assert message in str(caught.value)
    assert caught.value.where in keep


def test_an_allocator_that_looks_is_stood_in_for_where_there_is_no_model():
    ranking = Ranking(allocator="tests.oracles.fillings:Looking")
    played = select_channels(scores_of(VGG), VGG, Budget(count=9, ranking=ranking))
    assert played.removed == select_channels(scores_of(VGG), VGG, Budget(count=9)).removed
    model = build_model("vgg_tiny", 10, width=0.25)
    seen = Looking().look(model, VGG, [], torch.Generator())
    assert len(select_channels(scores_of(VGG), VGG, Budget(count=3), seen).removed) == 1


def test_names_and_mistakes():
    assert allocator_names() == [
        "activation_density",
        "compensation_threshold",
        "given",
        "global",
        "least_used",
        "network_adjustment",
        "threshold",
        "uniform",
    ]
    with pytest.raises(ConfigError, match=r"prune.allocator: 'globl' is unknown \(did you mean \"global\"\?"):
        build_allocator("globl")
    with pytest.raises(ConfigError, match="returned a EveryOther, which is no allocator"):
        build_allocator("tests.oracles.fillings:EveryOther")
    with pytest.raises(ConfigError, match="needs data, but does not look"):
        build_allocator(f"{__name__}:blind")


def blind():
    allocator = Everything()
    allocator.needs = "data"
    return allocator


# --- criteria that choose sets ------------------------------------------------------------------------------------


class OneSet:
    """Keeps the even units first, whatever k; worth as given."""

    def __init__(self, worth):
        self.worth = torch.as_tensor(worth, dtype=torch.float64)

    def keep(self, k):
        order = [*range(0, len(self.worth), 2), *range(1, len(self.worth), 2)]
        return order[:k]


def sets_of(groups, worth=None):
    return {
        g.name: OneSet(torch.linspace(1, 0, g.size) if worth is None else worth[g.name])
        for g in groups.groups
    }


def test_sets_decide_which_units_stay_and_worth_decides_how_many():
    plan = select_channels(sets_of(VGG), VGG, Budget(count=28, min_channels=1, min_share=0))
    assert plan.num_units == 28
    for name, units in plan.removed.items():
        size = VGG.group(name).size
        kept = sets_of(VGG)[name].keep(size - len(units))
        assert sorted({*units} | {*kept}) == list(range(size))
    cheap = {g.name: torch.full((g.size,), 0.0 if g.name == "features.3" else 1.0) for g in VGG.groups}
    plan = select_channels(sets_of(VGG, cheap), VGG, Budget(count=4, min_channels=1, min_share=0))
    assert list(plan.removed) == ["features.3"]


def test_sets_that_are_not_nested_meet_a_limit_exactly():
    ranking = Sets().ranking(None, GROUPS, [], None)
    limit = 0.6 * GROUPS.cost()[0]
    budget = Budget(ratio=1.0, limit=limit, whole=True, min_channels=1, min_share=0)
    for allocator in (None, build_allocator("uniform"), Everything()):
        plan = select_channels(ranking, GROUPS, budget, allocator)
        assert GROUPS.cost(plan.removed)[0] <= limit
        one_less = []
        for name, units in plan.removed.items():
            size = GROUPS.group(name).size
            assert {*range(size)} - {*units} == {*ranking[name].keep(size - len(units))}
            one_less.append(GROUPS.cost({**plan.removed, name: units[1:]})[0])
        assert max(one_less) > limit, "no more go than have to"


def test_scores_as_sets_are_the_same_plan():
    """keep = the k highest, worth = the sorted scores: the same units go."""

    class Highest:
        def __init__(self, scores):
            self.order = scores.argsort(descending=True)
            self.worth = scores[self.order]

        def keep(self, k):
            return self.order[:k].tolist()

    for seed in range(5):
        scores = scores_of(VGG, seed)
        budget = Budget(ratio=1.0, limit=0.5 * VGG.cost()[0], min_channels=1, min_share=0)
        sets = {name: Highest(score) for name, score in scores.items()}
        for ranking in (Ranking(), Ranking(allocator="uniform"), Ranking(normalise="mean", cost_power=1.0)):
            one, two = (
                select_channels(s, VGG, dataclasses.replace(budget, ranking=ranking)) for s in (scores, sets)
            )
            assert one.removed == two.removed


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda s: setattr(s["features.0"], "keep", lambda k: [0] * k), "the criterion keeps"),
        (
            lambda s: setattr(s["features.0"], "worth", torch.ones(3)),
            "is not one finite number for each of 8 units",
        ),
        (lambda s: setattr(s["features.0"], "worth", torch.full((8,), np.nan)), "is not one finite number"),
        (lambda s: s.pop("features.0"), "no ranking for this group"),
    ],
)
def test_sets_that_make_no_sense_are_refused_with_their_group(fault, message):
    sets = sets_of(VGG)
    fault(sets)
    with pytest.raises(PlanError, match=r"features\.0") as caught:
        select_channels(sets, VGG, Budget(count=40))
    assert message in str(caught.value)


def test_a_threshold_keeps_what_is_above_it_and_what_has_no_score():
    groups = criterion_case().groups
    scores = {group.name: np.linspace(0, 1, group.size) for group in groups.groups}
    scores["9"] = np.full(4, np.nan)
    kept = build_allocator("threshold").allot(scores, groups, Budget(ratio=1.0))
    assert kept == {"0": 2, "4": 3, "9": 4}
    assert build_allocator("threshold", {"at": -1}).allot(scores, groups, Budget(ratio=1.0)) == {
        "0": 5,
        "4": 6,
        "9": 4,
    }
