"""Scatter mode: a block's last conv loses channels alone, the stream keeps its width."""

import copy

import pytest
import torch
from torch import nn

from gcp_core.errors import ModelError
from gcp_core.groups import find_groups
from gcp_core.pruning.surgery import apply_plan, remove_channels
from gcp_core.scatter import ScatterBatchNorm1d, ScatterBatchNorm2d, ScatterBatchNorm3d, scattering
from tests.oracles.nets import images, lively, own_net, removed_against_gated


def test_the_norm_writes_its_channels_at_their_indices_and_zero_elsewhere():
    norm = ScatterBatchNorm2d(torch.tensor([1, 3]), 5).double().eval()
    norm.bias.data = torch.tensor([10.0, 20.0]).double()
    x = images()[:, :2]
    out = norm(x)
    assert out.shape == (4, 5, 32, 32)
    plain = nn.BatchNorm2d(2).double().eval()
    plain.bias.data = norm.bias.data
    assert torch.equal(out[:, [1, 3]], plain(x))
    assert not out[:, [0, 2, 4]].any()


def test_a_fresh_scatter_norm_is_the_batch_norm_it_replaces():
    norm = nn.BatchNorm2d(3, eps=1e-3, momentum=0.2).double().train()
    scatter = scattering(norm, 3)
    assert type(scatter) is ScatterBatchNorm2d
    assert scatter.weight is norm.weight
    assert (scatter.eps, scatter.momentum, scatter.training) == (1e-3, 0.2, True)
    assert torch.equal(scatter(images()), copy.deepcopy(norm)(images()))
    assert "full_channels=3" in repr(scatter)


@pytest.mark.parametrize(
    ("kind", "shape", "last"),
    [
        (ScatterBatchNorm1d, (4, 2), None),
        (ScatterBatchNorm1d, (4, 2, 6), None),
        (ScatterBatchNorm2d, (4, 2, 6, 5), torch.channels_last),
        (ScatterBatchNorm3d, (4, 2, 6, 5, 3), torch.channels_last_3d),
    ],
)
def test_the_memory_format_stays_and_neither_values_nor_gradients_depend_on_it(kind, shape, last):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    weights = torch.randn(shape[0], 5, *shape[2:], dtype=torch.float64)
    found = []
    for memory_format in filter(None, (torch.contiguous_format, last)):
        norm, own = kind(torch.tensor([1, 3]), 5).double(), x.to(memory_format=memory_format, copy=True)
        out = norm(own.requires_grad_())
        assert out.is_contiguous(memory_format=memory_format)
        (out * weights).sum().backward()
        found.append((out, own.grad, norm.weight.grad, norm.bias.grad))
    plain = nn.functional.batch_norm(x, None, None, training=True)
    expected = torch.zeros_like(weights).index_copy(1, torch.tensor([1, 3]), plain)
    for out, *_ in found:
        assert torch.allclose(out, expected, atol=1e-14)
    for one, other in zip(found[0], found[-1]):
        assert torch.allclose(one, other, atol=1e-13)


def test_only_the_last_conv_and_its_norm_shrink():
    model, x = own_net("resnet20", 0.5), images()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    plan = remove_channels(model, {"layer2.1.conv2": [0, 5]}, example_input=x, residual="scatter")
    changed = {name for name, p in model.named_parameters() if p.shape != shapes[name]}
    assert changed == {"layer2.1.conv2.weight", "layer2.1.bn2.weight", "layer2.1.bn2.bias"}
    assert plan.removed == {"layer2.1.conv2": (0, 5)}
    norm = model.layer2[1].bn2
    assert isinstance(norm, ScatterBatchNorm2d)
    assert norm.scatter_index.tolist() == [i for i in range(16) if i not in (0, 5)]
    assert model(x).shape == (4, 10)


def test_repeated_events_compose():
    x = images()
    twice, once = own_net("resnet20", 0.5), own_net("resnet20", 0.5)
    remove_channels(twice, {"layer2.1.conv2": [0, 5]}, example_input=x, residual="scatter")
    remove_channels(twice, {"layer2.1.conv2": [0, 13]}, example_input=x, residual="scatter")
    remove_channels(once, {"layer2.1.conv2": [0, 1, 5, 15]}, example_input=x, residual="scatter")
    # 0 and 5 gone: index 0 is channel 1, index 13 is channel 15.
    assert twice.layer2[1].bn2.scatter_index.tolist() == once.layer2[1].bn2.scatter_index.tolist()
    assert torch.equal(twice.eval()(x), once.eval()(x))


