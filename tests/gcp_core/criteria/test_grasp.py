"""GraSP-channel against finite differences, and the identities that it rests on."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gcp_core.criteria.consumers.grasp import flow, grasp
from gcp_core.criteria.consumers.readers import readers
from gcp_core.errors import ConfigError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.testing import check_criterion, criterion_case, differences, fingerprint
from tests.oracles.nets import images, own_net

T = 3.0


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def set_mode(model: nn.Module, norms: str) -> None:
    model.eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.train(norms == "batch")


def gradient(model: nn.Module, batches) -> list[torch.Tensor]:
    """Gradient of the mean loss of an image."""
    total = None
    count = 0
    for x, y in batches:
        loss = F.cross_entropy(model(x) / T, y, reduction="sum")
        grads = torch.autograd.grad(loss, weights_of(model))
        total = list(grads) if total is None else [a + b for a, b in zip(total, grads)]
        count += len(x)
    return [t / count for t in total]


def half_square(grads: list[torch.Tensor]) -> float:
    return float(sum(g.square().sum() for g in grads)) / 2


def gated_flow(model: nn.Module, batches, consumers, unit: int, a: float) -> float:
    """``||g||^2 / 2`` with unit ``unit`` multiplied by ``a`` at the input of everything that reads it."""
    handles = []
    for reader in consumers:
        scale = torch.where(torch.as_tensor(reader.units == unit), a, 1.0).double()

        def multiply(module, args, scale=scale):
            x = args[0]
            return (x * (scale if x.ndim == 2 else scale[:, None, None]),)

        handles.append(model.get_submodule(reader.layer).register_forward_pre_hook(multiply))
    try:
        return half_square(gradient(model, batches))
    finally:
        for handle in handles:
            handle.remove()


def small_residual():
    model = own_net("resnet20").double()
    return model, find_groups(model, images(size=8)), [(images(6, 8), torch.arange(6) % 4)]


@pytest.mark.parametrize("norms", ["batch", "running"])
def test_hg_is_the_change_of_the_gradient_along_itself(norms):
    case = criterion_case()
    found = flow(case.model, case.batches, norms=norms, temperature=T)
    set_mode(case.model, norms)
    weights, g = weights_of(case.model), gradient(case.model, case.batches)
    for (name, (_, ours, _)), expected in zip(found.items(), g):
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-14), name
    step = 1e-4
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, d in zip(weights, g):
                w += sign * step * d
        sides.append(gradient(case.model, case.batches))
        with torch.no_grad():
            for w, d in zip(weights, g):
                w -= sign * step * d
    for (name, (_, _, hg)), up, down in zip(found.items(), *sides):
        assert torch.allclose(hg, (up - down) / (2 * step), rtol=1e-4, atol=1e-9), name


@pytest.mark.parametrize("norms", ["batch", "running"])
@pytest.mark.parametrize("net", ["plain", "residual"])
def test_the_gate_variant_is_the_derivative_by_a_gate(net, norms):
    if net == "plain":
        case = criterion_case()
        model, groups, batches = case.model, case.groups, case.batches
    else:
        model, groups, batches = small_residual()
    scores = grasp("gate", norms, T).score(model, groups, batches, torch.Generator())
    consumers = readers(model, groups)
    set_mode(model, norms)
    step = 1e-7  # small enough to cross no kink of a ReLU
    found, expected = [], []
    for group in groups.groups[:3]:
        layer = next(m.layer for m in group.members if m.scored)
        for unit in range(0, group.size, 2):
            number = group.first_unit + unit
            up = gated_flow(model, batches, consumers, number, 1 + step)
            down = gated_flow(model, batches, consumers, number, 1 - step)
            expected.append((up - down) / (2 * step))
            found.append(float(scores[layer][group.first_channels()[unit]]))
    scale = torch.tensor(expected).abs().sum() / torch.tensor(found).abs().sum()
    # The score is d(||g||^2 / 2) / da = -S, divided by one number for the whole network.
    assert found == pytest.approx([e / float(scale) for e in expected], rel=1e-4, abs=1e-8)


def test_the_slice_variant_leaves_out_the_gradients_own_size():
    case = criterion_case()
    products = flow(case.model, case.batches)
    for variant in ("gate", "slice"):
        theta, g, hg = products["4.weight"]
        term = theta * hg + (g.square() if variant == "gate" else 0)
        expected = term.sum((0, 2, 3))
        scores = case.scores(grasp(variant))["0"]
        assert torch.allclose(scores / scores[0], expected / expected[0], rtol=1e-9), variant


def test_of_single_weights_it_is_the_papers_score():
    """Logits / 200, g summed over two halves of a batch, z = sum <g, g_half>, score = -theta * dz / dtheta."""
    case = criterion_case()
    (x, y), _ = case.batches
    halves = [(x[:3], y[:3]), (x[3:6], y[3:6])]
    set_mode(case.model, "batch")
    weights = weights_of(case.model)

    def half_gradient(images, labels):
        loss = F.cross_entropy(case.model(images) / 200, labels)
        return torch.autograd.grad(loss, weights, create_graph=True)

    g = [sum(parts).detach() for parts in zip(*(half_gradient(*half) for half in halves))]
    z = sum((a * b).sum() for half in halves for a, b in zip(half_gradient(*half), g))
    published = [-w.detach() * h for w, h in zip(weights, torch.autograd.grad(z, weights))]
    for (name, (theta, _, hg)), score in zip(flow(case.model, halves).items(), published):
        # Ours are means over images: g is half of theirs, and so is H.
        assert torch.allclose(-theta * hg, score / 4, rtol=1e-9, atol=1e-20), name


def test_summed_over_a_filter_before_a_norm_the_score_is_its_squared_gradient():
    """The trap: with batch statistics, sum_f(-theta * Hg) = +||g_f||^2, so the filters that learn most would go."""
    case = criterion_case()
    for name in ("0.weight", "4.weight"):
        theta, g, hg = flow(case.model, case.batches)[name]
        trap = -(theta * hg).sum((1, 2, 3))
        assert torch.allclose(trap, g.square().sum((1, 2, 3)), rtol=1e-6), name
        assert bool(((theta * g).sum((1, 2, 3)).abs() < 1e-9 * g.abs().amax()).all())
        theta, g, hg = flow(case.model, case.batches, norms="running")[name]
        assert not torch.allclose(-(theta * hg).sum((1, 2, 3)), g.square().sum((1, 2, 3)), rtol=1e-2)


def test_of_a_quadratic_loss_a_score_tells_what_the_gradients_norm_becomes(monkeypatch):
    """L = theta^T A theta / 2: zeroing theta_q changes ||g||^2 by 2 s_q + theta_q^2 (A^2)_qq, s = -theta * Hg."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False).double()
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.zeros(8)

    def half_squares(model, images, labels, temperature):
        return model(images).square().sum() / 2

    monkeypatch.setattr("gcp_core.criteria.consumers.grasp._loss", half_squares)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    ((theta, g, hg),) = [
        [part[0] for part in found] for found in flow(model, batches, norms="running").values()
    ]
    a = x.T @ x / len(x)  # the mean over the images
    assert torch.allclose(g, a @ theta, rtol=1e-10)
    score = -theta * hg
    for q in range(6):
        without = theta.clone()
        without[q] = 0
        change = float((a @ without).square().sum() - g.square().sum())
        assert change == pytest.approx(float(2 * score[q] + theta[q] ** 2 * (a @ a)[q, q]), rel=1e-9)


