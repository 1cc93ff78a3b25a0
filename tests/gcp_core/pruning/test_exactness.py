"""One cut is tried before training: what is left computes what the whole network does with those channels at zero."""

import copy
import dataclasses
import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gcp_core.config import ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ModelError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning import exactness
from gcp_core.pruning.exactness import check_cuts, inexact_groups
from gcp_core.training.setup import check_config
from tests.oracles.size_nets import Scaled
from tests.oracles.small_nets import Net, block

X = torch.zeros(1, 3, 8, 8)


class ByAHalf(Scaled):
    def scaled(self, y):
        return y * (0.5 * y.shape[1])


class ByALogarithm(Scaled):
    def scaled(self, y):
        return y * math.log(y.shape[1])


class ByABranch(Scaled):
    def scaled(self, y):
        return y if y.shape[1] > 5 else 2 * y


class ByAnAttribute(Scaled):
    def scaled(self, y):
        return y * self.out[0].in_channels ** -0.5


class WrittenThroughAView(Scaled):
    def scaled(self, y):
        part = y[:, :, :4]
        part += 1.0
        return y


class BehindNothing(ByAHalf):
    """The norm behind begins at zero, as the last one of a residual branch does: nothing is seen of it at first."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.out[1].weight)


class BehindAHeadOfZeros(ByAHalf):
    """As Fixup and vision transformers begin: all logits are the head's bias."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.fc.weight)


