"""Removed model = gated model on torchvision's networks, auxiliary heads and all."""

import pytest
import torch

from gcp_core.cost import measure_cost
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from tests.oracles.nets import images, lively, random_scores, removed_against_gated

# At 64 pixels 2 x 2 are left at the end: batch statistics over two single values would amplify rounding errors.
# Name, image side, layers that are frozen although they are no output (None: not looked at).
NETS = [
    ("squeezenet1_1", 64, set()),
    ("shufflenet_v2_x0_5", 64, set()),
    ("mobilenet_v2", 64, set()),
    ("mobilenet_v3_small", 64, set()),
    ("mnasnet0_5", 64, set()),
    ("efficientnet_b0", 64, set()),
    ("regnet_y_400mf", 64, set()),
    ("resnext50_32x4d", 64, set()),
    ("densenet121", 64, set()),
    ("googlenet", 96, {"aux1.conv.conv", "aux1.fc1", "aux2.conv.conv", "aux2.fc1"}),
    ("inception_v3", 299, {"AuxLogits.conv0.conv", "AuxLogits.conv1.conv"}),
    ("convnext_tiny", 32, None),
]
OUTPUTS = ("fc", "classifier", "aux1.fc2", "aux2.fc2", "AuxLogits.fc", "classifier.1", "classifier.3")


def network(name):
    torch.manual_seed(0)
    return lively(build_model(f"torchvision:{name}", 10))


@pytest.mark.parametrize(("name", "size", "frozen"), NETS, ids=[n for n, _, _ in NETS])
def test_removed_equals_gated_and_the_smaller_model_trains(name, size, frozen):
    model, x = network(name), images(2, size)
    groups = find_groups(model, x)
    if frozen is not None:
        assert {layer for layer in groups.frozen if layer not in OUTPUTS} == frozen
    plan = select_channels(random_scores(groups), groups, Budget(ratio=0.3))
    difference, moved = removed_against_gated(model, plan, x)
    assert difference <= 1e-12
    assert moved > 1e-3
    apply_plan(model, plan)
    cost = measure_cost(model, x)
    assert groups.cost(plan.removed) == (cost.macs, cost.params)


def test_scatter_mode_on_networks_with_linear_bottlenecks():
    for name in ("mobilenet_v2", "resnet18"):
        model, x = network(name), images(2, 64)
        groups = find_groups(model, x, residual="scatter")
        plan = select_channels(random_scores(groups), groups, Budget(ratio=0.3))
        assert plan.scatters
        assert removed_against_gated(model, plan, x)[0] <= 1e-12


def test_depthwise_networks_score_the_convs_of_a_block_and_not_its_gate():
    groups = find_groups(network("mobilenet_v3_small"), images(1, 64))
    group = groups.group("features.4.block.0.0")
    assert [(m.layer.removeprefix("features.4.block."), m.scored) for m in group.members] == [
        ("0.0", True),
        ("1.0", True),
        ("2.fc2", False),
    ]


def test_auxiliary_heads_are_cut_along_and_lose_no_channels_of_their_own():
    model = network("googlenet")
    groups = find_groups(model, images(1, 96))
    assert groups.frozen["aux1.fc1"] == "it runs in training mode only"
    plan = groups.plan({"inception4a.branch1.conv": [3]})
    assert ("aux1.conv.conv.weight", 1) in {(c.tensor, c.dim) for c in plan.cuts}
    before = model.aux1.conv.conv.in_channels
    apply_plan(model, plan)
    assert model.aux1.conv.conv.in_channels == before - 1
    assert model.aux1.fc1.out_features == 1024
