"""Each criterion's formula on numbers small enough to check by hand, or against a slow definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gcp_core.criteria import build_criterion
from gcp_core.criteria.feature_maps import norm_after
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.relevance import feature_relevance_scores
from gcp_core.rewrites import build_rewrite, gates_of
from gcp_core.testing import criterion_case
from tests.oracles import nets


class OneLayer:
    """Groups of a network with a single scored layer."""

    def __init__(self, layer: str, size: int) -> None:
        self._layers = {layer: size}

    def scored_layers(self) -> dict[str, int]:
        return self._layers


def score_filters(name: str, filters: list[list[float]]) -> list[float]:
    weight = torch.tensor(filters)
    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0]))
    model[0].weight.data = weight
    return build_criterion(name).score(model, OneLayer("0", len(weight)), [], torch.Generator())["0"].tolist()


@pytest.mark.parametrize(
    ("name", "filters", "expected"),
    [
        ("l1", [[1.0, -2.0], [3.0, 0.0]], [3.0, 3.0]),
        ("l2", [[3.0, -4.0], [1.0, 0.0]], [5.0, 1.0]),
        ("fpgm", [[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], [0 + 5 + 0, 5 + 0 + 5, 0 + 5 + 0]),
        ("lamp", [[1.0], [2.0], [3.0]], [1 / (1 + 4 + 9), 4 / (4 + 9), 9 / 9]),
        ("lamp", [[0.0], [0.0]], [0.0, 0.0]),
        ("lamp", [[2.0], [-2.0]], [4 / 8, 4 / 8]),
    ],
)
def test_filter_criteria_by_hand(name, filters, expected):
    assert score_filters(name, filters) == pytest.approx(expected, abs=1e-6)


def tiny() -> tuple[nn.Sequential, torch.Tensor]:
    """A 1x1 conv with two channels: y0 = 2 x - 1 (scale 2, shift -1), y1 = -x."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0), nn.ReLU(inplace=True))
    model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[:, 0, 0, 0] = torch.tensor([1.0, 1.0])
        model[1].weight.copy_(torch.tensor([2.0, -1.0]))
        model[1].bias.copy_(torch.tensor([-1.0, 0.0]))
    images = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[-1.0, -1.0], [-1.0, -1.0]]]])
    return model, images


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # y0: first image 1 -1 -1 1, second -3 -3 -3 -3; y1: first -1 0 0 -1, second 1 1 1 1
        ("apoz", [2 / 8, 4 / 8]),
        ("mean_activation", [(1 + 1 + 1 + 1 + 3 * 4) / 8, (1 + 1 + 4) / 8]),
        # ReLU(y0): identity matrix (rank 2), zeros (0); ReLU(y1): zeros (0), all ones (1)
        ("hrank", [(2 + 0) / 2, (0 + 1) / 2]),
        ("bn_scale", [2.0, 1.0]),
    ],
)
def test_feature_map_criteria_by_hand(name, expected):
    model, images = tiny()
    batches = [(images[:1], torch.tensor([0])), (images[1:], torch.tensor([1]))]
    found = build_criterion(name).score(model, OneLayer("0", 2), batches, torch.Generator())
    assert found["0"].tolist() == pytest.approx(expected, abs=1e-6)


def test_hrank_looks_at_no_more_images_than_allowed():
    model, images = tiny()
    criterion = build_criterion("hrank", {"max_images": 1})
    found = criterion.score(model, OneLayer("0", 2), [(images, torch.tensor([0, 1]))], torch.Generator())
    assert found["0"].tolist() == [2.0, 0.0]


def test_taylor_equals_the_product_of_map_and_gradient_image_by_image():
    case = criterion_case()
    found = case.scores(build_criterion("taylor"))
    model = case.model.eval()
    expected = torch.zeros(5, dtype=torch.float64)
    count = 0
    for images, labels in case.batches:
        for image, label in zip(images, labels):
            y = model[1](model[0](image[None])).detach().requires_grad_()
            loss = F.cross_entropy(model[3:](torch.relu(y)), label[None])
            slope = torch.autograd.grad(loss, y)[0]
            expected += (y.detach() * slope).sum((0, 2, 3)) ** 2
            count += 1
    assert torch.allclose(found["0"], expected / count, rtol=1e-10)


