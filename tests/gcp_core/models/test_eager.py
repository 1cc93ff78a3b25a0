"""Without its shields against the compiler, torch does bit for bit the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gcp_core.models.eager import EagerMode, FlopCounter, eager

KINDS = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "fused": True}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.05, "fused": True}),
}  # fmt: skip


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def _trained(kind: type[torch.optim.Optimizer], keys: dict) -> tuple[dict, dict, bool]:
    """Weights and optimiser's state after six steps, with a second group, a state that is saved and read, and a hook."""
    model, hooked = _net(), []
    optimizer = kind(model[0].parameters(), **keys)
    optimizer.add_param_group({"params": list(model[4].parameters()), "lr": 0.01})
    optimizer.register_step_post_hook(lambda *_: hooked.append(torch.is_grad_enabled()))
    draw = torch.Generator().manual_seed(1)
    for step in range(6):
        images, labels = torch.randn(8, 3, 8, 8, generator=draw), torch.randint(5, (8,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if step == 2:
            state = optimizer.state_dict()
            optimizer = kind([{"params": group["params"]} for group in optimizer.param_groups], **keys)
            optimizer.load_state_dict(state)
    return model.state_dict(), optimizer.state_dict(), hooked == [True] * 3


@pytest.mark.parametrize("name", KINDS)
def test_an_optimiser_trains_to_the_same_bits(name):
    kind, keys = KINDS[name]
    weights, state, hooked = _trained(eager(kind), keys)
    wanted, known, also = _trained(kind, keys)
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted)
    assert state["param_groups"] == known["param_groups"]
    for place, held in known["state"].items():
        assert all(
            torch.equal(torch.as_tensor(state["state"][place][k]), torch.as_tensor(v))
            for k, v in held.items()
        )
    assert hooked
    assert also


def test_an_optimiser_is_of_the_kind_that_it_is_made_of():
    made = eager(torch.optim.SGD)([nn.Parameter(torch.zeros(2))], lr=0.1)
    assert isinstance(made, torch.optim.SGD)
    assert type(made).__name__ == "SGD"
    assert made.state_dict()["param_groups"][0]["lr"] == 0.1


def test_the_counter_counts_what_torchs_does_by_layer_too():
    model, image = _net().eval(), torch.zeros(1, 3, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as known:
        model(image)
    with torch.no_grad(), FlopCounter(display=False) as counter:
        model(image)
    assert counter.get_total_flops() == known.get_total_flops() > 0
    assert counter.get_flop_counts() == known.get_flop_counts()


def test_a_mode_is_called_as_it_is_written():
    seen = []

    class Watch(EagerMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func._overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.ones(2) + 1
    assert seen == ["ones", "add"]