@pytest.mark.parametrize("norms", ["batch", "running"])
def test_the_model_is_left_exactly_as_found(norms):
    case = criterion_case()
    case.model[4].weight.requires_grad_(False)
    before = fingerprint(case.model)
    scores = case.scores(grasp(norms=norms))
    assert differences(before, fingerprint(case.model)) == []
    case.model[4].weight.requires_grad_(True)
    again = case.scores(grasp(norms=norms))
    assert all(torch.equal(scores[layer], again[layer]) for layer in scores), "frozen weights take part"


def test_a_batch_of_one_image_is_left_out_where_norms_need_two():
    case = criterion_case()
    (x, y), rest = case.batches[0], case.batches[1]
    whole = grasp().score(case.model, case.groups, [(x, y), (rest[0][:1], rest[1][:1])], torch.Generator())
    expected = grasp().score(case.model, case.groups, [(x, y)], torch.Generator())
    assert all(torch.equal(whole[layer], expected[layer]) for layer in whole)
    with pytest.raises(RelevanceError, match="batches: no batch has two images, which batch norms need"):
        grasp().score(case.model, case.groups, [(x[:1], y[:1])], torch.Generator())


def test_units_that_nothing_reads_by_columns_get_the_mean():
    model, _, batches = small_residual()
    groups = find_groups(copy.deepcopy(model), images(size=8), residual="scatter")
    scores = grasp().score(model, groups, batches, torch.Generator())
    assert len(set(scores["layer1.0.conv2"].tolist())) == 1
    assert len(set(scores["layer1.0.conv1"].tolist())) == 4


@pytest.mark.parametrize("variant", ["gate", "slice"])
@pytest.mark.parametrize("norms", ["batch", "running"])
def test_the_criterion_keeps_the_contract(variant, norms):
    # Doubling a filter before its norm halves its gradient, so Hg moves: the gate is not invariant.
    check_criterion(lambda: grasp(variant, norms), scale_invariant=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "gates"}, r"prune.options.variant: 'gates' is unknown \(did you mean \"gate\""),
        ({"norms": "train"}, r"prune.options.norms: 'train' is unknown \(allowed: batch, running\)"),
        ({"temperature": 0}, r"prune.options.temperature: 0 is not a number in \(0, 1e6\)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        grasp(**options)
