"""Activation density on tensors small enough to count, its fixed point, and its link to APoZ."""

from __future__ import annotations

import math

import pytest
import torch

from gcp_core.allocators import Budget
from gcp_core.allocators.density import (
    ActivationDensity,
    density,
    density_widths,
    group_densities,
    layer_densities,
    saturated,
)
from gcp_core.criteria import build_criterion
from gcp_core.errors import ConfigError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.schedule.saturation import density_saturated
from gcp_core.testing import criterion_case, differences, fingerprint
from tests.oracles.nets import images, own_net


def test_density_is_the_share_that_is_not_zero():
    assert density(torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 0.5]])) == pytest.approx(4 / 6)
    assert density(torch.zeros(3)) == 0
    assert density(torch.empty(0)) == 0


def test_after_relu_a_symmetric_distribution_has_density_one_half():
    values = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    values = torch.cat([values, -values])
    assert density(values.relu()) == 0.5


def test_zeroing_a_channel_lowers_the_density_by_its_own_share():
    maps = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0)).relu()
    own = density(maps[:, 2])
    without = maps.clone()
    without[:, 2] = 0
    assert density(maps) - density(without) == pytest.approx(own / 4)


def test_all_positive_maps_keep_their_widths():
    assert density_widths({"a": 7, "b": 64}, {"a": 1.0, "b": 1.0}) == {"a": 7, "b": 64}


@pytest.mark.parametrize(
    ("width", "ad", "floor", "expected"),
    [(64, 0.5, 1, 32), (5, 0.5, 1, 3), (5, 0.49, 1, 2), (8, 0.0, 1, 1), (8, 0.1, 3, 3), (2, 0.1, 4, 2)],
)
def test_widths_are_rounded_and_never_below_their_floor(width, ad, floor, expected):
    assert density_widths({"a": width}, {"a": ad}, {"a": floor}) == {"a": expected}


def test_a_layers_density_is_the_mean_of_one_minus_apoz():
    case = criterion_case()
    before = fingerprint(case.model)
    found = layer_densities(case.model, case.groups, case.batches)
    assert differences(before, fingerprint(case.model)) == []
    for layer, share in case.scores(build_criterion("apoz")).items():
        assert found[layer] == pytest.approx(float(share.mean()), abs=1e-12)
    x = torch.cat([batch for batch, _ in case.batches])
    assert found["0"] == pytest.approx(density(case.model.eval()[:3](x)))


def test_a_residual_stream_has_one_density():
    model = own_net("resnet20").eval()
    groups = find_groups(model, images(size=8))
    layers = layer_densities(model, groups, [(images(size=8), torch.zeros(4))])
    found = group_densities(layers, groups)
    assert sorted(found) == sorted(group.name for group in groups.groups)
    group = next(g for g in groups.groups if sum(m.scored for m in g.members) > 1)
    members = [m.layer for m in group.members if m.scored]
    assert found[group.name] == pytest.approx(sum(layers[m] for m in members) / len(members))


@pytest.mark.parametrize(
    ("values", "window", "expected"),
    [
        ([0.5], 1, False),
        ([0.5, 0.505], 1, True),
        ([0.5, 0.52], 1, False),
        ([0.9, 0.5, 0.505, 0.5, 0.505], 3, True),
        ([0.9, 0.5, 0.505, 0.5], 3, False),
        ([0.50, 0.508, 0.516, 0.524], 3, False),
    ],
)
def test_density_rests_when_no_group_moves(values, window, expected):
    history = [{"a": v, "b": 1.0} for v in values]
    assert saturated(history, window=window) == expected


def test_one_moving_group_is_enough_to_wait():
    assert not saturated([{"a": 0.5, "b": 0.1}, {"a": 0.5, "b": 0.3}], window=1)


@pytest.mark.parametrize("options", [{"window": 0}, {"window": True}, {"tolerance": -0.1}, {"tolerance": 2}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        saturated([], **options)


def test_densities_without_images_are_refused():
    case = criterion_case()
    with pytest.raises(RelevanceError, match="there are no images"):
        layer_densities(case.model, case.groups, [])


def test_the_allocator_asks_for_no_width_below_the_events_floor():
    case = criterion_case()
    asked = ActivationDensity(dict.fromkeys((group.name for group in case.groups.groups), 0.0))
    budget = Budget(ratio=0.5, min_channels=3, min_share=0.5)
    assert asked.allot({}, case.groups, budget) == {
        group.name: max(3, math.ceil(group.original_size / 2)) for group in case.groups.groups
    }


def test_after_an_event_the_clock_watches_anew():
    """With a window of one epoch and any move allowed every second epoch is due."""
    case, clock = criterion_case(), density_saturated(window=1, tolerance=1.0)
    due = [
        clock.due(epoch, case.model, case.groups, case.batches, torch.Generator()) for epoch in range(1, 6)
    ]
    assert due == [False, True, False, True, False]
