"""Compensation says what plain least squares says, layer by layer."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from gcp_core.criteria.consumers.statistics import MAX_COLUMNS, input_moments, norm_scale, packed, unfolded
from gcp_core.errors import RelevanceError
from gcp_core.repairs.least_squares import (
    compensate,
    fit,
    rescale_factor,
)
from tests.gcp_core.repairs.layers import LAYERS, batches_of, columns_of, layer_and_input
from tests.oracles.columns import fit_with_intercept, loss_of, rows_of
from tests.oracles.nets import images, own_net


def moments_of(layer: nn.Module, x: torch.Tensor, **options):
    (found,) = input_moments(nn.Sequential(layer), {"0": None}, batches_of(x), **options)
    return found


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
    assert float(found.residual.sum()) == pytest.approx(measured, rel=1e-13)
    # The formula as printed: tr(W S W^T) - tr(W S_:K S_KK^-1 S_K: W^T).
    w, s = layer.weight.detach().flatten(1), moments.covariance[0]
    to_kept = w @ s[:, columns]
    printed = (w @ s @ w.T).trace() - (
        to_kept @ torch.linalg.solve(s[columns][:, columns], to_kept.T)
    ).trace()
    assert float(found.residual.sum()) == pytest.approx(float(printed), rel=1e-10)


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
    kept = torch.tensor([0, 2])
    plain, scaled = fit(layer.weight, moments, kept).residual, fit(doubled.weight, again, kept).residual
    assert scaled.sum() > plain.sum() * 1.01, "the trap: the scale of a filter before its norm moves the loss"
    assert torch.allclose(scaled * norm_scale(norm).square(), plain * scale.square(), rtol=1e-12)
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