class BehindAGainOfZero(ByAHalf):
    """As the branches of ReZero begin."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def body(self, x):
        return self.gain * super().body(x)


class InFloat32(ByAHalf):
    """It does not run in any other type."""

    def body(self, x):
        return super().body(x) + F.conv2d(x, torch.ones(6, 8, 1, 1))


class GainAndItsMean(Net):
    """A parameter that is cut, and the mean of what is left of it."""

    def __init__(self):
        super().__init__(6, mid=block(8, 7), out=block(7, 6))
        self.gain = nn.Parameter(torch.rand(7, 1, 1))

    def body(self, x):
        return self.out(self.mid(x) * self.gain * self.gain.sum())


class Exact(Scaled):
    def scaled(self, y):
        return y * 0.5


class Chance(Exact):
    """Other numbers at every pass."""

    def scaled(self, y):
        return y * torch.rand(()).item()


class ReadFromOutside(Exact):
    """The layers of ``mid`` are never called: there is nothing to put to zero."""

    def body(self, x):
        conv, norm = self.mid[0], self.mid[1]
        y = F.conv2d(x, conv.weight, padding=1)
        return self.out(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))


class ByAHalfBesideOneReadFromOutside(ByAHalf):
    def __init__(self):
        super().__init__()
        self.more = nn.Conv2d(8, 8, 1)

    def body(self, x):
        return super().body(F.conv2d(x, self.more.weight))


class WithItsHeadInAFunction(Exact):
    """A copy's function is the original's: so are the weights that it reads."""

    def __init__(self):
        super().__init__()
        self.head = lambda y: self.fc(y.mean((2, 3)))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class WithAGainInAFunction(Exact):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(7, 1, 1))
        self.more = lambda y: y * self.gain

    def scaled(self, y):
        return self.more(y)


class CountsUse(Exact):
    """How much each channel is used, in a buffer that only training looks at."""

    def __init__(self):
        super().__init__()
        self.register_buffer("use", torch.zeros(7))

    def scaled(self, y):
        if self.training:
            self.use += y.abs().mean((0, 2, 3))
        return y


class WantsLabels(Exact):
    """It cannot be trained with images alone, whole or not."""

    def forward(self, x, labels=None):
        return super().forward(x) if labels is not None or not self.training else labels["boxes"]


class WantsSeven(Exact):
    def scaled(self, y):
        assert y.shape[1] == 7, "seven are wanted"
        return y


class WantsFours(Net):
    def __init__(self):
        super().__init__(6, mid=block(8, 12), out=block(12, 6))

    def body(self, x):
        y = self.mid(x)
        assert y.shape[1] % 4 == 0, "fours are wanted"
        return self.out(y)


def by_a_half(num_classes, in_channels):
    model = ByAHalf()
    model.stem, model.fc = block(in_channels, 8), nn.Linear(6, num_classes)
    return model


def found(kind, **options):
    torch.manual_seed(0)
    model = kind()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    names = inexact_groups(model, find_groups(model, X), X, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return names


@pytest.mark.parametrize(
    "kind",
    [
        *(ByAHalf, ByALogarithm, ByABranch, ByAnAttribute, WrittenThroughAView, BehindNothing),
        *(InFloat32, GainAndItsMean, ByAHalfBesideOneReadFromOutside, BehindAHeadOfZeros, BehindAGainOfZero),
    ],
)
def test_a_layer_whose_cut_is_not_exact_is_named(kind):
    assert "mid.0" in found(kind)
    assert set(found(kind)) <= {
        "mid.0",
        "stem.0",
    }  # InFloat32 reads the stem with a weight of its own: it stays


@pytest.mark.parametrize(
    "kind", [Exact, Chance, ReadFromOutside, WithItsHeadInAFunction, WithAGainInAFunction, WantsLabels]
)
def test_exact_cuts_and_what_cannot_be_compared_name_nothing(kind):
    assert found(kind) == ()


@pytest.mark.parametrize("residual", ["coupled", "scatter"])
def test_the_cuts_of_a_residual_network_are_exact(residual):
    model = build_model("resnet20", 10, width=0.25)
    assert inexact_groups(model, find_groups(model, X, residual=residual), X) == ()


def test_a_network_that_does_not_run_with_fewer_channels_is_refused_before_the_training():
    with pytest.raises(ModelError, match=r"with half of its channels removed, .*seven are wanted"):
        found(WantsSeven)


def test_a_network_that_cannot_be_trained_with_fewer_channels_is_refused_before_the_training():
    with pytest.raises(ModelError, match=r"with half of its channels removed, in training mode, .*size"):
        found(CountsUse)
    torch.manual_seed(0)
    model = CountsUse()
    assert inexact_groups(model, find_groups(model, X, exclude=["mid.0"]), X) == ()


def test_what_is_left_is_a_multiple_where_multiples_are_left():
    with pytest.raises(ModelError, match="fours are wanted"):
        found(WantsFours)  # 6 of 12
    assert found(WantsFours, multiple=4) == ()


def test_the_warning_names_the_layers_and_the_remedy(caplog):
    model = ByAHalf()
    with caplog.at_level(logging.WARNING):
        assert check_cuts(model, find_groups(model, X), X) == ("mid.0",)
        assert check_cuts(model, find_groups(model, X, exclude=["mid.0"]), X) == ()
    assert len(caplog.messages) == 1
    assert "cuts of mid.0 are not exact" in caplog.text
    assert "prune.exclude" in caplog.text


def trial(**prune):
    return TrialConfig(
        model=ModelConfig("tests.gcp_core.pruning.test_exactness:by_a_half"),
        train=TrainConfig(epochs=2),
        prune=PruneConfig(
            **{"criterion": "l1", "start": 1, "interval": 1, "ratio": 0.2, "target": 0.1, "until": 1.0}
            | prune
        ),
    )


@pytest.mark.parametrize("exclude", [(), ("mid.0",)])
def test_a_trial_says_so_before_it_trains(caplog, exclude):
    check_config(trial(exclude=exclude))
    assert ("cuts of mid.0 are not exact" in caplog.text) == (not exclude)


def test_what_a_process_has_found_of_a_network_is_said_again_and_not_looked_for_again(monkeypatch, caplog):
    looked = []
    monkeypatch.setattr(exactness, "_found", {}, raising=False)
    monkeypatch.setattr(
        exactness,
        "inexact_groups",
        lambda *given, **more: looked.append(more) or inexact_groups(*given, **more),
    )
    usual = trial()
    for config, looks in (
        (usual, 1),
        (dataclasses.replace(usual, seed=1), 1),
        (trial(criterion="l2"), 1),
        (trial(exclude=("mid.0",)), 2),
        (trial(residual="inner"), 3),
        (trial(round_to=2), 4),
        (dataclasses.replace(usual, model=ModelConfig("vgg_tiny", 0.125)), 5),
        (dataclasses.replace(usual, model=ModelConfig("vgg_tiny", 0.25)), 6),
        (usual, 6),
    ):
        check_config(config)
        assert len(looked) == looks
    assert sum("cuts of mid.0 are not exact" in text for text in caplog.messages) == 6
