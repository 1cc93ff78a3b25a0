"""The fast pass against slow definitions that write every contribution out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gcp_core.models import build_model
from gcp_core.models.resnet import BasicBlock, CifarResNet
from gcp_core.relevance import channel_relevance
from gcp_core.relevance.linear_maps import DenseMap, SplitWeight
from gcp_core.relevance.rules import LinearRule, LinearSite
from gcp_core.relevance.stabiliser import EPSILON, stabiliser_by_name
from tests.oracles.relevance_slow import resnet_relevance, sequential_relevance


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Float64 with batch norm statistics and shifts that a trained network could have (some scales negative)."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean.copy_(0.2 * torch.randn(size, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(size, generator=generator))
            module.weight.data.copy_(0.4 + torch.randn(size, generator=generator))
            module.bias.data.copy_(0.3 * torch.randn(size, generator=generator))
        elif isinstance(module, nn.Linear):
            module.weight.data.normal_(0, 0.3, generator=generator)
        elif isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
    return model.double().eval()


CONV = {"kernel_size": 3, "padding": 1}

#: Name -> (side of the image, what stands before flatten -> linear(12, 6) -> ReLU -> dropout -> linear(6, 3)).
CHAINS: dict[str, tuple[int, Callable[[], list[nn.Module]]]] = {
    "max pool": (
        6,
        lambda: [nn.Conv2d(2, 3, **CONV), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(3)],
    ),
    "overlapping max pool": (7, lambda: [*stem(3), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 1)]),
    "average pool": (6, lambda: [*stem(4), nn.AvgPool2d(2), nn.Conv2d(4, 12, 3), nn.ReLU()]),
    "overlapping average pool": (4, lambda: [*stem(12), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(4)]),
    "adaptive pool": (6, lambda: [*stem(3), nn.AdaptiveAvgPool2d((2, 2))]),
    "uneven adaptive pool": (5, lambda: [*stem(3), nn.AdaptiveAvgPool2d((2, 2))]),
    "global pool": (6, lambda: [*stem(12), nn.AdaptiveAvgPool2d(1)]),
    "stride": (5, lambda: [*stem(4), nn.Conv2d(4, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU()]),
    "stride that leaves a rest": (6, lambda: [*stem(4), nn.Conv2d(4, 3, 1, stride=3), nn.ReLU()]),
    "dilation": (6, lambda: [*stem(4), nn.Conv2d(4, 3, 3, padding=1, dilation=2, stride=2), nn.ReLU()]),
    "groups": (6, lambda: [*stem(4), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 12, 4)]),
    "depthwise": (6, lambda: [*stem(6), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 12, 4)]),
    "signed inputs": (6, lambda: [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3), nn.SiLU()]),
    "wide padding": (6, lambda: [*stem(4), nn.Conv2d(4, 12, 1, padding=1), nn.ReLU(), nn.MaxPool2d(8)]),
}


def stem(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(2, channels, **CONV), nn.ReLU(inplace=True)]


def chain(name: str) -> tuple[nn.Sequential, int]:
    side, layers = CHAINS[name]
    torch.manual_seed(5)
    tail = [nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)]
    return nn.Sequential(*layers(), *tail), side


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_a_chain_of_layers_equals_the_matrix_definition(name):
    model, side = chain(name)
    model = randomised(model, seed=2)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 2, side, side, dtype=torch.float64, generator=generator)
    y = torch.tensor([0, 2, 1])
    found = channel_relevance(model, x, y)
    for n in range(3):
        expected = sequential_relevance(model, x[n : n + 1], int(y[n]))
        del expected[str(len(model) - 1)]  # the logits' layer has no channels to score
        assert set(found) == set(expected)
        for layer, r in expected.items():
            mean = r.mean((2, 3))[0] if r.ndim == 4 else r[0]
            assert torch.allclose(found[layer][n], mean, rtol=1e-6, atol=1e-7 * float(mean.abs().max())), (
                layer
            )


@pytest.mark.parametrize("read", ["sum", "branch"])
def test_residual_blocks_split_relevance_in_proportion_to_branch_and_skip(read):
    torch.manual_seed(0)
    model = randomised(CifarResNet(BasicBlock, 2, 4, 2, 0.25), seed=1)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    y = torch.tensor([3, 1])
    found = channel_relevance(model, x, y, read=read)
    for n in range(2):
        expected = resnet_relevance(model, x[n : n + 1], int(y[n]), read)
        assert set(found) == set(expected)
        for layer, mean in expected.items():
            assert torch.allclose(found[layer][n], mean, rtol=1e-6, atol=1e-8 * float(mean.abs().max())), (
                layer
            )


def test_the_two_read_points_differ_only_at_the_last_layer_of_each_block():
    model = randomised(build_model("resnet20", 10, width=0.25))
    x, y = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 5, 9])
    at_sum, at_branch = (channel_relevance(model, x, y, read=read) for read in ("sum", "branch"))
    differing = {layer for layer in at_sum if not torch.equal(at_sum[layer], at_branch[layer])}
    assert differing == {layer for layer in at_sum if layer.endswith(".conv2")}


def test_published_and_signed_stabilisers_agree_where_no_denominator_is_nearly_zero():
    model = randomised(build_model("resnet20", 10, width=0.5))
    x, y = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 5, 9, 9])
    signed = channel_relevance(model, x, y)
    published = channel_relevance(model, x, y, stabiliser="published")
    for layer, r in signed.items():
        assert bool(torch.isfinite(published[layer]).all())
        # Lower down, single windows see no negative weight at all: there e decides, and the modes may differ.
        if layer.startswith("layer3"):
            assert float((r - published[layer]).abs().max() / r.abs().max()) < 1e-6, layer


def test_filters_without_negative_weights_keep_relevance_finite_and_exact_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    with torch.no_grad():
        model[2].weight[1].abs_()
        model[2].weight[2].abs_()[0, 0, 0] = -1e-6
        model[2].bias.uniform_(-0.1, 0.1)
    x, y = torch.randn(4, 2, 8, 8), torch.tensor([0, 1, 2, 1])
    single = channel_relevance(model, x, y)
    double = channel_relevance(model.double(), x.double(), y)
    for layer, r in double.items():
        assert float((single[layer] - r).abs().max() / r.abs().max()) < 1e-4, layer


def test_positions_without_negative_contributions_keep_relevance_finite_and_exact_in_float32():
    # At (0, 0) the input that has negative weights is zero, so Z- is 0 there, and a bare Z - Z+ would be rounding noise.
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
        model[0].bias.zero_()
        model[2].bias.zero_()
        model[2].weight.copy_(torch.tensor([[0.3, -0.7], [1.1, -0.2]]).reshape(2, 2, 1, 1))
    x, y = torch.rand(3, 2, 2, 2) + 0.1, torch.tensor([0, 1, 1])
    x[:, 1, 0, 0] = 0.0
    single = channel_relevance(model, x, y)
    double = channel_relevance(model.double(), x.double(), y)
    for layer, r in double.items():
        assert float((single[layer] - r).abs().max() / r.abs().max()) < 1e-4, layer


class Rounding(DenseMap):
    """As kernels that compute in a transformed space: a sum of nothing may come out as a little less."""

    def __init__(self, less: float) -> None:
        super().__init__()
        object.__setattr__(self, "less", less)

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return super().forward(x, weight, bias) - self.less


@pytest.mark.parametrize(
    ("x", "less"),
    [([[0.0, 2.0]], EPSILON), ([[0.0, 2.0], [-1.0, 0.0]], EPSILON / 2)],
    ids=["one sign", "both signs"],
)
def test_a_kernel_that_rounds_below_zero_leaves_relevance_finite(x, less):
    weight = torch.tensor([[1.0, -1.0], [2.0, -1.0]], dtype=torch.float64)
    stabiliser, linear_map = stabiliser_by_name("signed"), Rounding(less)
    split = SplitWeight(weight, linear_map, stabiliser)
    site = LinearSite(linear_map, weight, None, split, stabiliser, False, None)
    given = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = LinearRule.apply(given, torch.zeros(()), site)
    (found,) = torch.autograd.grad(y, given, torch.ones_like(y))
    assert bool(torch.isfinite(found).all())
    assert found[0].tolist() == pytest.approx(
        [0.0, -2.0], rel=1e-6
    )  # all that is negative: -R of each output
