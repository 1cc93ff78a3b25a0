"""What processes tell each other of their weights: quickly, and different where a bit is."""

import torch

from gcp_core.config import ModelConfig, TrainConfig, TrialConfig
from gcp_core.training.epoch import train_epoch
from gcp_core.training.setup import build_setup
from gcp_core.training.state import State
from gcp_core.training.team.mark import mark_of


def trained() -> State:
    """With momenta."""
    config = TrialConfig(model=ModelConfig("vgg_tiny", 0.125), train=TrainConfig(epochs=1), prune=None)
    state = State.fresh(build_setup(config))
    train_epoch(state.model, state.optimizer, state.setup, 1)
    return state


def test_a_mark_looks_once_at_a_device_and_not_once_per_tensor(monkeypatch):
    state, looks, real = trained(), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: looks.append(len(tensor)) or real(tensor))
    mark_of(state)
    weights = [tensor for tensor in state.model.state_dict().values() if tensor.numel()]
    momenta = len(list(state.model.parameters()))
    assert looks == [len(weights) + momenta]


def test_a_mark_differs_where_one_bit_of_a_weight_or_a_momentum_does():
    state = trained()
    before = mark_of(state)
    assert mark_of(state) == before
    parameter = list(state.model.parameters())[-1]
    for tensor in (parameter.data, state.optimizer.state[parameter]["momentum_buffer"]):
        bits = tensor.view(torch.int32)
        bits[0] ^= 1
        assert mark_of(state) != before
        bits[0] ^= 1
        assert mark_of(state) == before
