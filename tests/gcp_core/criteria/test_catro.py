"""Trace ratio: sets against trying all of them, statistics against their definition."""

from __future__ import annotations

import logging
import math
from itertools import combinations, pairwise

import pytest
import torch

from gcp_core.criteria.catro import (
    Separation,
    best_set,
    catro,
    class_separation,
    finite,
    network_rate,
    pooled,
    unit_separation,
)
from gcp_core.errors import ConfigError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.testing import SetCriterionContract, check_criterion, criterion_case
from tests.oracles.nets import images, own_net


def random_separation(seed: int, channels: int = 10) -> Separation:
    rng = torch.Generator().manual_seed(seed)
    within = torch.rand(channels, generator=rng, dtype=torch.float64) ** 2 + 0.01
    return Separation(torch.rand(channels, generator=rng, dtype=torch.float64) ** 2 * within.sqrt(), within)


def best_by_trying(separation: Separation, number: int) -> tuple[tuple[int, ...], float]:
    tried = {
        s: separation.ratio(torch.tensor(s)) for s in combinations(range(len(separation.between)), number)
    }
    best = max(tried, key=lambda s: tried[s])
    return best, tried[best]


@pytest.mark.parametrize(("channels", "number", "cases"), [(10, 4, 100), (12, 6, 10), (5, 1, 20), (6, 6, 3)])
def test_the_set_is_the_best_of_all(channels, number, cases):
    for seed in range(cases):
        separation = random_separation(seed, channels)
        found = best_set(separation, number)
        assert found.kept == best_by_trying(separation, number)[0], seed


def test_lambda_never_falls_and_ends_at_the_sets_ratio():
    for seed in range(100):
        separation = random_separation(seed)
        found = best_set(separation, 4)
        assert list(found.rates) == sorted(found.rates)
        assert found.rates[0] == 0
        assert found.rates[-1] == pytest.approx(separation.ratio(torch.tensor(found.kept)), rel=1e-12)
        assert len(found.rates) <= 8


def test_the_plain_ratio_is_often_not_the_best_and_best_sets_are_not_always_nested():
    worse = nested = 0
    for seed in range(300):
        separation = random_separation(seed)
        plain = (separation.between / separation.within).argsort(descending=True)[:4]
        worse += separation.ratio(plain) < best_by_trying(separation, 4)[1] * (1 - 1e-12) if seed < 60 else 0
        sets = [set(best_set(separation, d).kept) for d in range(1, 10)]
        nested += all(a <= b for a, b in pairwise(sets))
    assert worse > 5
    assert nested < 300


