"""Compensation says what plain least squares says, and the repaired, cut model is the fit."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from gcp_core.criteria.consumers.statistics import MAX_COLUMNS, input_moments, norm_scale, packed, unfolded
from gcp_core.errors import ConfigError, PlanError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.surgery import apply_plan, gate_channels
from gcp_core.repairs.least_squares import (
    compensate,
    consumers_of,
    fit,
    least_squares,
    rescale_factor,
    residual_loss,
)
from gcp_core.testing import check_repair, differences, fingerprint
from tests.oracles.columns import fit_with_intercept, loss_of, rows_of
from tests.oracles.nets import images, own_net

LAYERS = {
    "conv": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(4, 3, 3, padding=2, dilation=2),
    "same": lambda: nn.Conv2d(4, 3, (2, 3), padding="same"),
    "uneven": lambda: nn.Conv2d(4, 3, (3, 1), padding=(1, 0), stride=(1, 2)),
    "circular": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
    "pointwise": lambda: nn.Conv2d(4, 3, 1),
    "conv1d": lambda: nn.Conv1d(4, 3, 3, padding=1),
    "conv3d": lambda: nn.Conv3d(4, 3, 2),
    "linear": lambda: nn.Linear(4, 3),
}


def layer_and_input(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layer = LAYERS[kind]().double()
    shape = {"linear": (), "conv1d": (9,), "conv3d": (3, 3, 4)}.get(kind, (6, 6))
    mix = torch.randn(4, 4, dtype=torch.float64)
    x = torch.randn(40, 4, *shape, dtype=torch.float64) + torch.tensor([5.0, 0.0, -1.0, 2.0]).reshape(
        1, 4, *[1] * len(shape)
    )
    return layer, torch.einsum("ij,nj...->ni...", mix, x)


def batches_of(x: torch.Tensor, size: int = 17) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(size)]


def moments_of(layer: nn.Module, x: torch.Tensor, **options):
    (found,) = input_moments(nn.Sequential(layer), {"0": None}, batches_of(x), **options)
    return found


def columns_of(channels: list[int], positions: int) -> list[int]:
    return [c * positions + p for c in channels for p in range(positions)]


@pytest.mark.parametrize("sampling_stride", [1, 2])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_unfolding_cuts_out_what_every_filter_sees(kind, sampling_stride):
    layer, x = layer_and_input(kind)
    expected = rows_of(layer, x, sampling_stride)
    if kind != "linear":
        assert torch.equal(unfolded(layer, x, sampling_stride), expected)
        outputs = layer(x).movedim(1, -1).flatten(0, -2)
        ours = rows_of(layer, x) @ layer.weight.flatten(1).T + layer.bias
        assert torch.allclose(outputs, ours, atol=1e-12)
    found = moments_of(layer, x, sampling_stride=1 if kind == "linear" else sampling_stride)
    mean = expected.mean(0)
    assert found.rows == len(expected)
    assert torch.allclose(found.mean[0], mean, rtol=1e-12, atol=1e-13)
    centred = expected - mean
    assert torch.allclose(found.covariance[0], centred.T @ centred / len(expected), rtol=1e-11, atol=1e-12)
    outputs = centred @ layer.weight.flatten(1).T
    assert torch.allclose(found.output_variance, outputs.square().mean(0), rtol=1e-11)
    assert torch.allclose(found.output_variance_from_columns(layer.weight), found.output_variance, rtol=1e-10)


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("kept", [[0, 2], [3], [0, 1, 3]])
def test_weights_and_bias_are_those_of_least_squares_with_intercept(kind, kept):
    layer, x = layer_and_input(kind)
    moments = moments_of(layer, x)
    found = fit(layer.weight, moments, torch.tensor(kept))
    u = rows_of(layer, x).detach()
    columns = columns_of(kept, moments.shape[1])
    weight, bias, error = fit_with_intercept(u[:, columns], (u @ layer.weight.flatten(1).T).detach())
    assert torch.allclose(found.weight.flatten(1)[:, columns], weight, rtol=1e-8, atol=1e-9)
    assert torch.allclose(found.shift, bias, rtol=1e-8, atol=1e-9)
    assert not found.singular
    assert float(found.residual.sum()) == pytest.approx(error, rel=1e-11)


@pytest.mark.parametrize("kept", [[0, 2], [3], [0, 1, 3]])
def test_the_loss_from_statistics_is_the_measured_residual(kept):
    layer, x = layer_and_input("conv")
    moments = moments_of(layer, x)
    found = fit(layer.weight, moments, torch.tensor(kept))
    u = rows_of(layer, x)
    columns = columns_of(kept, 9)
    wanted = u @ layer.weight.flatten(1).T
    got = u[:, columns] @ found.weight.flatten(1)[:, columns].T + found.shift
    measured = float((wanted - got).detach().square().sum() / len(u))
    assert residual_loss(layer.weight, moments, kept) == pytest.approx(measured, rel=1e-13)
    # The formula as printed: tr(W S W^T) - tr(W S_:K S_KK^-1 S_K: W^T).
    w, s = layer.weight.detach().flatten(1), moments.covariance[0]
    to_kept = w @ s[:, columns]
    printed = (w @ s @ w.T).trace() - (
        to_kept @ torch.linalg.solve(s[columns][:, columns], to_kept.T)
    ).trace()
    assert residual_loss(layer.weight, moments, kept) == pytest.approx(float(printed), rel=1e-10)


def test_rows_count_as_they_do_behind_the_norm():
    layer, x = layer_and_input("conv")
    moments = moments_of(layer, x)
    norm = nn.BatchNorm2d(3, eps=0.0).double()
    norm.running_var.copy_(torch.tensor([4.0, 1.0, 0.25]))
    norm.weight.data.copy_(torch.tensor([1.0, -3.0, 2.0]))
    scale = norm_scale(norm)
    assert scale.tolist() == [0.5, 3.0, 4.0]
    doubled = copy.deepcopy(layer)
    with torch.no_grad():
        doubled.weight[1] *= 2
    norm.running_var[1] *= 4
    again = moments_of(doubled, x)
    plain, scaled = residual_loss(layer.weight, moments, [0, 2]), residual_loss(doubled.weight, again, [0, 2])
    assert scaled > plain * 1.01, "the trap: the scale of a filter before its norm moves the loss"
    same = residual_loss(doubled.weight, again, [0, 2], norm_scale(norm))
    assert same == pytest.approx(residual_loss(layer.weight, moments, [0, 2], scale), rel=1e-12)
    assert norm_scale(None) is None
    assert norm_scale(nn.GroupNorm(1, 3)) is None


def test_an_affine_function_of_kept_channels_is_removed_without_error():
    layer, x = layer_and_input("pointwise")
    x[:, 3] = 2 * x[:, 0] - x[:, 1] + 7
    model = nn.Sequential(layer)
    wanted = model(x)
    (done,) = compensate(model, [("0", [0, 1, 2])], batches_of(x))
    x[:, 3] = 0
    got = model(x)
    assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10)
    assert (done.done, done.bias, done.rows) == ("all", "bias", 40 * 36)
    assert done.lost == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("kept", [[0, 2], [1], [0, 1, 3]])
def test_rescaling_restores_the_variance_and_never_makes_the_error_smaller(kept):
    layer, x = layer_and_input("conv")
    moments = moments_of(layer, x)
    plain = fit(layer.weight, moments, torch.tensor(kept))
    scaled = fit(layer.weight, moments, torch.tensor(kept), rescale=True)
    factor = (
        scaled.weight.flatten(1)[:, columns_of(kept, 9)[0]]
        / plain.weight.flatten(1)[:, columns_of(kept, 9)[0]]
    )
    assert bool((factor >= 1).all())
    assert bool((factor > 1.01).any())
    u, columns = rows_of(layer, x), columns_of(kept, 9)
    wanted = u @ layer.weight.flatten(1).T
    got = u[:, columns] @ scaled.weight.flatten(1)[:, columns].T + scaled.shift
    assert torch.allclose(got.var(0), wanted.var(0), rtol=1e-10)
    assert torch.allclose(got.mean(0), wanted.mean(0), rtol=1e-10)
    measured = (wanted - got).square().mean(0)
    assert torch.allclose(scaled.residual, measured, rtol=1e-9)
    assert bool((scaled.residual >= plain.residual).all())


def test_rescaled_weights_and_bias_are_those_of_the_authors_update():
    """W' = (S_KK^-1 S_K: W^T)^T, each row times sqrt(old / new variance), then b' = b + W mu - W' mu_K."""
    layer, x = layer_and_input("conv")
    moments = moments_of(layer, x)
    mu, s, w = moments.mean[0], moments.covariance[0], layer.weight.detach().flatten(1)
    k = columns_of([0, 2], 9)
    new = torch.linalg.inv(s[k][:, k]).matmul(s[k] @ w.T).T
    new = new * (((w @ s) * w).sum(1) / ((new @ s[k][:, k]) * new).sum(1)).sqrt()[:, None]
    found = fit(layer.weight, moments, torch.tensor([0, 2]), rescale=True)
    assert torch.allclose(found.weight.flatten(1)[:, k], new, rtol=1e-9)
    assert torch.allclose(found.shift, w @ mu - new @ mu[k], rtol=1e-9, atol=1e-12)


