"""Batch whitening by its printed formulas: closed forms, a Monte Carlo, a gradient, and what must stay finite."""

import math

import pytest
import torch
from torch import nn

from gcp_core.rewrites import build_rewrite
from gcp_core.rewrites.places import Place
from gcp_core.rewrites.whitened import Settings, Whitened
from gcp_core.rewrites.whitening import (
    active_probability,
    inverse_root,
    log_odds,
    normalised,
    relaxed,
    shrunk,
    white,
)

F64 = torch.float64


def channels(count, seed=0):
    """Scales, shifts, and the correlation of a thousand samples of dependent channels."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(count, count, generator=rng, dtype=F64)
    samples = mixing @ torch.randn(count, 1000, generator=rng, dtype=F64)
    gamma, beta = torch.randn(2, count, generator=rng, dtype=F64)
    return gamma, beta, torch.corrcoef(samples)


def whitened(count, *, group=16, steps=5, seed=0, scale=None, **settings):
    norm = nn.BatchNorm2d(count, eps=1e-12).double()
    rng = torch.Generator().manual_seed(seed)
    gate = Whitened(Place("conv", "norm", 16), norm, Settings(steps=steps, group=group, **settings))
    with torch.no_grad():
        norm.weight.copy_(torch.randn(count, generator=rng) if scale is None else scale)
        norm.bias.copy_(torch.randn(count, generator=rng))
    return gate


# --- formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_sn_has_trace_one(count):
    gamma, _, rho = channels(count)
    rho = torch.ones(1, 1, dtype=F64) if count == 1 else rho
    assert float(shrunk(gamma, rho).trace()) == pytest.approx(1, abs=1e-14)
    covariance = gamma[:, None] * gamma * rho
    assert float(normalised(covariance, torch.eye(count, dtype=F64), 1e-3).trace()) == pytest.approx(
        1, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_one_step_gives_the_printed_equivalent_norm(seed):
    """gamma^_c = (3 - sum_d gamma_d^2 rho_dc / |gamma|^2) gamma_c / 2
    beta^_c = (3 beta_c - (sum_d beta_d gamma_d rho_dc / |gamma|^2) gamma_c) / 2"""
    gamma, beta, rho = channels(6, seed)
    root = inverse_root(shrunk(gamma, rho), torch.eye(6, dtype=F64), 1)
    size = gamma.square().sum()
    scale = [(3 - sum(gamma[d] ** 2 * rho[d, c] for d in range(6)) / size) * gamma[c] / 2 for c in range(6)]
    shift = [
        (3 * beta[c] - sum(beta[d] * gamma[d] * rho[d, c] for d in range(6)) / size * gamma[c]) / 2
        for c in range(6)
    ]
    assert torch.allclose(root @ gamma, torch.stack(scale), rtol=0, atol=1e-14)
    assert torch.allclose(root @ beta, torch.stack(shift), rtol=0, atol=1e-14)


def test_the_iteration_reaches_the_inverse_root_where_channels_are_nearly_independent():
    gamma, _, _ = channels(6)
    sn = shrunk(torch.ones_like(gamma), torch.eye(6, dtype=F64) + 0.1)
    sn = sn / sn.trace()
    root = inverse_root(sn, torch.eye(6, dtype=F64), 10)
    assert torch.allclose(root @ sn @ root, torch.eye(6, dtype=F64), atol=1e-12)


def test_many_steps_blow_up_where_scales_have_died_and_the_few_that_are_allowed_do_not():
    """Why there are few steps: rounding, where the smallest eigenvalue is nearly 0."""
    sn = shrunk(
        torch.cat([torch.ones(4, dtype=F64), torch.full((12,), 1e-12, dtype=F64)]), torch.eye(16, dtype=F64)
    )
    mixed = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=F64))[0]
    sn, eye = mixed @ sn @ mixed.T, torch.eye(16, dtype=F64)
    assert not bool(torch.isfinite(inverse_root(sn, eye, 120)).all())
    for steps in range(1, 11):
        assert float(inverse_root(sn, eye, steps).abs().max()) <= 1.5**steps


def test_uncorrelated_channels_are_multiplied_by_one_number():
    for size in (1, 3, 16):
        eye = torch.eye(size, dtype=F64)
        assert torch.allclose(inverse_root(eye / size, eye, 5), white(size, 5) * eye, atol=1e-14)
    assert white(16, 60) == pytest.approx(4)


def test_p_is_the_share_of_normal_values_above_delta():
    rng = torch.Generator().manual_seed(0)
    shift, scale = (
        torch.tensor([0.0, 0.3, -0.4, 0.05], dtype=F64),
        torch.tensor([1.0, -0.5, 0.7, 0.2], dtype=F64),
    )
    drawn = shift + scale.abs() * torch.randn(200_000, 4, generator=rng, dtype=F64)
    seen = (drawn > 0.05).double().mean(0)
    pairs = zip(shift.tolist(), scale.tolist(), strict=True)
    expected = torch.tensor([0.5 * (1 + math.erf((b - 0.05) / (math.sqrt(2) * abs(g)))) for b, g in pairs])
    found = active_probability(shift, scale, 0.05)
    assert torch.allclose(found, expected.double(), atol=1e-7)
    # Five standard errors.
    assert bool(((seen - found).abs() <= 5 * (found * (1 - found) / 200_000).sqrt()).all())
    assert torch.allclose(torch.sigmoid(log_odds(shift, scale, 0.05)), found, atol=1e-14)


def test_the_gradient_of_a_mask_is_the_printed_one():
    """dm/dP = m (1 - m) / (tau P (1 - P)), and P's own slopes are the normal density's."""
    shift = torch.tensor([0.2, -0.1, 0.5], dtype=F64, requires_grad=True)
    scale = torch.tensor([0.8, 0.3, -0.6], dtype=F64, requires_grad=True)
    uniform = torch.tensor([0.3, 0.5, 0.9], dtype=F64)
    mask = relaxed(log_odds(shift, scale, 0.05), uniform, 0.5)
    mask.sum().backward()
    p = active_probability(shift, scale, 0.05).detach()
    m, b, g = mask.detach(), shift.detach(), scale.detach()
    slope = m * (1 - m) / (0.5 * p * (1 - p))
    density = torch.exp(-((b - 0.05) ** 2) / (2 * g**2)) / (math.sqrt(2 * math.pi) * g.abs())
    assert torch.allclose(shift.grad, slope * density, atol=1e-12)
    assert torch.allclose(scale.grad, -slope * density * (b - 0.05) / g, atol=1e-12)


def test_masks_are_relaxed_bernoulli():
    """Above 1/2 as often as P says; the colder, the closer to 0 and 1."""
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(1), dtype=F64)
    odds = torch.logit(torch.tensor(0.3, dtype=F64))
    mask = relaxed(odds, uniform, 0.5)
    assert float((mask > 0.5).double().mean()) == pytest.approx(0.3, abs=0.01)
    cold = relaxed(odds, uniform, 0.01)
    assert float((cold - cold.round()).abs().mean()) < 0.01 < float((mask - mask.round()).abs().mean())


# --- the module ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "group"), [(6, 16), (20, 16), (21, 4), (5, 1)])
def test_a_training_batch_is_whitened_group_by_group_as_the_formulas_say(count, group):
    """In each group: root of SN of gamma and the batch's correlation, times the affine values, times the mask."""
    gate = whitened(count, group=group, eps=1e-12)
    x = torch.randn(8, count, 3, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    x = x + 0.7 * x.roll(1, 1)
    gate.train()
    torch.manual_seed(4)
    uniform = torch.rand(count).double().clamp(1e-6, 1 - 1e-6)
    torch.manual_seed(4)
    out = gate(x).detach()
    gamma, beta = gate.norm.weight.detach(), gate.norm.bias.detach()
    rows = x.transpose(0, 1).reshape(count, -1)
    bar = (rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)
    number = math.ceil(count / group)
    for own in torch.arange(count).tensor_split(number):
        rho = bar[own] @ bar[own].T / bar.shape[1]
        root = inverse_root(shrunk(gamma[own], rho), torch.eye(len(own), dtype=F64), 5)
        mask = relaxed(log_odds(root @ beta[own], root @ gamma[own], 0.05), uniform[own], 0.5)
        expected = mask[:, None] * (root @ (gamma[own, None] * bar[own] + beta[own, None]))
        found = out.transpose(0, 1).reshape(count, -1)[own]
        assert torch.allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("count", "sizes"), [(16, [16]), (20, [10, 10]), (33, [11, 11, 11]), (50, [13, 13, 12, 12])]
)
def test_groups_are_as_few_as_are_needed_and_as_equal_as_they_can_be(count, sizes):
    assert whitened(count).valid.sum(1).tolist() == sizes


