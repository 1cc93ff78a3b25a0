"""The compensation-aware order and variance importance against slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gcp_core.criteria.consumers.compensation import (
    Compensation,
    KeepOrder,
    Remainder,
    compensation,
    keep_order,
)
from gcp_core.criteria.consumers.readers import readers, readers_by_group
from gcp_core.criteria.consumers.statistics import input_moments
from gcp_core.criteria.consumers.variance import variance
from gcp_core.errors import ConfigError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.testing import check_criterion, criterion_case
from tests.oracles.columns import greedy_keep_order, loss_of, rows_of
from tests.oracles.nets import images, own_net
from tests.oracles.small_nets import Concat


def moments_of(layer: nn.Module, x: torch.Tensor, **options):
    (found,) = input_moments(nn.Sequential(layer), {"0": None}, [(x, torch.zeros(len(x)))], **options)
    return found


def layer_and_input(channels: int = 5, kernel: int = 3) -> tuple[nn.Conv2d, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 3, kernel, padding=kernel // 2).double()
    mix = torch.randn(channels, channels, dtype=torch.float64)
    x = torch.einsum("ij,njhw->nihw", mix, torch.randn(30, channels, 6, 6, dtype=torch.float64))
    return layer, x


def remainder(layer: nn.Module, x: torch.Tensor, units: list[int], **options) -> Remainder:
    moments = moments_of(layer, x, **options)
    return Remainder(moments.blocked(layer.weight), moments, np.array(units))


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_gain_is_what_a_unit_takes_off_the_loss(kernel):
    layer, x = layer_and_input(kernel=kernel)
    u, weight = rows_of(layer, x), layer.weight.detach().flatten(1)
    columns = [list(range(c * kernel**2, (c + 1) * kernel**2)) for c in range(5)]
    left = remainder(layer, x, [0, 1, 2, 3, 4])
    kept: list[int] = []
    for unit in (3, 0, 4):
        assert left.loss() == pytest.approx(loss_of(u, weight, kept), rel=1e-10)
        for other, gain in enumerate(left.gains(5).tolist()):
            if columns[other][0] not in kept:
                expected = loss_of(u, weight, kept) - loss_of(u, weight, kept + columns[other])
                assert gain == pytest.approx(expected, rel=1e-9)
        left.keep(unit)
        kept += columns[unit]


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_order_is_the_greedy_one_found_by_trying_all(kernel):
    layer, x = layer_and_input(channels=6, kernel=kernel)
    found = keep_order([remainder(layer, x, list(range(6)))], 6)
    columns = [list(range(c * kernel**2, (c + 1) * kernel**2)) for c in range(6)]
    order, gains = greedy_keep_order(rows_of(layer, x), layer.weight.detach().flatten(1), columns)
    assert list(found.order) == order
    assert found.gains.tolist() == pytest.approx(gains, rel=1e-8, abs=1e-10)
    assert float(found.gains.sum()) == pytest.approx(found.total, rel=1e-10)


def test_gains_of_several_consumers_add_up():
    (one, x), other = layer_and_input(), nn.Conv2d(5, 4, 1).double()
    together = [remainder(one, x, list(range(5))), remainder(other, x, list(range(5)))]
    alone = [remainder(one, x, list(range(5))).gains(5), remainder(other, x, list(range(5))).gains(5)]
    assert torch.allclose(sum(part.gains(5) for part in together), alone[0] + alone[1])
    first = keep_order(together, 5).order[0]
    assert first == int((alone[0] + alone[1]).argmax())


def test_what_a_consumer_reads_besides_counts_as_kept():
    layer, x = layer_and_input(kernel=1)
    u, weight = rows_of(layer, x), layer.weight.detach().flatten(1)
    left = remainder(layer, x, [-1, 0, 1, -1, 2])
    assert left.loss() == pytest.approx(loss_of(u, weight, [0, 3]), rel=1e-10)
    expected = [loss_of(u, weight, [0, 3]) - loss_of(u, weight, [0, 3, c]) for c in (1, 2, 4)]
    assert left.gains(3).tolist() == pytest.approx(expected, rel=1e-9)


def test_constant_and_repeated_channels_gain_nothing_and_come_last():
    layer, x = layer_and_input(channels=6)
    x[:, 1], x[:, 4] = 0.0, 2 * x[:, 3] + 1
    x[:, 5] = -7.0
    layer.padding = (0, 0)  # a constant is one at the border, too
    found = keep_order([remainder(layer, x, list(range(6)))], 6)
    assert set(found.order[:3]) in ({0, 2, 3}, {0, 2, 4})
    assert found.gains[3:].tolist() == [0, 0, 0]
    assert float(found.gains.sum()) == pytest.approx(found.total, rel=1e-10)


def test_positions_that_repeat_each_other_are_ranked_all_the_same():
    """An upsampled map: each pixel twice, so the columns of one channel are singular."""
    layer, x = layer_and_input(channels=4, kernel=2)
    layer.stride, layer.padding = (2, 2), (0, 0)
    x = x[:, :, :3, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = keep_order([remainder(layer, x, list(range(4)))], 4)
    columns = [list(range(4 * c, 4 * c + 4)) for c in range(4)]
    order, gains = greedy_keep_order(rows_of(layer, x), layer.weight.detach().flatten(1), columns)
    assert list(found.order) == order
    assert found.gains.tolist() == pytest.approx(gains, rel=1e-8, abs=1e-10)


def test_above_the_limit_gains_are_sums_over_positions():
    layer, x = layer_and_input()
    left = remainder(layer, x, list(range(5)), max_columns=5)
    u, weight = rows_of(layer, x).reshape(-1, 5, 9), layer.weight.detach().flatten(2)
    left.keep(2)
    parts = [
        loss_of(u[:, :, p], weight[:, :, p], [2]) - loss_of(u[:, :, p], weight[:, :, p], [2, 0])
        for p in range(9)
    ]
    assert float(left.gains(5)[0]) == pytest.approx(sum(parts), rel=1e-9)


def test_worth_never_rises_and_scores_have_the_order():
    found = KeepOrder((2, 0, 3, 1), torch.tensor([4.0, 1.0, 3.0, 0.0], dtype=torch.float64), 8.0)
    assert found.worth.tolist() == [0.5, 0.375, 0.375, 0.0]
    assert found.scores().argsort(descending=True).tolist() == [2, 0, 3, 1]
    assert found.scores()[[2, 0, 3, 1]].tolist() == pytest.approx([0.5, 0.375, 0.375, 0.0], abs=1e-11)
    assert [found.keep(k) for k in range(5)] == [[], [2], [0, 2], [0, 2, 3], [0, 1, 2, 3]]


# --- on models -----------------------------------------------------------------------------------------------------


def test_a_group_is_ranked_on_everything_that_reads_it():
    model = own_net("resnet20").eval()
    x = images(4, 8)
    groups = find_groups(model, x)
    name = next(g.name for g in groups.groups if any(m.layer == "conv1" for m in g.members))
    expected = {
        "layer1.0.conv1",
        "layer1.1.conv1",
        "layer1.2.conv1",
        "layer2.0.conv1",
        "layer2.0.downsample.0",
    }
    assert {reader.layer for reader in readers_by_group(model, groups)[name]} == expected
    orders = compensation().orders(model, groups, [(x, torch.zeros(4))])
    assert sorted(orders) == sorted(group.name for group in groups.groups)
    for group in groups.groups:
        assert sorted(orders[group.name].order) == list(range(group.size))


def test_the_order_of_a_hidden_layer_is_that_of_its_own_consumer():
    case = criterion_case()
    found = Compensation("raw", 1, 10_000).orders(case.model, case.groups, case.batches)["9"]
    x = torch.cat([batch for batch, _ in case.batches])
    hidden = case.model.eval()[:11](x).detach()
    last = case.model[12]
    order, _ = greedy_keep_order(hidden, last.weight.detach(), [[c] for c in range(4)])
    assert list(found.order) == order


def test_a_flattened_map_is_a_unit_with_several_columns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).double()
    x = images(60, 4)
    groups = find_groups(model, x)
    (reader,) = readers(model, groups)
    assert (reader.layer, reader.positions, reader.units.tolist()) == ("3", 4, [0, 1, 2, 3])
    found = compensation().orders(model, groups, [(x, torch.zeros(60))])["0"]
    columns = [list(range(4 * c, 4 * c + 4)) for c in range(4)]
    order, gains = greedy_keep_order(model[:3](x).detach(), model[3].weight.detach(), columns)
    assert list(found.order) == order
    assert found.gains.tolist() == pytest.approx(gains, rel=1e-8)


def test_groups_that_share_a_consumer_are_ranked_given_each_other():
    torch.manual_seed(0)
    model = Concat().double().eval()
    x = images(6, 8)
    groups = find_groups(model, x)
    shared = [n for n, own in readers_by_group(model, groups).items() if "mix.0" in {r.layer for r in own}]
    assert len(shared) == 2
    orders = compensation().orders(model, groups, [(x, torch.zeros(6))])
    assert all(len(orders[name].order) == groups.group(name).size for name in shared)


def test_units_without_readers_get_an_average_share():
    model = own_net("resnet20").eval()
    x = images(4, 8)
    groups = find_groups(model, x, residual="scatter")
    for criterion in (compensation(), variance()):
        scores = criterion.score(model, groups, [(x, torch.zeros(4))], torch.Generator())
        assert scores["layer1.0.conv2"].tolist() == pytest.approx([1 / 4] * 4)
        assert len(set(scores["layer1.0.conv1"].tolist())) == 4


@pytest.mark.parametrize("build", [compensation, variance])
def test_rows_behind_a_norm_do_not_feel_the_scale_of_a_filter(build):
    for rows, same in (("raw", False), ("norm", True)):
        case, doubled = criterion_case(), criterion_case()
        with torch.no_grad():
            norm = doubled.norm("5")
            doubled.conv("4").weight[2] *= 2
            norm.running_mean[2] *= 2
            norm.running_var[2] *= 4
        before, after = case.scores(build(rows)), doubled.scores(build(rows))
        assert torch.allclose(before["0"], after["0"], rtol=1e-6) == same, rows


@pytest.mark.parametrize(
    "build", [compensation, lambda: compensation("norm"), lambda: compensation("raw", 2), variance]
)
def test_the_criteria_keep_the_contract(build):
    check_criterion(build, scale_invariant=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: compensation("row"), r"prune.options.rows: 'row' is unknown \(did you mean \"raw\""),
        (
            lambda: compensation(sampling_stride=0),
            "prune.options.sampling_stride: 0 is not a whole number >= 1",
        ),
        (
            lambda: compensation(max_columns=True),
            "prune.options.max_columns: True is not a whole number >= 1",
        ),
        (lambda: variance("row"), r"prune.options.rows: 'row' is unknown \(did you mean \"raw\""),
        (
            lambda: variance(sampling_stride=1.5),
            "prune.options.sampling_stride: 1.5 is not a whole number >= 1",
        ),
    ],
)
def test_bad_options_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("build", [compensation, variance])
def test_no_images_no_scores(build):
    case = criterion_case()
    with pytest.raises(RelevanceError, match="batches: there are no images to score"):
        build().score(case.model, case.groups, [], torch.Generator())


# --- variance importance -------------------------------------------------------------------------------------------


def test_variance_importance_is_the_variance_measured_with_the_channel_alone():
    case = criterion_case()
    scores = case.scores(variance())
    x = torch.cat([batch for batch, _ in case.batches])
    case.model.eval()
    maps, conv = case.model[:4](x).detach(), case.conv("4")
    total = float(conv(maps).detach().var((0, 2, 3), correction=0).sum())
    for channel in range(5):
        alone = torch.zeros_like(maps)
        alone[:, channel] = maps[:, channel]
        measured = float(conv(alone).detach().var((0, 2, 3), correction=0).sum())
        assert float(scores["0"][channel]) == pytest.approx(measured / total, rel=1e-10)


def test_a_constant_channel_has_no_variance_importance():
    case = criterion_case()
    with torch.no_grad():
        case.norm("5").weight[1] = 0
    scores = case.scores(variance())["4"]
    assert float(scores[1]) == 0
    assert bool((scores[[0, 2, 3, 4, 5]] > 0).all())


def test_uncorrelated_channels_share_the_output_variance_and_gain_as_much_at_first():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)).double()
    groups = find_groups(model, torch.zeros(1, 3, 5, 5))
    x = torch.randn(6, 3, 5, 5, dtype=torch.float64)
    # Inputs of the second conv without any correlation: orthogonal columns of mean zero, of unlike size.
    rows = torch.randn(150, 4, dtype=torch.float64)
    basis = torch.linalg.qr(rows - rows.mean(0)).Q * torch.tensor([1.0, 2.0, 3.0, 4.0])
    maps = basis.reshape(6, 5, 5, 4).permute(0, 3, 1, 2)
    model[0].register_forward_hook(
        lambda module, args, output: maps[: len(output)] if len(output) == 6 else output
    )
    batches = [(x, torch.zeros(6))]
    scores = variance().score(model, groups, batches, torch.Generator())["0"]
    assert float(scores.sum()) == pytest.approx(1, rel=1e-10)
    moments = next(iter(input_moments(model, {"1": None}, batches)))
    first = Remainder(moments.blocked(model[1].weight), moments, np.arange(4))
    assert torch.allclose(first.gains(4) / first.loss(), scores, rtol=1e-10)