def test_an_output_that_the_kept_columns_say_nothing_of_is_not_rescaled():
    assert rescale_factor(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 1.0])).tolist() == [1.0, 2.0]


# --- degenerate inputs -------------------------------------------------------------------------------------------


def test_duplicates_among_the_kept_channels_get_the_smallest_of_the_best_fits(caplog):
    layer, x = layer_and_input("pointwise")
    x[:, 1] = x[:, 0]
    moments = moments_of(layer, x)
    found = fit(layer.weight, moments, torch.tensor([0, 1, 2]))
    assert found.singular
    before = layer.weight.detach().flatten(1)
    added = (found.weight.flatten(1) - before)[:, :2]
    assert torch.allclose(added[:, 0], added[:, 1], atol=1e-9), "both take the same share"
    u = rows_of(layer, x)
    assert float(found.residual.sum()) == pytest.approx(loss_of(u, before, [0, 1, 2]), rel=1e-8)
    with caplog.at_level(logging.INFO):
        compensate(nn.Sequential(layer), [("0", [0, 1, 2])], batches_of(x))
    assert "0: kept inputs depend on each other" in caplog.text


def test_a_constant_channel_keeps_its_weights_and_a_removed_one_moves_into_the_bias():
    layer, x = layer_and_input("pointwise")
    x[:, 1], x[:, 3] = 3.0, -2.0
    model = nn.Sequential(layer)
    before, bias, wanted = layer.weight.detach().clone(), layer.bias.detach().clone(), model(x)
    compensate(model, [("0", [0, 1, 2])], batches_of(x))
    assert torch.equal(layer.weight, before), "there was nothing to learn from constants"
    assert torch.allclose(layer.bias, bias - 2.0 * before[:, 3, 0, 0], rtol=1e-12)
    x[:, 3] = 0
    assert torch.allclose(model(x), wanted, rtol=1e-12)


