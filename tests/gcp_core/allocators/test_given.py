"""``given``: layers are left as wide as they are said to be, or the answer says why not."""

from __future__ import annotations

import pytest
import torch

from gcp_core.allocators import Budget, build_allocator
from gcp_core.checkpoint import load_model
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.training import run_trial

EXAMPLE = torch.zeros(1, 3, 32, 32)
EVERYTHING = Budget(ratio=1.0, min_channels=1, min_share=0)


def cut(name, widths, budget=EVERYTHING, width=0.5):
    model = build_model(name, 10, width=width)
    groups = find_groups(model, EXAMPLE)
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
    with pytest.raises(ConfigError, match="share their units, but not their widths"):
        cut("resnet20", {names[0]: 3, names[1]: 4})


def test_floors_and_the_share_to_remove_stay_limits():
    model, _ = cut("vgg_tiny", {"features.0": 1}, Budget(ratio=1.0, min_channels=4, min_share=0))
    assert model.features[0].out_channels == 4
    _, plan = cut("vgg_tiny", {"features.0": 1}, Budget(count=2, min_channels=1, min_share=0))
    assert plan.num_units == 2


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"features.1": 3}, "layer 'features.1' has no units that can be removed"),
        ({"classifier": 3}, "layer 'classifier' has no units that can be removed"),
        ({"features.0": 17}, r"17: layer 'features.0' has 16 channels \(1 to 16\)"),
        ({"features.0": 0}, r"widths.features.0: 0 is not a whole number >= 1"),
        ({"features.0": True}, r"widths.features.0: True is not a whole number"),
        ([3, 4], r"no mapping from layers to widths \(\{features.0: 24\}\)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_layer(widths, message):
    with pytest.raises(
        ConfigError, match=f"prune.allocator_options.widths.*{message.removeprefix('widths')}"
    ):
        cut("vgg_tiny", widths)


def test_a_trial_is_cut_before_its_first_epoch(tmp_path):
    widths = {"features.0": 3, "features.7": 5}
    config = TrialConfig(
        data=DataConfig("digits", val_share=0.25, train_images=96),
        model=ModelConfig("vgg_tiny", 0.25),
        train=TrainConfig(epochs=2, batch_size=32),
        prune=PruneConfig(
            criterion="random",
            allocator="given",
            allocator_options={"widths": widths},
            start=0,
            until=0,
            ratio=1.0,
            target=0.9,
            min_channels=1,
            min_share=0.0,
        ),
    )
    result = run_trial(config, checkpoint_dir=tmp_path, latency=False)
    costs = {row.metrics["cost/macs"] for row in result.history}
    assert len(costs) == 1, "one width from the first epoch to the last"
    model = load_model(tmp_path / "model")
    assert [model.features[at].out_channels for at in (0, 3, 7)] == [3, 8, 5]
