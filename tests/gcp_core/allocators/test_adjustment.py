"""Utilisation ratios against closed forms, cost against the counter, widths against their budget."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from gcp_core.allocators import Budget
from gcp_core.allocators.adjustment import (
    MOST,
    Steps,
    adjusted_widths,
    cost_of_widths,
    cost_slopes,
    dropped_units,
    growth,
    probe_rates,
    scaled_widths,
    shrunk_widths,
    utilisation,
)
from gcp_core.allocators.network import network_adjustment
from gcp_core.cost import measure_cost
from gcp_core.errors import ConfigError, PlanError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import select_channels
from gcp_core.pruning.surgery import apply_plan, gate_channels
from gcp_core.testing import criterion_case, differences, fingerprint
from tests.oracles.nets import images, own_net

NETS = ["resnet20", "vgg_tiny"]


def net_and_groups(name: str, residual: str = "coupled"):
    model = own_net(name).eval()
    return model, find_groups(model, images(size=8), residual=residual)


def widths_of(groups) -> dict[str, int]:
    return {group.name: group.size for group in groups.groups}


# --- cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("name", NETS)
def test_the_cost_of_widths_is_what_the_counter_says_of_the_cut_net(name, residual):
    model, groups = net_and_groups(name, residual)
    assert cost_of_widths(groups, {}) == measure_cost(model, images(size=8)).macs
    left = {group.name: group.size - 1 - g % 2 for g, group in enumerate(groups.groups) if group.size > 2}
    plan = groups.plan({n: range(groups.group(n).size - w) for n, w in left.items()})
    small = copy.deepcopy(model)
    apply_plan(small, plan)
    cost = measure_cost(small, images(size=8))
    assert cost_of_widths(groups, left) == pytest.approx(cost.macs, rel=1e-12)
    assert cost_of_widths(groups, left, "params") == pytest.approx(cost.params, rel=1e-12)
    # And back: the small net's groups say what the large one costs.
    again = find_groups(small, images(size=8), residual=residual)
    if residual != "scatter":
        assert cost_of_widths(again, widths_of(groups)) == pytest.approx(
            cost_of_widths(groups, {}), rel=1e-12
        )


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("name", NETS)
def test_slopes_are_finite_differences_of_the_counter(name, of):
    _, groups = net_and_groups(name)
    widths = widths_of(groups)
    slopes = cost_slopes(groups, of=of)
    assert set(slopes) == {group.name for group in groups.groups}
    for group, slope in slopes.items():
        up, down = ({**widths, group: widths[group] + sign} for sign in (1, -1))
        # F is a polynomial of degree two in each width: the central difference is exact.
        assert slope == pytest.approx(
            (cost_of_widths(groups, up, of) - cost_of_widths(groups, down, of)) / 2, rel=1e-12
        )


def test_a_width_of_an_unknown_group_is_refused():
    _, groups = net_and_groups("vgg_tiny")
    with pytest.raises(PlanError, match=r"features.00: no such group \(did you mean"):
        cost_of_widths(groups, {"features.00": 3})


# --- probing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_every_probe_drops_the_same_expected_cost(name):
    _, groups = net_and_groups(name)
    rates, slopes = probe_rates(groups, 0.01), cost_slopes(groups)
    dropped = [rates[g.name] * g.size * slopes[g.name] for g in groups.groups]
    assert dropped == pytest.approx([dropped[0]] * len(dropped), rel=1e-12)


def test_rates_of_cheap_groups_are_cut():
    _, groups = net_and_groups("vgg_tiny")
    rates = probe_rates(groups, 0.4)
    assert max(rates.values()) == MOST
    assert min(rates.values()) < MOST


def test_the_rise_of_a_squared_loss_is_the_closed_form():
    """Linear last layer, L = (y - w h)^2, y = the plain net's output: E[rise] = p / (1 - p) mean_n sum_c (w_c h_c)^2."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 1)).double().eval()
    x = torch.randn(50, 3, dtype=torch.float64)
    groups = find_groups(model, x)
    (group,) = groups.groups
    h, w, p = model[0](x).detach(), model[1].weight.detach()[0], 0.3
    expected = p / (1 - p) * float((w * h).square().sum(1).mean())
    batches = [(x, model(x).detach())]
    rises = utilisation(
        model,
        groups,
        batches,
        {group.name: p},
        torch.Generator().manual_seed(0),
        times=2000,
        loss=lambda outputs, wanted: (outputs - wanted).square().sum(1),
    )
    assert rises[group.name] == pytest.approx(expected, rel=0.03)