def test_dead_channels_leave_everything_finite():
    layer, x = layer_and_input("conv")
    x[:, 0], x[:, 1] = 0.0, 0.0
    (done,) = compensate(nn.Sequential(layer), [("0", [0, 2])], batches_of(x))
    assert (done.done, done.skipped) == ("all", False)
    assert bool(torch.isfinite(layer.weight).all())


def test_large_means_cost_no_digits():
    layer, x = layer_and_input("pointwise")
    moments, moved = moments_of(layer, x), moments_of(layer, x + 1e6)
    assert torch.allclose(moments.covariance, moved.covariance, rtol=1e-6)


def test_an_input_that_is_not_finite_is_refused_with_its_layer():
    layer, x = layer_and_input("conv")
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(RelevanceError, match="0: its input is not finite"):
        moments_of(layer, x)


# --- the bound on memory -----------------------------------------------------------------------------------------


def test_above_the_limit_positions_are_fitted_on_their_own():
    layer, x = layer_and_input("conv")
    moments = moments_of(layer, x, max_columns=35)
    assert moments.blocks == "position"
    assert moments.covariance.shape == (9, 4, 4)
    found = fit(layer.weight, moments, torch.tensor([0, 2]))
    u = rows_of(layer, x).reshape(-1, 4, 9)
    weight = layer.weight.detach().flatten(2)
    shift = torch.zeros(3, dtype=torch.float64)
    for p in range(9):
        alone, bias, _ = fit_with_intercept(u[:, [0, 2], p], u[:, :, p] @ weight[:, :, p].T)
        assert torch.allclose(found.weight.flatten(2)[:, [0, 2], p], alone, rtol=1e-8)
        shift += bias
    assert torch.allclose(found.shift, shift, rtol=1e-8)
    assert torch.equal(found.weight[:, [1, 3]], layer.weight[:, [1, 3]])


