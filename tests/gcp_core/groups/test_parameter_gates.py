"""A gate that is computed from a parameter follows the channels it scales."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gcp_core.groups import find_groups
from gcp_core.pruning.surgery import apply_plan
from tests.oracles.nets import images, lively, removed_against_gated

GATES = {
    "sigmoid": ((1, 8, 1, 1), lambda p, _: torch.sigmoid(p)),
    "a module's sigmoid": ((1, 8, 1, 1), lambda p, _: nn.Sigmoid()(p)),
    "scaled": ((8, 1, 1), lambda p, _: 2 * p.sigmoid() - 0.5),
    "hard": ((8, 1, 1), lambda p, _: F.relu6(p + 3) / 6),
    "clamped": ((8, 1, 1), lambda p, _: p.exp().clamp(0.1, 2)),
    "viewed": ((8,), lambda p, _: p.tanh().view(1, -1, 1, 1)),
    "indexed": ((8,), lambda p, _: p.sigmoid()[None, :, None, None]),
    "unsqueezed": ((8,), lambda p, _: p.unsqueeze(1).unsqueeze(2).sigmoid()),
    "two parameters": ((8, 1, 1), lambda p, q: p.sigmoid() * q),
    "as it is": ((8, 1, 1), lambda p, _: p),
}
FIXED = {
    "a softmax": ((8, 1, 1), lambda p, _: p.softmax(0)),
    "turned round": ((8,), lambda p, _: p.flip(0)[:, None, None]),
    "a fixed size": ((8,), lambda p, _: p.sigmoid().view(1, 8, 1, 1)),
    "reordered": ((8,), lambda p, _: p[torch.arange(7, -1, -1)][:, None, None]),
    "every second": ((16,), lambda p, _: p[::2][:, None, None]),
    "its own outer product": ((8, 1), lambda p, _: (p * p.t()).sum(1)[:, None, None]),
}


class Gated(nn.Module):
    """conv -> norm -> gate -> conv."""

    def __init__(self, shape, gate):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.last, self.fc = nn.Conv2d(8, 6, 3), nn.Linear(6, 5)
        self.p, self.q = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))
        self.gate = gate

    def forward(self, x):
        x = self.norm(self.first(x)) * self.gate(self.p, self.q)
        return self.fc(self.last(x).mean((2, 3)))


def gated(kind):
    torch.manual_seed(0)
    return lively(Gated(*kind))


@pytest.mark.parametrize("name", list(GATES))
def test_a_gate_made_of_a_parameter_loses_what_its_layer_loses(name):
    model, x = gated(GATES[name]), images(size=8)
    groups = find_groups(model, x)
    assert "first" not in groups.frozen
    plan = groups.plan({"first": [1, 4]})
    difference, moved = removed_against_gated(model, plan, x)
    assert difference <= 1e-12 < moved
    apply_plan(model, plan)
    assert model.p.numel() == 6
    assert model.q.numel() == (6 if name == "two parameters" else 8)
    model(x).sum().backward()
    assert model.p.grad.shape == model.p.shape


@pytest.mark.parametrize("name", list(FIXED))
def test_a_gate_that_does_not_follow_its_parameter_one_by_one_freezes_the_layer(name):
    groups = find_groups(gated(FIXED[name]), images(size=8))
    assert groups.frozen["first"] == "mul joins it with channels that are never removed"


def test_finding_groups_leaves_no_mark_on_the_parameters():
    model = gated(((1, 8, 1, 1), lambda p, _: p.contiguous().float().sigmoid()))
    before = dict(vars(model.p))
    find_groups(model, images(size=8))
    assert vars(model.p) == before
