"""``given``: layers are left as wide as they are said to be, or the answer says why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gcp_core.allocators import Budget, build_allocator
from gcp_core.checkpoint import load_model
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.training import run_trial
from gcp_core.training.setup import check_config

EXAMPLE = torch.zeros(1, 3, 32, 32)
EVERYTHING = Budget(ratio=1.0, min_channels=1, min_share=0)


def cut(name, widths, budget=EVERYTHING, width=0.5):
    model = build_model(name, 10, width=width)
    groups = find_groups(model, EXAMPLE)
    build_allocator("given", {"widths": widths}).check(groups)
    scores = {
        layer: torch.rand(model.get_submodule(layer).weight.shape[0]) for layer in groups.scored_layers()
    }
    plan = select_channels(scores, groups, budget, build_allocator("given", {"widths": widths}))
    apply_plan(model, plan)
    model(EXAMPLE.expand(2, -1, -1, -1))
    return model, plan


def test_named_layers_are_left_as_wide_as_said_and_the_others_whole():
    model, plan = cut("vgg_tiny", {"features.0": 5, "features.10": 1})
    assert set(plan.removed) == {"features.0", "features.10"}
    assert model.features[0].out_channels == 5
    assert model.features[10].out_channels == 1
    assert model.features[3].out_channels == 16


def test_layers_that_share_their_units_are_named_together_or_one_for_all():
    full = build_model("resnet20", 10, width=0.5)
    shared = next(g for g in find_groups(full, EXAMPLE).groups if len(g.members) > 1)
    names = [member.layer for member in shared.members]
    for widths in ({names[0]: 3}, dict.fromkeys(names, 3)):
        model, _ = cut("resnet20", widths)
        assert {model.get_submodule(name).out_channels for name in names} == {3}
    with pytest.raises(
        ConfigError, match=rf"4: layer '{names[1]}' would be left with 3 of its 8 .*it shares units"
    ):
        cut("resnet20", {names[0]: 3, names[1]: 4})


class Padded(nn.Module):
    """A shortcut that is padded: 4 of the 8 channels of ``second`` are added to the stem's, the others to zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.second(x) + F.pad(x, (0, 0, 0, 0, 0, 4)))
        return self.head(x.mean((2, 3)))


class Joined(nn.Module):
    """``third`` has the units of ``first`` and those of ``second``."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 1)
        self.head = nn.Linear(10, 10)

    def forward(self, x):
        x = torch.cat([self.first(x), self.second(x)], 1) + self.third(x)
        return self.head(torch.relu(x).mean((2, 3)))


def left(model, widths):
    """Layer -> its width after a cut to these widths, checked before."""
    groups = find_groups(model, EXAMPLE)
    allocator = build_allocator("given", {"widths": widths})
    allocator.check(groups)
    scores = {layer: torch.rand(number) for layer, number in groups.scored_layers().items()}
    apply_plan(model, select_channels(scores, groups, EVERYTHING, allocator))
    model(EXAMPLE)
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


def test_channels_that_never_go_count():
    assert left(Padded(), {"second": 7}) == {"stem": 3, "second": 7}
    with pytest.raises(
        ConfigError, match=r"left with 4 of its 8 channels \(it is joined with channels that are never"
    ):
        left(Padded(), {"second": 1})


def test_a_layer_with_units_of_several_groups_is_what_the_others_make_of_it():
    assert left(Joined(), {"first": 2, "second": 5, "third": 7}) == {"first": 2, "second": 5, "third": 7}
    assert left(Joined(), {"first": 2}) == {"first": 2, "second": 6, "third": 8}
    for widths in ({"third": 7}, {"first": 2, "third": 7}):
        with pytest.raises(
            ConfigError, match=r"7: layer 'third' would be left with (10|8) of its 10 channels .*shares"
        ):
            left(Joined(), widths)


def test_floors_and_the_share_to_remove_stay_limits():
    model, _ = cut("vgg_tiny", {"features.0": 1}, Budget(ratio=1.0, min_channels=4, min_share=0))
    assert model.features[0].out_channels == 4
    _, plan = cut("vgg_tiny", {"features.0": 1}, Budget(count=2, min_channels=1, min_share=0))
    assert plan.num_units == 2


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"features.1": 3}, r": there is no layer 'features.1'"),
        ({"classifier.0": 3}, r": 3: layer 'classifier.0' would be left with 10 of its 10 channels"),
        ({"features.0": 17}, r": 17: layer 'features.0' would be left with 16 of its 16 channels"),
        ({"features.0": 0}, r".features.0: 0 is not a whole number >= 1"),
        ({"features.0": True}, r".features.0: True is not a whole number"),
        ([3, 4], r": \[3, 4\] is no mapping from layers to widths \(\{features.0: 24\}\)"),
        ({}, r": \{\} is no mapping from layers to widths"),
        (None, r": (None is no mapping|is required)"),
    ],
)
def test_what_cannot_be_is_refused_before_the_trial_starts(widths, message):
    options = {} if widths is None else {"widths": widths}
    with pytest.raises(ConfigError, match=f"prune.allocator_options.widths{message}"):
        check_config(with_widths(options, width=0.5))


@pytest.mark.parametrize("how", ["finish", "path"])
def test_events_that_go_on_until_a_cost_is_reached_are_refused(how):
    config = with_widths({"widths": {"features.0": 3}})
    if how == "finish":
        config = replace(config, prune=replace(config.prune, finish=True))
    else:
        cut = PruneConfig(
            allocator="given", allocator_options={"widths": {"features.0": 3}}, start=1, levels=(0.3,)
        )
        config = replace(config, train=replace(config.train, schedule="cycles"), prune=cut)
    with pytest.raises(
        ConfigError, match=r"prune.allocator: 'given' says what is left, but these events go on"
    ):
        check_config(config)


def with_widths(options, width=0.25):
    """A trial that is cut before its first epoch."""
    return TrialConfig(
        data=DataConfig("digits", val_share=0.25, train_images=96),
        model=ModelConfig("vgg_tiny", width),
        train=TrainConfig(epochs=2, batch_size=32),
        prune=PruneConfig(
            criterion="random",
            allocator="given",
            allocator_options=options,
            start=0,
            until=0,
            ratio=1.0,
            target=0.9,
            min_channels=1,
            min_share=0.0,
        ),
    )


def test_a_trial_is_cut_before_its_first_epoch(tmp_path):
    config = with_widths({"widths": {"features.0": 3, "features.7": 5}})
    result = run_trial(config, checkpoint_dir=tmp_path, latency=False)
    costs = {row.metrics["cost/macs"] for row in result.history}
    assert len(costs) == 1, "one width from the first epoch to the last"
    model = load_model(tmp_path / "model")
    assert [model.features[at].out_channels for at in (0, 3, 7)] == [3, 8, 5]