def test_a_layer_too_wide_for_that_keeps_its_mean_only():
    layer, x = layer_and_input("linear")
    model = nn.Sequential(layer)
    before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    (done,) = compensate(model, [("0", [0, 2])], batches_of(x), max_columns=3)
    assert (done.done, done.bias, done.lost) == ("means", "bias", None)
    assert torch.equal(layer.weight, before)
    assert torch.allclose(layer.bias, bias + before[:, [1, 3]] @ x.mean(0)[[1, 3]])


def test_layers_that_do_not_fit_together_take_turns_and_get_the_same():
    model = own_net("vgg_tiny").eval()
    layers = dict.fromkeys(["features.3", "features.7", "features.10"])
    batches = batches_of(images(6, 8), 4)
    together = {m.layer: m for m in input_moments(model, layers, batches)}
    alone = list(input_moments(model, layers, batches, max_numbers=1))
    assert sorted(one.layer for one in alone) == sorted(together) == sorted(layers)
    for one in alone:
        assert torch.equal(one.covariance, together[one.layer].covariance), one.layer


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [([1, 2, 3], 3, [[1, 2], [3]]), ([5, 1], 3, [[5], [1]]), ([], 3, []), ([1, 1, 1], 9, [[1, 1, 1]])],
)
def test_packing_keeps_order_and_limit(sizes, limit, expected):
    assert packed(sizes, lambda n: n, limit) == expected


def test_the_limit_is_what_the_page_says():
    assert MAX_COLUMNS == 256 * 9


# --- models -------------------------------------------------------------------------------------------------------


def plan_for(model, groups, units_per_group=2):
    return groups.plan({g.name: range(min(units_per_group, g.size - 1)) for g in groups.groups})


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_repaired_and_removed_is_repaired_and_gated(name, residual, training):
    model = own_net(name, width=0.25).eval()
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    size = 32 if name == "vgg11_bn" else 8
    x = images(6, size)
    groups = find_groups(model, x, residual=residual)
    plan = plan_for(model, groups)
    consumers = consumers_of(model, plan)
    assert consumers
    done = compensate(model, consumers, batches_of(x, 4))
    assert not any(one.skipped for one in done)
    small = copy.deepcopy(model)
    apply_plan(small, plan)
    model.train(training), small.train(training)
    with gate_channels(model, plan), torch.no_grad():
        wanted = model(x)
    with torch.no_grad():
        got = small(x)
    assert float((wanted - got).abs().max() / wanted.abs().max()) < 1e-12


