"""Who makes a group's units and who reads them."""

import pytest
import torch
from torch import nn

from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.surgery import apply_plan


def readers(edges):
    return [consumer.layer for consumer in edges.consumers]


def test_a_chain_of_layers_is_read_one_by_one():
    groups = find_groups(build_model("vgg16_bn", 10, 3, 0.125), torch.zeros(1, 3, 32, 32))
    edges = groups.edges()
    assert edges["features.0"].producers == ("features.0",)
    (reader,) = edges["features.0"].consumers
    assert (reader.layer, reader.depthwise, reader.conv_groups) == ("features.3", False, 1)
    assert reader.columns == tuple((i,) for i in range(8))


def test_a_linear_layer_behind_a_flatten_reads_all_pixels_of_a_channel():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))
    (edges,) = find_groups(model, torch.zeros(1, 1, 2, 2)).edges().values()
    assert edges.consumers[0].layer == "3"
    assert edges.consumers[0].columns == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


def test_a_stream_is_read_by_every_block_and_its_head():
    edges = find_groups(build_model("resnet20", 10, 3, 0.25), torch.zeros(1, 3, 32, 32)).edges()
    stream = next(e for e in edges.values() if "layer3.2.conv2" in e.producers)
    assert readers(stream) == ["layer3.1.conv1", "layer3.2.conv1", "fc"]


def test_in_scatter_mode_the_last_conv_of_a_block_has_no_reader():
    groups = find_groups(build_model("resnet20", 10, 3, 0.25), torch.zeros(1, 3, 32, 32), residual="scatter")
    edges = groups.edges()
    assert edges["layer1.0.conv2"].consumers == ()
    assert readers(edges["layer1.0.conv1"]) == ["layer1.0.conv2"]


def test_a_depthwise_reader_is_marked_and_so_is_one_in_groups():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=2), nn.ReLU(), nn.Conv2d(12, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    edges = find_groups(model, torch.zeros(1, 3, 5, 5)).edges()
    first = edges["0"]
    assert [(c.layer, c.depthwise, c.conv_groups) for c in first.consumers] == [
        ("2", True, 1),
        ("4", False, 2),
    ]
    assert first.consumers[1].columns[0] == (0,), "the place in each of the two groups"


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
def test_zeroing_what_the_edges_say_is_reading_nothing_of_a_unit(residual):
    """A second definition, after a removal too: with a unit's columns at zero, its producers may do anything."""
    torch.manual_seed(0)
    model = build_model("resnet20", 10, 3, 0.25).double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    groups = find_groups(model, torch.zeros(1, 3, 16, 16, dtype=torch.float64), residual=residual)
    plan = groups.plan({group.name: [0] for group in groups.groups})
    apply_plan(model, plan)
    groups = groups.after(plan)
    checked = 0
    for name, edges in groups.edges().items():
        if not edges.consumers:
            continue
        saved = {k: v.clone() for k, v in model.state_dict().items()}
        with torch.no_grad():
            for consumer in edges.consumers:
                model.get_submodule(consumer.layer).weight[:, list(consumer.columns[1])] = 0
            before = model(images)
            for member in groups.group(name).members:
                model.get_submodule(member.layer).weight[list(member.channels[1])] *= -3
            assert torch.equal(model(images), before), name
        model.load_state_dict(saved)
        checked += 1
    assert checked >= 9
