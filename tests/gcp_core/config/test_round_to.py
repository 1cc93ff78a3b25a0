"""``round_to: auto`` is a number as soon as there is a trial, the same wherever that is asked."""

import pytest

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError


@pytest.mark.parametrize(
    ("train", "multiple"),
    [
        ({}, 1),
        ({"precision": "bf16"}, 8),
        ({"precision": "fp16"}, 8),
        ({"tf32": True}, 8),
        ({"precision": "bf16", "device": "cpu"}, 1),
        ({"precision": "bf16", "device": "cuda:1"}, 8),
    ],
)
def test_auto_is_the_block_of_tensor_cores_where_training_uses_them(train, multiple):
    asked = TrialConfig(train=TrainConfig(**train), prune=PruneConfig(round_to="auto"))
    said = TrialConfig(train=TrainConfig(**train), prune=PruneConfig(round_to=multiple))
    assert asked.pruning.round_to == asked.pruning.multiple == multiple
    assert asked == said
    assert asked.key() == said.key()
    assert TrialConfig.from_dict(asked.to_dict()) == asked


def test_a_path_has_it_too():
    train = TrainConfig(schedule="cycles", precision="bf16")
    assert TrialConfig(train=train, prune=PruneConfig(start=4, round_to="auto")).pruning.round_to == 8


def test_other_words_are_refused():
    with pytest.raises(ConfigError, match=r"prune\.round_to: 'often' is not a whole number >= 1"):
        PruneConfig(round_to="often")