def test_a_rise_probed_at_a_cut_rate_counts_for_the_cost_it_should_have_dropped():
    case = criterion_case()
    slopes = cost_slopes(case.groups)
    rates = {"0": 0.02, "4": 0.4}
    dropped = {name: rate * case.groups.group(name).size * slopes[name] for name, rate in rates.items()}
    assert dropped["4"] > 2 * dropped["0"]
    alone = {
        name: utilisation(
            case.model, case.groups, case.batches, {name: rate}, torch.Generator().manual_seed(1), times=1
        )[name]
        for name, rate in rates.items()
    }
    rng = torch.Generator().manual_seed(1)
    found = utilisation(case.model, case.groups, case.batches, rates, rng, times=1)
    assert found["0"] == pytest.approx(alone["0"] * max(dropped.values()) / dropped["0"])


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
def test_dropping_zeroes_units_as_a_gate_does(residual):
    """At a rate near one all units go, divided by almost nothing: what is left is the gated net."""
    model, groups = net_and_groups("resnet20", residual)
    x = images(3, 8)
    for group in groups.groups:
        plan = groups.plan({group.name: range(group.size)})
        with torch.no_grad():
            with dropped_units(model, groups, group.name, 1 - 1e-9, torch.Generator().manual_seed(0)):
                dropped = model(x)
            with gate_channels(model, plan):
                gated = model(x)
        assert torch.allclose(dropped, gated, atol=1e-12), group.name


def test_the_model_is_left_as_found_and_the_seed_decides():
    case = criterion_case()
    before = fingerprint(case.model)
    rates = probe_rates(case.groups, 0.1)
    first, second, other = (
        utilisation(case.model, case.groups, case.batches, rates, torch.Generator().manual_seed(s), times=2)
        for s in (0, 0, 1)
    )
    assert differences(before, fingerprint(case.model)) == []
    assert first == second != other
    with pytest.raises(RelevanceError, match="there are no images"):
        utilisation(case.model, case.groups, [], rates, torch.Generator())
    assert differences(before, fingerprint(case.model)) == []


@pytest.mark.parametrize(
    ("share", "most", "where"), [(0, 0.5, "share"), (1.0, 0.5, "share"), (0.1, 1.0, "most")]
)
def test_bad_rates_are_refused(share, most, where):
    _, groups = net_and_groups("vgg_tiny")
    with pytest.raises(ConfigError, match=where):
        probe_rates(groups, share, most=most)


# --- widths ------------------------------------------------------------------------------------------------------------


def flat_cost(widths) -> float:
    return float(sum(widths.values()))


def test_the_best_used_grow_and_the_worst_used_shrink_by_their_rank():
    widths = dict.fromkeys("abcdef", 100)
    ratios = dict(zip("abcdef", (5.0, 1.0, 4.0, 2.0, 3.0, 6.0)))
    steps = Steps(share=0.2, decay=0.05, groups=2)
    found = adjusted_widths(widths, widths, ratios, flat_cost, 600, steps=steps)
    assert found == {"f": 120, "a": 115, "c": 100, "e": 100, "d": 85, "b": 80}


def test_steps_are_shares_of_the_initial_width_and_widths_stop_at_the_smallest():
    found = adjusted_widths(
        {"a": 10, "b": 6}, {"a": 40, "b": 40}, {"a": 1.0, "b": 0.0}, flat_cost, 18, steps=Steps(groups=3)
    )
    assert found == {"a": 14, "b": 4}, "10 + 4, and 6 - 4 is below 4"


@pytest.mark.parametrize("budget_share", [1.0, 0.7, 1.3])
@pytest.mark.parametrize("name", NETS)
def test_the_cost_comes_back_to_the_budget_within_one_per_cent(name, budget_share):
    torch.manual_seed(0)
    groups = find_groups(build_model(name, 10), images(size=8).float())
    widths = widths_of(groups)
    rng = torch.Generator().manual_seed(1)
    ratios = dict(zip(widths, torch.rand(len(widths), generator=rng).tolist()))
    budget = budget_share * cost_of_widths(groups, {})
    found = adjusted_widths(widths, widths, ratios, lambda w: cost_of_widths(groups, w), budget)
    assert abs(cost_of_widths(groups, found) / budget - 1) <= 0.01
    assert min(found.values()) >= 4
    assert found != widths