def test_fresh_gates_compute_what_the_plain_norm_does_but_for_the_mask():
    norm = nn.BatchNorm2d(20).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2), norm.bias.uniform_(1, 2)
    x = torch.randn(4, 20, 5, 5, dtype=F64)
    plain = norm.eval()(x)
    gate = Whitened(Place("conv", "norm", 25), norm, Settings(mask="rounded")).eval()
    assert bool(gate.mask().all())
    assert torch.allclose(gate(x), plain, atol=1e-12)


def test_in_use_a_channel_has_the_weight_that_it_had_on_average_in_training():
    """P itself, within a few hundredths of the mean of its relaxed masks, and exactly where P is 1/2."""
    odds = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0], dtype=F64)
    gate = whitened(5, scale=torch.ones(5), mask="mean").eval()
    shift = torch.special.ndtri(torch.sigmoid(odds)) + 0.05
    with torch.no_grad():
        gate.norm.weight.fill_(1.0), gate.norm.bias.copy_(shift)
        gate.whitener.copy_(torch.eye(5, dtype=F64)[None])
    noise = torch.rand(20_000, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    mean = relaxed(odds, noise, 0.5).mean(0)
    assert torch.allclose(gate.mask(), torch.sigmoid(odds), atol=1e-12)
    assert torch.allclose(gate.mask(), mean, atol=0.05)
    x = torch.randn(2, 5, 3, 3, dtype=F64)
    assert torch.allclose(gate(x), gate.norm(x) * gate.mask()[:, None, None])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "case", ["constant batch", "equal channels", "dead scales", "one living scale", "one position", "huge"]
)
def test_degenerate_statistics_stay_finite(case, dtype):
    count = 20
    rng = torch.Generator().manual_seed(0)
    gate = whitened(count).to(dtype).train()
    x = torch.randn(6, count, 2, 2, generator=rng)
    with torch.no_grad():
        if case == "constant batch":
            x = torch.ones(6, count, 2, 2)
        elif case == "equal channels":
            x = x[:, :1].expand(-1, count, -1, -1)
        elif case == "dead scales":
            gate.norm.weight.zero_(), gate.norm.bias.zero_()
        elif case == "one living scale":
            gate.norm.weight.fill_(1e-20)[3] = 1
        elif case == "one position":
            x = x[:2, :, :1, :1]
        else:
            gate.norm.weight.mul_(1e6)
    x = x.to(dtype).requires_grad_()
    torch.manual_seed(0)
    for _ in range(3):
        gate(x).square().sum().backward()
    learned = [gate.whitener, gate.spread, gate.chance()]
    found = [x.grad, gate.norm.weight.grad, gate.norm.bias.grad, *learned, gate.eval()(x)]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found)


