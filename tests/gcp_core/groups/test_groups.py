"""Groups: which channels go together, on our own networks."""

import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from gcp_core.cost import measure_cost
from gcp_core.errors import ModelError, PlanError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.padding import pad_widths
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan, remove_channels
from tests.oracles.gated_inputs import zero_columns
from tests.oracles.nets import images, own_net, random_scores

X = torch.zeros(1, 3, 32, 32)


def scored(group):
    return [m.layer for m in group.members if m.scored]


def passive(group):
    return [m.layer for m in group.members if not m.scored]


def test_every_conv_and_the_hidden_linear_layer_of_a_vgg_is_a_group():
    groups = find_groups(build_model("vgg16_bn", 10, width=0.125), X)
    sizes = [8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64, 64]
    assert [g.size for g in groups.groups] == sizes
    assert [g.name for g in groups.groups][-2:] == ["features.40", "classifier.0"]
    assert groups.num_units == sum(sizes)
    assert groups.frozen == {"classifier.3": "its channels are the model's output"}
    assert list(groups.scored_layers().values()) == sizes


def test_a_stage_is_tied_and_scored_by_the_last_convs_of_its_blocks():
    groups = find_groups(build_model("resnet20", 10), X)
    assert groups.num_units == 3 * (16 + 32 + 64) + 16 + 32 + 64  # inner channels, then three streams
    stream = groups.group("layer2.0.conv2")
    assert scored(stream) == ["layer2.0.conv2", "layer2.1.conv2", "layer2.2.conv2"]
    assert passive(stream) == ["layer2.0.downsample.0"]
    stem = groups.group("layer1.0.conv2")
    assert passive(stem) == ["conv1"]
    assert stem.members[0].channels == tuple((i,) for i in range(16))
    assert "conv1" not in groups.scored_layers()


def test_published_counts_of_prunable_channels():
    # The paper prunes all block convs of ResNet-56: 18 x (16 + 32 + 64) = 2016.
    assert find_groups(build_model("resnet56", 10), X, residual="scatter").num_units == 2016
    assert find_groups(build_model("resnet56", 10), X, residual="inner").num_units == 1008


def test_inner_mode_leaves_whatever_a_residual_sum_touches():
    groups = find_groups(build_model("resnet20", 10), X, residual="inner")
    assert {g.name.rpartition(".")[2] for g in groups.groups} == {"conv1"}
    assert "layer1.0.conv2" in groups.frozen
    assert "residual='inner'" in groups.frozen["conv1"]


def test_scatter_mode_keeps_stem_and_shortcuts():
    groups = find_groups(build_model("resnet20", 10), X, residual="scatter")
    assert {"conv1", "layer2.0.downsample.0", "layer3.0.downsample.0", "fc"} == set(groups.frozen)
    assert all(len(g.members) == 1 for g in groups.groups)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet20"])
def test_the_columns_that_go_are_those_that_are_zero_while_the_units_are_gated(name):
    model, x = own_net(name).train(), images()
    for module in model.modules():
        # Shifts so large that no ReLU is silent by itself: in training mode a norm's output is within 4 +- 3.
        if isinstance(module, (nn.BatchNorm2d, nn.Linear)):
            module.bias.data.fill_(4.0 if isinstance(module, nn.BatchNorm2d) else 50.0)
    groups = find_groups(model, x)
    for group in groups.groups:
        plan = groups.plan({group.name: [0, group.size - 1]})
        cut = {c.tensor.removesuffix(".weight"): set(c.removed) for c in plan.cuts if c.dim == 1}
        silent = {layer: columns for layer, columns in zero_columns(model, x, plan).items() if columns}
        assert silent == cut


def test_flattened_channels_take_all_their_columns_along():
    class Flat(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))

    groups = find_groups(Flat(), torch.zeros(1, 3, 8, 8))
    plan = groups.plan({"0": [2]})
    (cut,) = [c for c in plan.cuts if c.tensor == "3.weight"]
    assert (cut.dim, cut.size, cut.removed) == (1, 256, tuple(range(128, 192)))


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("name", ["vgg11_bn", "resnet20"])
def test_groups_after_a_plan_equal_those_of_the_pruned_model(name, residual):
    model, x = own_net(name), images()
    groups = find_groups(model, x, residual=residual)
    for seed in range(2):
        plan = select_channels(random_scores(groups, seed), groups, Budget(ratio=0.25))
        apply_plan(model, plan)
        groups = groups.after(plan)
        fresh = find_groups(model, x, residual=residual)
        assert [(g.name, g.members, g.first_unit) for g in groups.groups] == [
            (g.name, g.members, g.first_unit) for g in fresh.groups
        ]
        assert groups.cost() == fresh.cost()
        assert groups.frozen == fresh.frozen
        assert groups.plan({groups.groups[0].name: [0]}) == fresh.plan({fresh.groups[0].name: [0]})
    assert [g.original_size for g in groups.groups] != [g.size for g in groups.groups]


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
def test_predicted_cost_is_the_measured_cost_after_removal(residual):
    model, x = own_net("resnet20"), images()
    groups = find_groups(model, x, residual=residual)
    plan = select_channels(random_scores(groups), groups, Budget(ratio=0.3))
    predicted = groups.cost(plan.removed)
    apply_plan(model, plan)
    cost = measure_cost(model, x)
    assert predicted == (cost.macs, cost.params) == groups.after(plan).cost()