def test_ceilings_hold():
    found = adjusted_widths(
        {"a": 10, "b": 10},
        {"a": 10, "b": 10},
        {"a": 1.0, "b": 0.0},
        flat_cost,
        20,
        ceilings={"a": 10, "b": 10},
    )
    assert found["a"] == 10


@pytest.mark.parametrize("of", ["macs", "params"])
def test_the_allocator_asks_for_no_more_units_than_a_group_once_had_and_meets_the_level(of):
    _, groups = net_and_groups("vgg_tiny")
    ratios = {group.name: float(g + 1) for g, group in enumerate(groups.groups)}
    allocator = replace(network_adjustment(share=0.5), ratios=ratios)
    limit = 0.8 * cost_of_widths(groups, {}, of)
    asked = allocator.allot({}, groups, Budget(ratio=1.0, limit=limit, whole=True, of=of))
    assert all(asked[group.name] <= group.original_size for group in groups.groups)
    assert any(asked[group.name] == group.original_size for group in groups.groups), (
        "the best-used ones would grow"
    )
    assert cost_of_widths(groups, asked, of) == pytest.approx(limit, rel=0.05)


@pytest.mark.parametrize("of", ["macs", "params"])
def test_units_that_an_allocator_asks_back_beyond_the_level_stay_away(of):
    class Greedy:
        """All units back but those of the last group, of which twelve go."""

        needs, per_unit, grows = "nothing", False, True

        def allot(self, scores, groups, budget):
            last = groups.groups[-1]
            return {group.name: group.original_size for group in groups.groups} | {last.name: last.size - 12}

    _, groups = net_and_groups("vgg_tiny")
    groups = groups.after(groups.plan({group.name: range(3) for group in groups.groups}))
    scores = {layer: torch.arange(width).double() for layer, width in groups.scored_layers().items()}
    budget = Budget(ratio=1.0, limit=cost_of_widths(groups, {}, of), whole=True, of=of)
    plan = select_channels(scores, groups, budget, Greedy())
    come, gone = plan.meta["grow"], {name: len(units) for name, units in plan.removed.items()}
    assert come, "some fit"
    assert gone == {groups.groups[-1].name: 12}
    widths = {g.name: g.size + come.get(g.name, 0) - gone.get(g.name, 0) for g in groups.groups}
    assert cost_of_widths(groups, widths, of) <= budget.limit


def test_of_parameters_the_ranking_is_by_what_a_parameter_buys():
    _, groups = net_and_groups("vgg_tiny")
    macs, params = cost_slopes(groups), cost_slopes(groups, of="params")
    alike = {name: macs[name] ** -1 * params[name] for name in macs}  # equal rises per parameter
    per = replace(network_adjustment(), ratios=alike)._per("params", groups)
    assert list(per.values()) == pytest.approx([1.0] * len(per), rel=1e-12)


def test_scaling_finds_the_nearest_whole_widths():
    assert scaled_widths({"a": 8.0, "b": 16.0}, flat_cost, 48) == {"a": 16, "b": 32}
    assert scaled_widths({"a": 8.0, "b": 16.0}, flat_cost, 9) == {"a": 4, "b": 5}
    with pytest.raises(ConfigError, match=r"budget: 0 is not a cost > 0"):
        scaled_widths({"a": 8.0}, flat_cost, 0)


def test_shrinking_alone_grows_nothing():
    widths, ratios = {"a": 20, "b": 20, "c": 5}, {"a": 1.0, "b": 0.1, "c": 0.2}
    found = shrunk_widths(widths, {"a": 20, "b": 20, "c": 20}, ratios, steps=Steps(share=0.25, groups=2))
    assert found == {"a": 20, "b": 15, "c": 4}
    assert growth(widths, found) == ({"b": 5, "c": 1}, {})
    assert growth({"a": 3, "b": 2}, {"a": 5, "b": 1}) == ({"b": 1}, {"a": 2})


@pytest.mark.parametrize("options", [{"share": 0}, {"decay": -1}, {"groups": 0}, {"smallest": 0}])
def test_bad_steps_are_refused(options):
    with pytest.raises(ConfigError, match=f"steps.{next(iter(options))}"):
        Steps(**options)
