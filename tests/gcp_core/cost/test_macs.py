"""MACs and parameters."""

import pytest
import torch
from torch import nn

from gcp_core.cost import measure_cost
from gcp_core.errors import ModelError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.surgery import apply_plan
from tests.oracles.mac_count import count_macs


@pytest.mark.parametrize(
    ("name", "macs", "params"), [("resnet20", 40_813_184, 272_474), ("vgg_tiny", 38_634_752, 288_746)]
)
def test_cost_of_known_networks(name, macs, params):
    # ResNet-20 with 1x1 shortcuts: 40.55 M of the plain net + 2 x 131,072 in the shortcuts.
    cost = measure_cost(build_model(name, 10), torch.zeros(1, 3, 32, 32))
    assert (cost.macs, cost.params) == (macs, params)
    assert cost.uncounted == {}


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn", "torchvision:mobilenet_v3_small"])
def test_macs_by_layer_equal_counting_loops(name):
    model, image = build_model(name, 10), torch.zeros(1, 3, 32, 32)
    cost = measure_cost(model, image.expand(3, -1, -1, -1))
    assert cost.by_layer == count_macs(model, image)
    assert cost.macs == sum(cost.by_layer.values())


def test_frozen_parameters_are_not_counted_and_the_model_stays_as_it_was():
    model = build_model("vgg_tiny", 10, width=0.25).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.features[0].weight.requires_grad_(False)
    cost = measure_cost(model, torch.zeros(1, 3, 8, 8))
    assert cost.params == sum(p.numel() for p in model.parameters()) - model.features[0].weight.numel()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Encoder(nn.Module):
    """A convolution (36 positions of 8 channels), one encoder layer with 2 heads and 12 hidden units, 5 logits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.layer(self.conv(x).flatten(2).transpose(1, 2)).mean(1))


#: Projections to queries, keys, values; each head's products with 4 channels, twice; projection of the result.
ATTENTION = 36 * 8 * 24 + 2 * (2 * 36 * 36 * 4) + 36 * 8 * 8


def test_the_products_of_attention_are_counted():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = self.conv(x).flatten(2).transpose(1, 2)
            return self.attention(y, y, y)[0].mean(1)

    cost = measure_cost(Attention(), torch.zeros(1, 3, 8, 8))
    assert cost.macs == 36 * 8 * 27 + ATTENTION
    assert cost.uncounted == {}
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_predicted_cost_of_a_cut_encoder_is_the_measured_one():
    model, x = Encoder(), torch.zeros(1, 3, 8, 8)
    whole = 36 * 8 * 27 + ATTENTION + 2 * 36 * 8 * 12 + 8 * 5
    groups = find_groups(model, x)
    assert measure_cost(model, x).macs == groups.cost()[0] == whole
    plan = groups.plan({"layer.linear1": [0, 5]})
    apply_plan(model, plan)
    # Two of twelve units: a row of the first linear layer and a column of the second, at 36 positions.
    assert measure_cost(model, x).macs == groups.cost(plan.removed)[0] == whole - 2 * 2 * 36 * 8


def test_an_operation_the_counter_does_not_know_is_reported():
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            y = self.conv(x).flatten(2)
            return torch.cdist(y, y).flatten(1)

    assert "_cdist_forward" in measure_cost(Distances(), torch.zeros(1, 3, 8, 8)).uncounted


class Asserts(nn.Module):
    """As torchvision's vision transformers do."""

    def __init__(self, *said):
        super().__init__()
        self.conv, self.fc, self.said = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), said

    def forward(self, x):
        if x.shape[-1] != 224:
            raise AssertionError(*self.said)
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("look", [measure_cost, find_groups])
@pytest.mark.parametrize("said", ["Wrong image height! Expected 224 but got 8!", ""])
def test_an_input_that_the_model_asserts_against_is_one_message(look, said):
    message = f"the model does not run on an input of shape (1, 3, 8, 8): {said or 'AssertionError'}"
    with pytest.raises(ModelError) as caught:
        look(Asserts(said) if said else Asserts(), torch.zeros(1, 3, 8, 8))
    assert str(caught.value) == f"example_input: {message}"


class NoRoom(nn.Module):
    """On a GPU that others have filled."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("look", [measure_cost, find_groups])
def test_memory_that_runs_out_is_not_blamed_on_the_model(look):
    with pytest.raises(torch.OutOfMemoryError):
        look(NoRoom(), torch.zeros(1, 3, 8, 8))


def test_an_input_that_does_not_fit_is_named():
    with pytest.raises(
        ModelError, match=r"example_input: the model does not run on an input of shape \(1, 1, 8, 8\)"
    ):
        measure_cost(build_model("vgg_tiny", 10), torch.zeros(1, 1, 8, 8))


class Mistyped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.convv(x)


def test_a_forward_that_is_wrong_itself_is_one_message_that_says_what_python_says():
    with pytest.raises(
        ModelError, match=r"does not run on an input .*: 'Mistyped' object has no attribute 'convv'"
    ):
        measure_cost(Mistyped(), torch.zeros(1, 3, 8, 8))


def test_channels_that_do_not_fit_come_with_the_question_to_ask():
    with pytest.raises(ModelError) as caught:
        measure_cost(build_model("vgg_tiny", 10), torch.zeros(1, 1, 8, 8))
    assert caught.value.hint == "images have this shape: does the model take it?"
