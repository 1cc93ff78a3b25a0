"""Channels through every kind of operation: units counted by hand, removal equal to gating."""

import pytest
import torch
from torch.nn import functional as F

from gcp_core.cost import measure_cost
from gcp_core.groups import find_groups
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from tests.oracles import shared_nets, size_nets, small_nets
from tests.oracles.nets import images, lively, random_scores, removed_against_gated

X = images(size=8)
UNITS = small_nets.UNITS | shared_nets.UNITS


def build(kind):
    torch.manual_seed(0)
    return lively(kind())


@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_the_units_are_those_counted_by_hand(kind):
    assert find_groups(build(kind), X).num_units == UNITS[kind]


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_removal_equals_gating_and_the_predicted_cost_is_right(kind, residual):
    model = build(kind)
    for seed in range(3):
        groups = find_groups(model, X, residual=residual)
        plan = select_channels(random_scores(groups, seed), groups, Budget(ratio=0.25, min_channels=1))
        difference, moved = removed_against_gated(model, plan, X)
        assert difference <= 1e-12
        assert moved > 1e-6 or plan.num_units == 0
        apply_plan(model, plan)
        cost = measure_cost(model, X)
        assert groups.cost(plan.removed) == (cost.macs, cost.params)


@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_each_unit_alone_can_go(kind):
    groups = find_groups(build(kind), X)
    for group in groups.groups:
        if group.size > 1:
            difference, _ = removed_against_gated(
                build(kind), groups.plan({group.name: [group.size // 2]}), X
            )
            assert difference <= 1e-12


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        (
            small_nets.SigmoidFirst,
            "mid",
            "out.0 would read a value that is not zero when the channel is gated",
        ),
        (small_nets.Shifted, "mid.0", "out.0 would read a value that is not zero when the channel is gated"),
        (small_nets.FixedView, "out.0", "it is reshaped to the fixed size 8"),
        (small_nets.Unknown, "mid.0", "cumsum is an operation the channel analysis does not follow"),
        (
            small_nets.Transposed,
            "mid.0",
            "conv_transpose2d is an operation the channel analysis does not follow",
        ),
        (
            small_nets.ChannelsLastMlp,
            "stem.0",
            "layer_norm normalises across channels, so no channel can go alone",
        ),
        (
            small_nets.SpatialAttention,
            "map",
            "its one channel is broadcast over all channels of another activation",
        ),
        (small_nets.PaddedShortcut, "c2", "it is joined with channels that are never removed"),
        (small_nets.ExtraHead, "head", "its channels are the model's output"),
        (small_nets.ExtraHead, "side.0", "it runs in training mode only"),
        (small_nets.NewZerosBeside, "stem.0", "new_zeros makes a tensor with their number"),
        (small_nets.ZerosOfASizeBeside, "stem.0", "zeros makes a tensor with their number"),
        (small_nets.PaddedToWidth, "stem.0", "pad fills up what is left beside them"),
        (small_nets.Reordered, "stem.0", "getitem picks channels at fixed positions"),
        (small_nets.Rolled, "stem.0", "roll picks channels at fixed positions"),
    ],
)
def test_what_is_frozen_says_why(kind, layer, reason):
    assert find_groups(build(kind), X).frozen[layer].startswith(reason)


def test_a_squeeze_excite_gate_goes_along_and_is_not_scored():
    group = find_groups(build(small_nets.SqueezeExcite), X).group("wide.0")
    assert [(m.layer, m.scored) for m in group.members] == [("wide.0", True), ("up", False)]


class OwnSwish(small_nets.SqueezeExcite):
    """An activation that is written out, and a gate behind it."""

    def body(self, x):
        x = self.wide(x)
        x = x * (F.relu6(x + 3) / 6)
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.out(x * gate)


def test_a_layer_that_gates_itself_is_scored_and_a_gate_beside_it_is_not():
    group = find_groups(build(OwnSwish), X).group("wide.0")
    assert [(m.layer, m.scored) for m in group.members] == [("wide.0", True), ("up", False)]


def test_whole_groups_of_a_grouped_conv_go_or_the_same_place_in_each():
    many = find_groups(build(small_nets.ManyGroups), X).group("wide.0")
    assert [(m.layer, m.channels[1]) for m in many.members] == [("wide.0", (2, 3)), ("grouped.0", (3, 4, 5))]
    few = find_groups(build(small_nets.FewGroups), X)
    assert few.group("wide.0").members[0].channels[1] == (1, 9)
    assert few.group("grouped.0").members[0].channels[1] == (1, 7)


def test_the_two_halves_of_a_shuffle_lose_the_same_places():
    group = find_groups(build(small_nets.Shuffle), X).group("stem.0")
    assert {m.layer: m.channels[0] for m in group.members} == {"stem.0": (0, 4), "outer.0": (0,)}


class ByAxis(small_nets.Shuffle):
    """The shuffle with NumPy's name of a dimension."""

    def body(self, x):
        kept, worked = x.chunk(2, axis=1)
        x = torch.cat([kept, self.outer(self.inner(worked))], axis=1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def test_a_dimension_may_be_called_axis():
    groups = find_groups(build(ByAxis), X)
    assert groups.num_units == UNITS[small_nets.Shuffle]
    difference, moved = removed_against_gated(build(ByAxis), groups.plan({"stem.0": [1]}), X)
    assert difference <= 1e-12
    assert moved > 1e-6


class Quotient(small_nets.Net):
    """A stream that is divided by a branch: a divisor without a channel would be zero there."""

    def __init__(self):
        branch = (*small_nets.block(8, 6), small_nets.conv(6, 8), torch.nn.BatchNorm2d(8))
        super().__init__(8, branch=torch.nn.Sequential(*branch))

    def body(self, x):
        return x / self.branch(x)


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
def test_what_is_divided_and_what_divides_stay_whole_in_every_mode(residual):
    groups = find_groups(build(Quotient), X, residual=residual)
    assert {group.name: group.size for group in groups.groups} == {"branch.0": 6}
    for layer in ("stem.0", "branch.3"):
        assert groups.frozen[layer] == "div of two activations"


class BesideNothing(small_nets.Concat):
    """As a loop writes it that begins with nothing."""

    def body(self, x):
        y = torch.tensor([], dtype=x.dtype)
        for part in (self.left(x), self.right(x)):
            y = torch.cat([y, part], dim=1)
        return torch.cat((self.mix(y), x), 1)


def test_a_concatenation_may_begin_with_nothing():
    model = build(BesideNothing)
    groups = find_groups(model, X)
    assert groups.num_units == UNITS[small_nets.Concat]
    plan = groups.plan({group.name: [1] for group in groups.groups})
    difference, moved = removed_against_gated(model, plan, X)
    assert difference <= 1e-12 < moved


@pytest.mark.parametrize("divide", [torch.div, torch.Tensor.__truediv__])
def test_what_divides_a_parameter_stays_whole(divide):
    class Ratio(size_nets.Scaled):
        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.ones(()))

        def scaled(self, y):
            return divide(self.level, y)

    assert find_groups(build(Ratio), X).frozen["mid.0"] == "it is a divisor"


class Bounded(size_nets.Scaled):
    """Nothing is below 0.1, a gated channel neither."""

    def body(self, x):
        return self.out(F.hardtanh(self.mid(x), 0.1, 1.0))


class ScaledScale(size_nets.Scaled):
    """A norm whose scale is the product of two parameters."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.rand(7) + 0.5)

    def body(self, x):
        conv, norm = self.mid[0], self.mid[1]
        scale = norm.weight * self.gain
        y = F.batch_norm(conv(x), norm.running_mean, norm.running_var, scale, norm.bias, self.training)
        return self.out(y.relu())


class PooledOverChannels(size_nets.Scaled):
    """A vector per image, taken by a pool for the channels of one image."""

    def scaled(self, y):
        return y * F.avg_pool1d(y.mean((2, 3)), 3, 1, 1)[:, :, None, None]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (PooledOverChannels, "avg_pool1d over a dimension that holds channels, or with indices"),
        (Bounded, "out.0 would read a value that is not zero when the channel is gated"),
        (ScaledScale, "it passes a batch norm that is not a module over dimension 1"),
    ],
)
def test_what_reads_channels_in_a_way_of_its_own_keeps_their_layer_whole(kind, reason):
    model = build(kind)
    groups = find_groups(model, X)
    assert groups.frozen["mid.0"] == reason
    for group in groups.groups:
        difference, moved = removed_against_gated(model, groups.plan({group.name: [1]}), X)
        assert difference <= 1e-12 < moved
