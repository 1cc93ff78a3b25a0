"""Consensus gates: the two terms, the straight-through gradient, and what is kept of a gate after a cut."""

import pytest
import torch
from torch import nn

from gcp_core.errors import ConfigError
from gcp_core.penalties import build_penalty
from gcp_core.penalties.consensus import activation, polarisation
from gcp_core.rewrites import build_rewrite, gates_of
from gcp_core.rewrites.consensus import Consensus, rounded
from gcp_core.rewrites.places import Place

F64 = torch.float64


def test_polarisation_is_zero_where_all_samples_agree_and_largest_at_half():
    assert float(polarisation(torch.tensor([0.0, 1.0, 1.0, 0.0]))) == 0
    assert float(polarisation(torch.full((3,), 0.5))) == 0.25
    shares = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert 0 < float(polarisation(shares)) < 0.25


def test_a_step_down_its_gradient_takes_shares_away_from_half():
    shares = torch.tensor([0.1, 0.4, 0.5, 0.6, 0.9], dtype=F64, requires_grad=True)
    polarisation(shares).backward()
    assert torch.allclose(shares.grad, (1 - 2 * shares.detach()) / 5)
    assert torch.equal(torch.sign(-shares.grad), torch.sign(shares.detach() - 0.5))


def test_activation_is_the_mean_or_the_square_of_its_distance_from_a_target():
    shares = torch.tensor([0.2, 0.6])
    assert float(activation(shares, None)) == pytest.approx(0.4)
    assert float(activation(shares, 0.3)) == pytest.approx(0.01)


def test_what_is_rounded_has_the_gradient_of_what_was_not():
    logits = torch.tensor([[-2.0, -0.1, 0.1, 3.0]], dtype=F64, requires_grad=True)
    share = torch.sigmoid(logits)
    gates = rounded(share)
    assert gates.tolist() == [[0, 0, 1, 1]]
    gates.backward(torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=F64))
    slope = (share * (1 - share)).detach()
    assert torch.allclose(logits.grad, torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=F64) * slope)


def gate(count=5, **values):
    norm = nn.BatchNorm2d(count).double()
    made = Consensus(Place("conv", "norm", 4), norm, 0.1)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.bias.copy_(torch.randn(count, generator=rng))
        made.weight.copy_(torch.randn(count, count, generator=rng))
    return made


def test_a_layer_that_would_close_for_a_sample_keeps_its_most_open_channel():
    """Else nothing would reach the network any more, and no gradient would lead back."""
    shares = torch.tensor([[0.1, 0.4, 0.3], [0.2, 0.7, 0.6], [0.5, 0.5, 0.5]], dtype=F64)
    assert rounded(shares).tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_each_sample_has_its_own_gates_in_training_and_none_has_in_eval_mode():
    made, x = gate(), torch.randn(64, 5, 2, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    out = made.train()(x)
    with torch.no_grad():
        normed = nn.functional.batch_norm(x, None, None, made.norm.weight, made.norm.bias, training=True)
        logits = normed.mean((2, 3)) @ made.weight.T + made.bias
    passes = logits > 0
    assert bool(passes.any(1).all()), "no sample closes the layer"
    assert torch.allclose(out, normed * passes[:, :, None, None])
    assert torch.allclose(made.shares, passes.double().mean(0))
    assert torch.allclose(made.open, 0.9 + 0.1 * passes.double().mean(0))
    made.open.copy_(torch.tensor([0.9, 0.2, 0.5, 0.51, 0.0]))
    shut = made.eval()(x)
    assert made.mask().tolist() == [True, False, False, True, False]
    assert bool((shut[:, [1, 2, 4]] == 0).all())
    assert bool((shut[:, [0, 3]] != 0).any())


def test_after_a_cut_the_logits_of_what_is_left_are_on_average_what_they_were():
    """A removed map's mean over a training batch is its norm's shift."""
    made, x = gate(), torch.randn(64, 5, 2, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    before = (made.norm(x).mean((0, 2, 3)) @ made.weight.T + made.bias).detach()
    kept, gone = torch.tensor([0, 2, 3]), torch.tensor([1, 4])
    small = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        made.fold_into(nn.Identity())
        small.weight.copy_(made.norm.weight[kept]), small.bias.copy_(made.norm.bias[kept])
        left = made.after(small, kept, gone)
    after = (small(x[:, kept]).mean((0, 2, 3)) @ left.weight.T + left.bias).detach()
    assert torch.allclose(after, before[kept], atol=1e-12)
    assert torch.equal(left.open, made.open[kept])


def test_the_penalty_is_of_the_last_batch_and_reaches_the_gates():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).double()
    images = torch.randn(16, 3, 8, 8, dtype=F64)
    rewrite = build_rewrite("consensus_gates")
    rewrite.install(model, images[:1])
    (only,) = gates_of(model)
    with torch.no_grad():
        only.weight.normal_()
    penalty = build_penalty("consensus", {"polarise": 2.0, "activate": 3.0, "target": 0.25})
    outputs = model.train()(images)
    shares = only.shares.detach()
    term = penalty.term(model, images, torch.zeros(16), outputs)
    expected = 2 * (shares * (1 - shares)).mean() + 3 * (shares.mean() - 0.25) ** 2
    assert float(term.detach()) == pytest.approx(float(expected))
    term.backward()
    assert bool((only.weight.grad != 0).any())
    model.eval()(images)
    assert float(penalty.term(model, images, None, outputs)) == 0, "in eval mode nobody has decided"


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (build_rewrite, {"momentum": 0}, "train.rewrite_options.momentum: 0 is not"),
        (build_rewrite, {"lr": -1}, "train.rewrite_options.lr: -1 is not"),
        (build_penalty, {"target": 1.5}, "train.penalty_options.target: 1.5 is not"),
        (build_penalty, {"polarise": -1}, "train.penalty_options.polarise: -1 is not"),
    ],
)
def test_options_out_of_range_are_refused_with_their_path(build, options, message):
    name = "consensus_gates" if build is build_rewrite else "consensus"
    with pytest.raises(ConfigError) as caught:
        build(name, options)
    assert message in str(caught.value)