def test_finding_groups_leaves_the_model_and_the_random_state_alone():
    model = build_model("resnet20", 10, width=0.25).train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    find_groups(model, X)
    assert torch.equal(torch.rand(2), expected)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_excluding_a_module_excludes_every_layer_in_it():
    model = build_model("resnet20", 10)
    by_name = find_groups(model, X, residual="scatter", exclude=["layer1", "layer2.?"])
    by_pattern = find_groups(model, X, residual="scatter", exclude=["layer1.*", "layer2.?.*"])
    assert list(by_name.scored_layers()) == list(by_pattern.scored_layers())
    assert {layer.split(".")[0] for layer in by_name.scored_layers()} == {"layer3"}
    assert by_name.frozen["layer1.0.conv1"] == "excluded by 'layer1'"
    one = find_groups(model, X, residual="scatter", exclude=["layer1.1"])
    assert {layer for layer in one.frozen if layer.startswith("layer1.") and layer.endswith("conv1")} == {
        "layer1.1.conv1"
    }


def test_excluded_layers_are_never_pruned_and_reported(caplog):
    groups = find_groups(build_model("vgg_tiny", 10), X, exclude=["features.0", "features.1?"])
    assert groups.frozen["features.0"] == "excluded by 'features.0'"
    assert {g.name for g in groups.groups} == {"features.3", "features.7"}
    with caplog.at_level(logging.WARNING):
        find_groups(build_model("vgg_tiny", 10), X, exclude=["feature.0"])
    assert "exclude pattern 'feature.0' matches no conv or linear layer" in caplog.text


def test_excluding_one_tied_layer_keeps_its_whole_stage():
    groups = find_groups(build_model("resnet20", 10), X, exclude=["conv1"])
    assert "layer1.0.conv2" in groups.frozen
    assert "layer1.0.conv2" not in {g.name for g in groups.groups}


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.conv(self.conv(self.stem(x))).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.fc((self.a(x) + self.b(x)).mean((2, 3)))


@dataclass
class Logits:
    values: torch.Tensor
    maps: torch.Tensor | None = None


class Returns(nn.Module):
    """A convolution and a classifier whose logits are returned in something."""

    def __init__(self, wrap):
        super().__init__()
        self.conv, self.fc, self.wrap = nn.Conv2d(3, 4, 3), nn.Linear(4, 10), wrap

    def forward(self, x):
        return self.wrap(self.fc(self.conv(x).mean((2, 3))))


@pytest.mark.parametrize("wrap", [Logits, lambda y: {"out": [y, None]}, lambda y: (y, Logits(y))])
def test_logits_stay_in_whatever_they_are_returned(wrap):
    groups = find_groups(Returns(wrap), X)
    assert [g.name for g in groups.groups] == ["conv"]
    assert groups.frozen == {"fc": "its channels are the model's output"}


def normed():
    """Every layer makes its weights anew for every call."""
    parts = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), weight_norm(nn.Linear(6, 10))]
    return nn.Sequential(*(weight_norm(part) for part in parts), *head)


def test_layers_whose_weights_are_computed_are_listed_with_the_reason():
    model = normed()
    model[1] = nn.Conv2d(8, 6, 3)
    model[4] = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 10))
    groups = find_groups(model, X)
    assert groups.frozen == {
        "4.1": "its channels are the model's output",
        "0": "its weight is computed at every call (weight norm, spectral norm, a mask)",
    }
    padded = pad_widths(model, X, 4)
    assert padded.left == {"4.1": "its channels are the model's output"}  # 10 classes
    with pytest.raises(PlanError, match="0: its weight is computed at every call"):
        remove_channels(model, {"0": [1]}, example_input=X)


def broken(value):
    model = build_model("vgg_tiny", 10, width=0.25)
    model.features[3].weight.data[0, 0, 0, 0] = value
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Shared(),
            "model: the model has no prunable group (stem: a module that is called more than once reads or makes",
        ),
        (Tied(), "b.weight: the same parameter is also registered as 'a.weight'"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
            "model: the model has no prunable group (1: its channels",
        ),
        (nn.Sequential(nn.Flatten()), "it has no conv or hidden linear layer"),
        (normed(), "no prunable group (0: its weight is computed at every call (weight norm"),
        (build_model("vgg_tiny", 10).half(), "features.0.weight: half-precision weights (torch.float16)"),
        (build_model("vgg_tiny", 10).bfloat16(), "keep the weights in float32 and train under autocast"),
        (broken(float("nan")), "features.3.weight: the weights are not finite (has training diverged?)"),
        (broken(float("inf")), "features.3.weight: the weights are not finite"),
        (
            Returns(lambda y: SimpleNamespace(logits=y)),
            "model: it returns a SimpleNamespace, in which no tensor is found (return tensors, or lists",
        ),
    ],
)
def test_models_that_cannot_be_pruned_are_refused(model, message):
    with pytest.raises(ModelError) as caught:
        find_groups(model, X)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(1, 1, 32, 32), "the model does not run on an input of shape (1, 1, 32, 32): "),
        (torch.zeros(3, 32), "the model does not run on an input of shape (3, 32): "),
        (torch.zeros(1, 3, 2, 2), "the model does not run on an input of shape (1, 3, 2, 2): "),
        (torch.zeros(0, 3, 32, 32), "(0, 3, 32, 32) is not a batch of images (give a tensor (N, C, H, W))"),
        (torch.zeros(32), "(32,) is not a batch of images"),
        ([[1.0]], "list is not a batch of images"),
    ],
    ids=lambda value: str(getattr(value, "shape", "")),
)
def test_an_example_input_of_the_wrong_shape_is_named(example, message):
    with pytest.raises(ModelError) as caught:
        find_groups(build_model("vgg16_bn", 10, width=0.0625), example)
    assert str(caught.value).startswith(f"example_input: {message}")


def test_an_unknown_residual_mode_gets_a_hint():
    with pytest.raises(PlanError, match="residual: 'couple' is unknown \\(did you mean \"coupled\""):
        find_groups(build_model("vgg_tiny", 10), X, residual="couple")