def test_sets_follow_a_permutation_and_ignore_a_common_scale():
    separation = random_separation(3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    permuted = Separation(separation.between[order], separation.within[order])
    scaled = Separation(separation.between * 49, separation.within * 49)
    for d in range(1, 10):
        kept = set(best_set(separation, d).kept)
        assert {int(order[i]) for i in best_set(permuted, d).kept} == kept
        assert set(best_set(scaled, d).kept) == kept
    rate = network_rate({"a": separation, "b": random_separation(4)})
    assert network_rate({"a": scaled, "b": random_separation(4)}) == pytest.approx(rate, rel=1e-12)


def test_zero_over_zero_is_the_worst_ratio():
    separation = Separation(
        torch.tensor([0.1, 0.0, 5.0, 0.2]).double(), torch.tensor([9.0, 0.0, 1.0, 2.0]).double()
    )
    assert separation.dead.tolist() == [False, True, False, False]
    assert best_set(separation, 3).kept == (0, 2, 3), "although leaving out channel 0 would give a larger J"
    assert separation.ratio(torch.tensor([1])) == -math.inf
    assert separation.worth(0.5).tolist()[1] == -math.inf
    assert finite(torch.tensor([1.0, -math.inf, -3.0])).tolist() == [1.0, -6.0, -3.0]
    assert finite(torch.tensor([-math.inf])).tolist() == [0.0]


def test_channels_without_scatter_within_classes_are_the_best():
    separation = Separation(torch.tensor([1.0, 3.0, 2.0]).double(), torch.tensor([0.0, 1.0, 0.0]).double())
    assert best_set(separation, 2).kept == (0, 2)
    assert separation.ratio(torch.tensor([0, 2])) == math.inf


# --- statistics ----------------------------------------------------------------------------------------------------


def by_definition(maps: torch.Tensor, labels: torch.Tensor) -> tuple[list[float], list[float]]:
    between, within = [], []
    for c in range(maps.shape[1]):
        f = maps[:, c].reshape(len(maps), -1)
        b = w = 0.0
        for k in set(labels.tolist()):
            own = f[labels == k]
            b += len(own) * float((own.mean(0) - f.mean(0)).square().sum())
            w += float((own - own.mean(0)).square().sum())
        between.append(b), within.append(w)
    return between, within


def test_the_scatter_is_the_definitions():
    case = criterion_case()
    x = torch.cat([batch for batch, _ in case.batches])
    y = torch.cat([labels for _, labels in case.batches])
    found = class_separation(case.model, case.groups, case.batches)
    maps = case.model.eval()[:2](x).detach()
    for layer, output in (("0", maps), ("9", case.model[:10](x).detach())):
        between, within = by_definition(output, y)
        assert found[layer].between.tolist() == pytest.approx(between, rel=1e-10)
        assert found[layer].within.tolist() == pytest.approx(within, rel=1e-10)
    spatial = class_separation(case.model, case.groups, case.batches, max_positions=1)["0"]
    between, within = by_definition(maps.mean((2, 3)), y)
    assert spatial.between.tolist() == pytest.approx(between, rel=1e-10)
    assert spatial.within.tolist() == pytest.approx(within, rel=1e-10)


@pytest.mark.parametrize(
    ("shape", "limit", "positions"),
    [
        ((2, 3, 8, 8), 64, 64),
        ((2, 3, 8, 8), 17, 16),
        ((2, 3, 20), 6, 6),
        ((2, 3), 1, 1),
        ((2, 3, 2, 9), 9, 6),
    ],
)
def test_large_maps_are_pooled(shape, limit, positions):
    assert pooled(torch.randn(shape), limit).shape == (2, 3, positions)


def test_a_constant_channel_goes_first():
    case = criterion_case()
    with torch.no_grad():
        case.norm("5").weight[4] = 0
    scores = case.scores(catro())
    assert int(scores["4"].argmin()) == 4
    assert float(scores["4"][4]) < min(float(s.min()) for layer, s in scores.items() if layer != "4")
    ranking = catro().ranking(case.model, case.groups, case.batches, torch.Generator())["4"]
    assert all(4 not in ranking.keep(d) for d in range(1, 6))


def test_a_common_rescale_of_a_layers_features_changes_nothing():
    case, scaled = criterion_case(), criterion_case()
    with torch.no_grad():
        for tensor in (scaled.norm("5").weight, scaled.norm("5").bias):
            tensor *= 4
        scaled.model[9].weight /= 4
    before, after = case.scores(catro()), scaled.scores(catro())
    for layer, score in before.items():
        assert torch.allclose(after[layer], score, rtol=1e-9), layer


def test_a_class_without_images_has_no_part_and_is_logged(caplog):
    case = criterion_case()
    moved = [(x, torch.where(y == 1, 3, y)) for x, y in case.batches]
    with caplog.at_level(logging.INFO):
        found = class_separation(case.model, case.groups, moved)
    assert caplog.text.count("1 of 4 classes have no images") == 1
    for layer, expected in class_separation(case.model, case.groups, case.batches).items():
        assert torch.allclose(found[layer].between, expected.between)


def test_with_a_single_class_all_is_finite():
    case = criterion_case()
    batches = [(x, torch.zeros_like(y)) for x, y in case.batches]
    scores = catro().score(case.model, case.groups, batches, torch.Generator())
    assert all(bool(torch.isfinite(s).all()) for s in scores.values())


def test_a_groups_ranking_keeps_best_sets_and_its_worth_falls():
    model = own_net("resnet20").eval()
    x = images(12, 8)
    groups = find_groups(model, x)
    batches = [(x, torch.arange(12) % 3)]
    rankings = catro().ranking(model, groups, batches, torch.Generator())
    units = unit_separation(class_separation(model, groups, batches), groups)
    assert sorted(rankings) == sorted(group.name for group in groups.groups)
    for group in groups.groups:
        ranking = rankings[group.name]
        assert [len(ranking.keep(k)) for k in range(group.size + 1)] == list(range(group.size + 1))
        worth = ranking.worth.tolist()
        assert worth == sorted(worth, reverse=True)
        number = group.size // 2
        assert tuple(ranking.keep(number)) == best_by_trying(units[group.name], number)[0]


def test_layers_that_share_units_count_alike_whatever_their_scale():
    groups = find_groups(own_net("resnet20"), images(size=8))
    layers = {
        layer: random_separation(seed, width)
        for seed, (layer, width) in enumerate(groups.scored_layers().items())
    }
    stream = max(groups.groups, key=lambda group: sum(member.scored for member in group.members))
    loud, other = (member.layer for member in stream.members[-2:])
    scaled = {**layers, loud: Separation(1000 * layers[loud].between, 1000 * layers[loud].within)}
    before, after = (unit_separation(own, groups)[stream.name] for own in (layers, scaled))
    assert torch.allclose(before.between, after.between, rtol=1e-12)
    assert torch.allclose(before.within, after.within, rtol=1e-12)
    assert {loud, other} <= set(layers), "both are scored"


def test_the_networks_lambda_rises_with_fewer_units():
    layers = {"a": random_separation(1), "b": random_separation(2, 7)}
    rates = [network_rate(layers, number) for number in range(17, 0, -1)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(network_rate(layers), rel=1e-12)


class TestSets(SetCriterionContract):
    def criterion(self):
        return catro()


def test_as_scores_it_keeps_the_contract_of_criteria():
    check_criterion(catro, scale_invariant=True)
    check_criterion(lambda: catro(max_positions=1), scale_invariant=True)


def test_bad_options_and_missing_images_are_refused():
    with pytest.raises(ConfigError, match=r"prune.options.max_positions: 0 is not a whole number >= 1"):
        catro(0)
    case = criterion_case()
    with pytest.raises(RelevanceError, match="batches: there are no images to score"):
        catro().score(case.model, case.groups, [], torch.Generator())
