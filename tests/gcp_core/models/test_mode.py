"""Training and eval mode for a while."""

from __future__ import annotations

import pytest
from torch import nn

from gcp_core.models.mode import mode


@pytest.fixture
def model() -> nn.Sequential:
    """In training mode, with one norm that its owner froze."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout())).train()
    net[1].eval()
    return net


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [False, True])
def test_every_module_has_the_mode_for_a_while_and_then_its_own_again(model, training):
    before = modes(model)
    with mode(model, training) as same:
        assert same is model
        assert modes(model) == [training] * 5
    assert modes(model) == before == [True, True, False, True, True]


def test_the_modes_come_back_after_an_error(model):
    before = modes(model)
    with pytest.raises(ZeroDivisionError), mode(model, False):
        raise ZeroDivisionError
    assert modes(model) == before