def test_a_conv_without_bias_gives_its_shift_to_the_norm_exactly():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU()),
    ).double()
    x = images(8, 6)
    net.train()(x)
    net.eval()
    twin = copy.deepcopy(net)
    kept = [0, 2, 3]
    (done,) = compensate(net, [("3", kept)], batches_of(x))
    assert done.bias == "norm"
    # The twin's conv has a bias of its own, set by plain least squares on what it reads.
    maps = twin[:3](x)
    u = rows_of(twin[3], maps).detach()
    columns = columns_of(kept, 9)
    weight, bias, _ = fit_with_intercept(u[:, columns], (u @ twin[3].weight.flatten(1).T).detach())
    fitted = nn.Conv2d(3, 5, 3, padding=1).double()
    with torch.no_grad():
        fitted.weight.copy_(weight.reshape(5, 3, 3, 3))
        fitted.bias.copy_(bias)
    for training in (False, True):
        wanted = twin[4].train(training)(fitted(maps[:, kept]))
        cut = net[4].train(training)(nn.functional.conv2d(maps[:, kept], net[3].weight[:, kept], padding=1))
        assert torch.allclose(cut, wanted, rtol=1e-9, atol=1e-9), f"training={training}"


@pytest.mark.parametrize(
    ("norm", "place"),
    [
        (nn.BatchNorm2d(5, track_running_stats=False), "cancelled"),
        (nn.GroupNorm(1, 5), "none"),
        (nn.Identity(), "none"),
    ],
)
def test_where_a_bias_has_no_place_the_fit_has_no_intercept(norm, place):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), norm).double()
    _, x = layer_and_input("pointwise")
    before = net[0].weight.detach().clone()
    (done,) = compensate(net, [("0", [0, 2])], batches_of(x))
    assert done.bias == place
    u = rows_of(net[0], x)
    y = u @ before.flatten(1).T
    if place == "none":
        expected = torch.linalg.lstsq(u[:, [0, 2]], y).solution.T
    else:
        expected, _, _ = fit_with_intercept(u[:, [0, 2]], y)
    assert torch.allclose(net[0].weight.detach()[:, [0, 2], 0, 0], expected, rtol=1e-9)


