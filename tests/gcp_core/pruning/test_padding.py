"""Padding widths with zero channels leaves the function as it is."""

import pytest
import torch
from torch import nn

from gcp_core.errors import ConfigError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.padding import pad_widths, padded_to_multiple
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.scatter import ScatterBatchNorm2d
from tests.oracles.nets import images, lively, own_net, random_scores


def pruned(name: str, residual: str = "coupled", width: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = own_net(name, width) if ":" not in name else lively(build_model(name, 10))
    groups = find_groups(model, images(1), residual=residual)
    apply_plan(model, select_channels(random_scores(groups), groups, Budget(ratio=0.3)))
    return model.eval()


def same(model: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = model(x)
        return float((wanted - other(x)).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("name", "residual"),
    [
        ("vgg_tiny", "coupled"),
        ("resnet20", "coupled"),
        ("resnet20", "scatter"),
        ("resnet20", "inner"),
        ("torchvision:mobilenet_v3_small", "coupled"),  # depthwise, squeeze-excite, hardswish, hidden linear
        ("torchvision:shufflenet_v2_x0_5", "coupled"),  # chunk, shuffle, concatenation
    ],
)
def test_a_padded_model_computes_the_same_in_widths_that_are_multiples(name, residual):
    model = pruned(name, residual)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    result = pad_widths(model, images(1))
    x = images(3, seed=7)
    assert same(model, result.model, x) <= 1e-12
    layers = {n: m for n, m in result.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    widths = {n: m.out_channels if isinstance(m, nn.Conv2d) else m.out_features for n, m in layers.items()}
    assert {n for n, width in widths.items() if width % 8} == set(result.left)
    assert all(m.weight.shape[0] == widths[n] for n, m in layers.items())
    assert result.grown
    assert all(a < b < a + 8 for a, b in result.grown.values())
    # The given model stays as it is.
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_only_the_classes_are_left_and_the_reason_is_given():
    assert pad_widths(pruned("resnet20"), images(1)).left == {"fc": "its channels are the model's output"}


def test_padding_puts_back_as_many_channels_as_were_cut():
    """16 channels lose 3; to a multiple of 16 that is 16 again, with three zero filters."""
    model = own_net("vgg_tiny", 0.5)
    groups = find_groups(model, images(1))
    apply_plan(model, groups.plan({"features.0": [0, 5, 9]}))
    result = pad_widths(model, images(1), 16)
    conv, norm, reader = (result.model.get_submodule(f"features.{i}") for i in (0, 1, 3))
    assert result.grown == {"features.0": (13, 16)}
    assert conv.weight.shape == (16, 3, 3, 3)
    assert conv.out_channels == norm.num_features == reader.in_channels == 16
    assert [int((w == 0).all()) for w in conv.weight] == [0] * 13 + [1] * 3
    assert norm.running_var[13:].tolist() == [1.0] * 3
    assert (
        norm.weight[13:].tolist() == norm.bias[13:].tolist() == norm.running_mean[13:].tolist() == [0.0] * 3
    )
    assert not reader.weight[:, 13:].any()


def test_scattered_channels_are_padded_into_free_places_of_their_stream():
    result = pad_widths(pruned("resnet20", "scatter"), images(1))
    norms = [m for m in result.model.modules() if isinstance(m, ScatterBatchNorm2d)]
    assert norms
    for norm in norms:
        places = norm.scatter_index.tolist()
        assert len(set(places)) == len(places) == norm.num_features
        assert set(places) <= set(range(norm.full_channels))


def test_a_stream_without_room_is_left_and_listed():
    """12 of 13 stream channels live: 16 do not fit into 13."""
    model = own_net("resnet20", 13 / 16).eval()
    groups = find_groups(model, images(1), residual="scatter")
    apply_plan(model, groups.plan({"layer1.0.conv2": [4]}))
    result = pad_widths(model, images(1))
    assert result.left["layer1.0.conv2"] == "its residual stream has only 1 free channels"
    assert same(model, result.model, images(2)) <= 1e-12


class Divides(nn.Module):
    """Divides by a parameter per channel: zeros padded into it would give 0 / 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.scale = nn.Parameter(torch.full((6, 1, 1), 2.0))
        self.second = nn.Conv2d(6, 10, 3)
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        x = self.second(torch.relu(self.first(x)) / self.scale)
        return self.fc(torch.relu(x).mean((2, 3)))


def test_a_group_whose_padding_would_change_the_function_is_left_and_the_others_grow():
    torch.manual_seed(0)
    model = Divides().double().eval()
    result = pad_widths(model, images(1))
    assert result.left["first"] == "padding it would change the function"
    assert result.grown == {"second": (10, 16)}
    assert same(model, result.model, images(2)) <= 1e-12


def test_padding_keeps_memory_format_type_and_what_is_trained():
    model = pruned("vgg_tiny").float().to(memory_format=torch.channels_last)
    model.features[0].weight.requires_grad_(False)
    first = padded_to_multiple(model, torch.zeros(1, 3, 32, 32)).features[0].weight
    second = padded_to_multiple(model, torch.zeros(1, 3, 32, 32)).features[3].weight
    assert second.is_contiguous(memory_format=torch.channels_last)
    assert (first.dtype, first.requires_grad, second.requires_grad) == (torch.float32, False, True)


def test_a_multiple_of_one_changes_nothing():
    model = pruned("vgg_tiny")
    result = pad_widths(model, images(1), 1)
    assert (result.grown, result.left) == ({}, {})
    assert same(model, result.model, images(2)) == 0


@pytest.mark.parametrize("multiple", [0, 2.0, True])
def test_a_multiple_that_is_none_is_refused(multiple):
    with pytest.raises(ConfigError, match=r"multiple: .* is not a whole number >= 1"):
        padded_to_multiple(own_net("vgg_tiny"), images(1), multiple)


class TwoOutputs(nn.Module):
    """Logits, and the same again, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        y = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return y, 2 * y


def test_a_model_with_several_outputs_is_padded_too():
    torch.manual_seed(0)
    model = TwoOutputs().double().eval()
    result = pad_widths(model, images(1))
    assert result.grown == {"conv": (6, 8)}
    for wanted, got in zip(model(images(2)), result.model(images(2))):
        assert torch.allclose(wanted, got, rtol=0, atol=1e-12)
