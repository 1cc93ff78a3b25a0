"""Modules that are called more than once: what they read or make stays whole (that the rest can be removed, and what it
costs, is asked of these networks in ``test_operations.py``).
"""

import torch
from torch import nn

from gcp_core.groups import find_groups
from gcp_core.groups.trace import AGAIN
from gcp_core.relevance import feature_relevance_scores
from tests.oracles.nets import images, lively, removed_against_gated
from tests.oracles.shared_nets import SharedMlp, SharedNorm, TwoMlps
from tests.oracles.small_nets import Net, block

X = images(size=8)


def build(kind):
    torch.manual_seed(0)
    return lively(kind())


def test_the_reason_is_said_of_what_it_reads_and_of_what_it_makes():
    assert find_groups(build(SharedMlp), X).frozen == {
        "wide.0": AGAIN,
        "mlp.0": AGAIN,
        "mlp.2": AGAIN,
        "fc": "its channels are the model's output",
    }
    norm = find_groups(build(SharedNorm), X, residual="scatter")
    assert (norm.frozen["first"], norm.frozen["back"]) == (AGAIN, AGAIN)


def test_scores_are_those_of_the_network_with_a_module_for_each_call():
    torch.manual_seed(1)
    shared, twice = build(SharedMlp), build(TwoMlps)
    twice.load_state_dict(
        {**shared.state_dict(), **{f"other.{k}": v for k, v in shared.mlp.state_dict().items()}}
    )
    batches = [(X, torch.arange(len(X)) % 5)]
    ours, known = (
        feature_relevance_scores(net.eval(), batches, 5, layers=["stem.0", "out.0"])
        for net in (shared, twice)
    )
    for layer in ("stem.0", "out.0"):
        assert torch.allclose(ours[layer], known[layer], rtol=1e-12, atol=0)
        assert 0 < float(ours[layer].min()) < float(ours[layer].max())


class Scale(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.register_buffer("gain", gain)

    def forward(self, x):
        return x * self.gain


class SharedBuffer(Net):
    """Two layers of as many channels are scaled by the same tensor; a third by one whose module has two names."""

    def __init__(self):
        # In the type that the network will have: a change of type would make two of the one.
        gain = torch.rand(7, 1, 1, dtype=torch.float64) + 0.5
        super().__init__(6, one=Scale(gain), other=Scale(gain), own=Scale(gain[:6].clone()))
        self.first, self.second, self.third = block(8, 7), block(7, 7), block(7, 6)
        self.again = self.own

    def body(self, x):
        return self.own(self.third(self.other(self.second(self.one(self.first(x))))))


def test_channels_that_a_buffer_of_two_modules_scales_stay_whole():
    model = build(SharedBuffer)
    groups = find_groups(model, X)
    assert [group.name for group in groups.groups] == ["stem.0", "third.0"]
    assert groups.frozen["first.0"] == "mul joins it with channels that are never removed"
    difference, moved = removed_against_gated(model, groups.plan({"stem.0": [1], "third.0": [1, 4]}), X)
    assert difference <= 1e-12 < moved