class BesideTheNorm(nn.Module):
    """A conv whose raw output passes a norm and is added beside it."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.beside = beside

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + (torch.cat([y[:, :2], y[:, 2:]], 1) if self.beside else y.shape[1])


@pytest.mark.parametrize(("beside", "place"), [(False, "norm"), (True, "none")])
def test_a_norm_takes_the_bias_only_if_nothing_else_reads_the_output(beside, place):
    torch.manual_seed(0)
    net = BesideTheNorm(beside).double().eval()
    _, x = layer_and_input("pointwise")
    x[:, 3] = 2 * x[:, 0] - x[:, 1] + 7
    wanted = net(x).detach()
    (done,) = compensate(net, [("conv", [0, 1, 2])], batches_of(x))
    assert done.bias == place
    x[:, 3] = 0
    off = float((net(x) - wanted).detach().abs().max())
    assert (off < 1e-9) == (not beside), "without a place for the constant the fit cannot be exact"
    assert off < 0.5 * float(wanted.abs().max())


def test_depthwise_and_grouped_convolutions_are_skipped_and_named():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 1)
    ).double()
    before = copy.deepcopy(net.state_dict())
    _, x = layer_and_input("pointwise")
    done = compensate(net, [("0", [0]), ("1", [1]), ("2", list(range(6)))], batches_of(x))
    assert [(one.layer, one.done) for one in done] == [
        ("0", "a depthwise convolution has no columns that all filters read"),
        ("1", "a grouped convolution has no columns that all filters read"),
        ("2", "it keeps every column"),
    ]
    assert all(one.skipped for one in done)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_block_and_its_shortcut_get_a_fit_each():
    model = own_net("resnet20", width=0.25).eval()
    x = images(4, 8)
    groups = find_groups(model, x)
    name = next(g.name for g in groups.groups if any(m.layer == "conv1" for m in g.members))
    plan = groups.plan({name: [0]})
    layers = [layer for layer, _ in consumers_of(model, plan)]
    assert {"layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0"} <= set(layers)
    done = compensate(model, consumers_of(model, plan), batches_of(x))
    assert [one.layer for one in done] == layers
    assert not any(one.skipped for one in done)


def test_compensation_lowers_the_error_of_a_cut_net():
    model = own_net("vgg_tiny", width=0.5).eval()
    x = images(24, 16)
    groups = find_groups(model, x)
    plan = groups.plan({groups.groups[3].name: range(30)})
    repaired, cut = copy.deepcopy(model), copy.deepcopy(model)
    compensate(repaired, consumers_of(repaired, plan), batches_of(x))
    apply_plan(repaired, plan)
    apply_plan(cut, plan)
    with torch.no_grad():
        errors = [float((net(x) - model(x)).square().mean()) for net in (repaired, cut)]
    assert errors[0] < 0.2 * errors[1]


def test_only_the_given_layers_change_and_nothing_else_of_the_model():
    model = build_model("vgg_tiny", 4, width=0.25).double().train()
    x = images(4, 8)
    before = fingerprint(model)
    compensate(model, [("features.3", [0, 1, 2, 3, 4])], batches_of(x))
    after = fingerprint(model)
    assert differences(before, after) == ["state"]
    changed = [n for n, t in before["state"].items() if not torch.equal(t, after["state"][n])]
    assert changed == ["features.3.weight", "features.4.running_mean"]


@pytest.mark.parametrize(
    ("consumers", "message"),
    [
        ([("features.33", [0])], r"features.33: no conv or linear layer of this name \(did you mean"),
        ([("features.3", [])], "features.3: kept input columns must be distinct, at least one, and in 0..7"),
        (
            [("features.3", [8])],
            r"features.3: kept input columns must be distinct, at least one, and in 0..7",
        ),
        ([("features.3", [1, 1])], r"features.3: kept input columns must be distinct"),
    ],
)
def test_columns_that_do_not_fit_are_refused_and_nothing_is_written(consumers, message):
    model = build_model("vgg_tiny", 4, width=0.25)
    before = fingerprint(model)
    with pytest.raises(PlanError, match=message):
        compensate(model, [("features.7", [0, 1]), *consumers], batches_of(images(4, 8).float()))
    assert differences(before, fingerprint(model)) == []


def test_the_repair_keeps_the_contract():
    check_repair(least_squares)
    check_repair(lambda: least_squares(sampling_stride=1, rescale=True, max_columns=20))


def test_too_few_images_are_logged(caplog):
    layer, x = layer_and_input("conv")
    compensate(nn.Sequential(layer), [("0", [0, 2])], [(x[:1, :, :4, :4], None)])
    assert "0: 16 rows for 36 columns; more images or a smaller sampling stride would help" in caplog.text
    assert bool(torch.isfinite(layer.weight).all())


def test_as_a_repair_it_patches_what_a_plan_leaves():
    model = own_net("resnet20").eval()
    x = images(6, 8)
    groups = find_groups(model, x)
    plan, twin = plan_for(model, groups), copy.deepcopy(model)
    repair = least_squares(sampling_stride=1, rescale=True)
    repair.patch(model, groups, plan, batches_of(x), torch.Generator())
    compensate(twin, consumers_of(twin, plan), batches_of(x), rescale=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))
    assert (repair.forwards, least_squares().forwards) == (10, 1 + 9 / 4)
    repair.patch(model, groups, groups.plan({}), [], torch.Generator())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_stride": 0}, "prune.repair_options.sampling_stride: 0 is not a whole number >= 1"),
        ({"max_columns": 2.5}, "prune.repair_options.max_columns: 2.5 is not a whole number >= 1"),
        ({"rescale": "yes"}, "prune.repair_options.rescale: 'yes' is neither true nor false"),
    ],
)
def test_bad_options_of_the_repair_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        least_squares(**options)


def test_compensation_without_images_is_refused():
    model = build_model("vgg_tiny", 4, width=0.25)
    with pytest.raises(RelevanceError, match="batches: there are no images to score"):
        compensate(model, [("features.3", [0])], [])
