"""A number of channels that is the size of something else: units counted by hand, removal equal to gating."""

import copy
import functools

import pytest
import torch
from torch import nn

from gcp_core.groups import find_groups
from gcp_core.pruning.growth import apply_growth, plan_growth
from gcp_core.pruning.selection import Budget, select_channels
from tests.oracles import size_nets
from tests.oracles.nets import images, lively, random_scores, removed_against_gated
from tests.oracles.size_nets import UNITS

X = images(size=8)


def build(kind):
    torch.manual_seed(0)
    return lively(kind())


@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_channels_whose_number_is_another_ones_size_go_with_it_or_stay(kind):
    model = build(kind)
    groups = find_groups(model, X)
    assert groups.num_units == UNITS[kind]
    for group in groups.groups:
        difference, moved = removed_against_gated(model, groups.plan({group.name: [1, group.size - 1]}), X)
        assert difference <= 1e-12 < moved


@pytest.mark.parametrize("residual", ["scatter", "inner"])
@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_they_do_so_in_every_residual_mode(kind, residual):
    model = build(kind)
    groups = find_groups(model, X, residual=residual)
    plan = select_channels(random_scores(groups), groups, Budget(ratio=0.25, min_channels=1))
    difference, _ = removed_against_gated(model, plan, X)
    assert difference <= 1e-12


@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_they_grow_together_too(kind):
    model = build(kind).eval()
    groups = find_groups(model, X)
    for group in groups.groups:
        grown = copy.deepcopy(model)
        apply_growth(grown, plan_growth(groups, {group.name: 2}, seed=0))
        with torch.no_grad():
            assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)


def test_a_view_ties_channel_i_to_channel_i():
    group = find_groups(build(size_nets.ViewedInRows), X).group("stem.0")
    assert {m.layer: m.channels[3] for m in group.members} == {"stem.0": (3,), "mid.0": (3, 11)}


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        (size_nets.ExpandedToANumber, "mid.0", "expand makes it as wide as something else"),
        (size_nets.Regrouped, "stem.0", "view takes their number as a size of something else"),
        (size_nets.Regrouped, "mid.0", "it is reshaped to the fixed size several sizes"),
        (size_nets.UnknownViewed, "stem.0", "view takes their number as a size of something else"),
        (size_nets.AsksForChannels, "mid.0", "len counts them"),
        (size_nets.Scaled, "mid.0", "mul uses their number as a value"),
        (size_nets.ScaledByARoot, "mid.0", "their number is used as a value"),
        (size_nets.ScaledInside, "mid.0", "hardtanh uses their number as a value"),
        (size_nets.PixelsToAWidth, "stem.0", "getitem takes their number as a size of something else"),
        (size_nets.TwiceAndAHalf, "mid.0", "getitem picks channels at fixed positions"),
        (size_nets.SplitLessEight, "mid.0", "split takes their number as a size of something else"),
        (size_nets.GainOfPixels, "mid.0", "mul joins it with channels that are never removed"),
        (size_nets.GainOfNobody, "stem.0", "view takes their number as a size of something else"),
    ],
)
def test_what_cannot_follow_says_why(kind, layer, reason):
    assert find_groups(build(kind), X).frozen[layer] == reason


@functools.cache
def two_rows(shape):
    n, c, h, w = shape
    return n, 2, c // 2, h, w


class Remembers(nn.Module):
    """A shuffle whose sizes are remembered by shape, as einops does it; behind so many layers of one shape."""

    def __init__(self, layers):
        super().__init__()
        wide = [nn.Conv2d(8 if place else 3, 8, 3, padding=1) for place in range(layers)]
        self.stem, self.out, self.fc = nn.Sequential(*wide), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x.view(two_rows(x.shape)).transpose(1, 2).flatten(1, 2)
        return self.fc(self.out(x).relu().mean((2, 3)))


def test_sizes_that_a_network_remembers_from_another_ones_trace_are_plain_numbers():
    two_rows.cache_clear()
    assert find_groups(Remembers(4), X).num_units == 3 * 8 + 4 + 6  # the rows are tied
    # The remembered sizes count the other network's fourth layer, of which there is none here.
    groups = find_groups(Remembers(1), X)
    assert groups.frozen["stem.0"] == "it is reshaped to the fixed size 2 x 4"
    assert {group.name: group.size for group in groups.groups} == {"out": 6}