def test_a_layer_whose_channels_are_all_unlikely_keeps_the_likeliest_open():
    gate = whitened(4, scale=torch.ones(4), mask="rounded").eval()
    with torch.no_grad():
        gate.norm.bias.copy_(torch.tensor([-3.0, -1.0, -2.0, -4.0]))
    assert gate.mask().tolist() == [False, True, False, False]


def test_the_noise_is_that_of_the_seed():
    gate, x = whitened(8).train(), torch.randn(4, 8, 3, 3, dtype=F64)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(gate(x))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 17}, "train.rewrite_options.group: 17 is more than 16"),
        ({"group": 0}, "train.rewrite_options.group: 0 is not a whole number >= 1"),
        ({"steps": 16}, "train.rewrite_options.steps: 16 is more than 10"),
        ({"tau": 0}, "train.rewrite_options.tau: 0 is not a number in (0.0, inf)"),
        ({"eps": 0}, "train.rewrite_options.eps: 0 is not"),
        ({"momentum": 1.5}, "train.rewrite_options.momentum: 1.5 is not"),
        ({"mask": "hard"}, "train.rewrite_options.mask: 'hard' is unknown (allowed: mean, rounded)"),
        ({"dleta": 0.1}, 'train.rewrite_options.dleta: unknown option (value 0.1) (did you mean "delta"?'),
    ],
)
def test_options_out_of_range_are_refused_with_their_path(options, message):
    from gcp_core.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        build_rewrite("batch_whitening", options)
    assert message in str(caught.value)