@pytest.mark.parametrize("residual", ["coupled", "inner"])
def test_a_scattered_stream_is_fixed_in_the_other_modes(residual):
    model, x = own_net("resnet20", 0.5), images()
    remove_channels(model, {"layer2.1.conv2": [0, 5]}, example_input=x, residual="scatter")
    groups = find_groups(model, x, residual=residual)
    assert "layer2.2.conv2" in groups.frozen
    assert "layer2.0.conv1" in {g.name for g in groups.groups}


class ReadTwice(nn.Module):
    """The branch's norm feeds the residual sum and, optionally, a side conv."""

    def __init__(self, twice: bool):
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.side, self.fc = nn.Conv2d(4, 3, 1), nn.Linear(7, 5)
        self.twice = twice

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.conv(x))
        return self.fc(torch.cat([x + y, self.side(y if self.twice else x)], 1).mean((2, 3)))


def test_a_branch_whose_norm_feeds_more_than_the_sum_is_frozen():
    x = torch.zeros(1, 3, 8, 8)
    once = find_groups(ReadTwice(False), x, residual="scatter")
    twice = find_groups(ReadTwice(True), x, residual="scatter")
    assert {g.name for g in once.groups} == {"conv", "side"}
    assert {g.name for g in twice.groups} == {"side"}
    assert twice.frozen["conv"] == "norm feeds more than the residual sum"


def test_a_plan_replays_on_a_fresh_model_and_its_weights_load():
    x = images()
    model = own_net("resnet20", 0.5)
    plans = [
        remove_channels(
            model, {"layer1.0.conv2": [k], "layer3.2.conv2": [k]}, example_input=x, residual="scatter"
        )
        for k in (1, 2)
    ]
    fresh = own_net("resnet20", 0.5, seed=9)
    for plan in plans:
        apply_plan(fresh, plan)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(x), model.eval()(x))


class Block(nn.Module):
    """A residual block whose last norm is of the given kind, for images of one, two or three dimensions."""

    def __init__(self, norm, conv=nn.Conv2d):
        super().__init__()
        self.stem, self.conv, self.norm = conv(3, 6, 3, padding=1), conv(6, 6, 3, padding=1), norm(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.fc((x + self.norm(self.conv(x))).relu().flatten(2).mean(2))


KINDS = {
    "sync": (nn.SyncBatchNorm, nn.Conv2d),
    "1d": (nn.BatchNorm1d, nn.Conv1d),
    "3d": (nn.BatchNorm3d, nn.Conv3d),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_batch_norm_can_scatter(kind):
    torch.manual_seed(0)
    model = lively(Block(*KINDS[kind]))
    shape = {"sync": (4, 3, 8, 8), "1d": (4, 3, 8), "3d": (4, 3, 4, 4, 4)}[kind]
    x = torch.randn(shape, dtype=torch.float64)
    for units in ([0, 3], [2]):
        plan = find_groups(model, x, residual="scatter").plan({"conv": units})
        difference, moved = removed_against_gated(model, plan, x)
        assert difference <= 1e-12 < moved
        apply_plan(model, plan)
    assert isinstance(model.norm, KINDS[kind][0])
    assert model.norm.scatter_index.tolist() == [1, 2, 5]


def test_a_synchronised_norm_keeps_its_group_of_processes():
    norm = nn.SyncBatchNorm(6)
    norm.process_group = "these"
    assert scattering(norm, 6).process_group == "these"


class Activated(nn.BatchNorm2d):
    """A norm that does more than a norm."""

    def forward(self, x):
        return super().forward(x).relu()


def test_a_norm_of_a_kind_of_its_own_is_not_replaced_but_freezes_its_branch():
    with pytest.raises(
        ModelError, match=r"conv: norm is an Activated, which cannot write into a wider stream"
    ):
        find_groups(lively(Block(Activated)), images(size=8), residual="scatter")