def test_group_norm_is_the_mean_over_producer_norm_and_consumer_by_hand():
    case = criterion_case()
    found = case.scores(build_criterion("group_norm"))
    conv, norm, following = case.model[0], case.model[1], case.model[4]
    parts = [
        conv.weight.detach().square().sum((1, 2, 3)),
        norm.weight.detach().square(),
        following.weight.detach().square().sum((0, 2, 3)),
    ]
    mean = torch.stack(parts).mean(0)
    assert torch.allclose(found["0"], mean / mean.mean(), rtol=1e-12)


def test_frs_is_the_feature_relevance_score_of_the_scored_layers():
    case = criterion_case()
    found = case.scores(build_criterion("frs"))
    expected = feature_relevance_scores(case.model, case.batches, 3)
    assert list(found) == list(case.groups.scored_layers())
    for layer, score in found.items():
        assert torch.allclose(score, expected[layer], rtol=1e-12)


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("exclude", [(), ("layer1.*",), ("layer1.*", "layer2.0.*", "layer3.0.conv1")])
def test_frs_on_a_residual_net_splits_relevance_at_every_sum_whatever_is_scored(residual, exclude):
    """Layers that are not scored (the stem, what is excluded) take their share where they meet a branch."""
    model = nets.own_net("resnet20")
    groups = find_groups(model, nets.images(1), residual=residual, exclude=exclude)
    batches = [(nets.images(6, 16), torch.arange(6))]
    found = build_criterion("frs").score(model, groups, batches, torch.Generator())
    expected = feature_relevance_scores(model, batches, 10)
    assert "conv1" not in found
    for layer, score in found.items():
        assert torch.allclose(score, expected[layer], rtol=1e-9), layer


class Gated(nn.Module):
    """A squeeze-excite gate: relevance goes to the signal and never reaches the squeeze layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.squeeze = nn.Conv2d(4, 9, 1)
        self.excite = nn.Conv2d(9, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc((x * gate).mean((2, 3)))


class TwoLayers:
    def scored_layers(self) -> dict[str, int]:
        return {"conv": 4, "squeeze": 9}


def test_frs_of_a_layer_inside_a_gate_is_that_of_an_average_channel():
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 0, 1]))]
    found = build_criterion("frs").score(Gated(), TwoLayers(), batches, torch.Generator())
    assert found["squeeze"].tolist() == [1 / math.sqrt(9)] * 9
    assert float(found["conv"].norm()) == pytest.approx(1.0, abs=1e-6)


def test_maps_are_watched_after_the_norm_and_at_a_layer_without_one():
    model = build_model("vgg16_bn", 10, width=0.125)
    found = norm_after(model, ["features.0", "features.3", "classifier.0"], torch.zeros(1, 3, 32, 32))
    assert found == {"features.0": "features.1", "features.3": "features.4"}


def test_active_probability_is_that_of_a_normal_value_behind_a_plain_norm_and_one_without_a_norm():
    """0.5 (1 + erf((shift - 0.05) / (sqrt 2 |scale|)))."""
    case = criterion_case()
    norm, found = case.norm("1"), case.scores(build_criterion("active_probability"))
    pairs = zip(norm.weight.tolist(), norm.bias.tolist(), strict=True)
    expected = [0.5 * (1 + math.erf((shift - 0.05) / (math.sqrt(2) * abs(scale)))) for scale, shift in pairs]
    assert found["0"].tolist() == pytest.approx(expected, abs=1e-12)
    assert found["9"].tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("criterion", "rewrite"), [("active_probability", "batch_whitening"), ("gate_mean", "consensus_gates")]
)
def test_where_gates_stand_they_say_the_score(criterion, rewrite):
    case = criterion_case()
    build_rewrite(rewrite).install(case.model, next(iter(case.batches))[0][:1])
    chances = {gate.place.layer: gate for gate in gates_of(case.model)}
    with torch.no_grad():
        for gate in chances.values():
            if rewrite == "consensus_gates":
                gate.open.uniform_(0, 1)
    found = case.scores(build_criterion(criterion))
    assert set(chances) == {"0", "4"}
    assert all(torch.equal(found[layer], gate.chance()) for layer, gate in chances.items())
    assert found["9"].tolist() == [1.0] * 4
