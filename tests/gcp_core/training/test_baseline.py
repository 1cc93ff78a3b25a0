"""A baseline is training and nothing else: it asks nothing of the model that only pruning needs."""

import dataclasses

import pytest
from torch import nn

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ModelError
from gcp_core.records.checkpoint import load_model
from gcp_core.training import run_trial
from gcp_core.training.setup import check_config


def linear_only(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, num_classes))


CONFIG = TrialConfig(
    data=DataConfig(train_images=200),
    model=ModelConfig("tests.gcp_core.training.test_baseline:linear_only"),
    train=TrainConfig(epochs=2, batch_size=64),
    prune=PruneConfig("l1", interval=1, until=1.0),
)


def test_the_baseline_of_a_model_that_cannot_be_pruned_is_trained(tmp_path):
    baseline = CONFIG.baseline()
    result = run_trial(baseline, checkpoint_dir=tmp_path)
    assert (result.status, result.plans, result.finals["macs_removed"]) == ("complete", (), 0)
    assert [row.metrics["prune/channels_left"] for row in result.history] == [0, 0]
    assert load_model(tmp_path / "model")[1].out_features == 10


def test_pruning_it_is_refused():
    with pytest.raises(ModelError, match="the model has no prunable group"):
        run_trial(CONFIG)


def test_the_baseline_of_other_models_counts_what_could_be_pruned():
    config = dataclasses.replace(CONFIG, model=ModelConfig("vgg_tiny", 0.125)).baseline()
    assert run_trial(config).history[-1].metrics["prune/channels_left"] == 56


class Answers(nn.Module):
    """Logits in another form."""

    def __init__(self, num_classes, form):
        super().__init__()
        self.net, self.form = linear_only(num_classes, 1), form

    def forward(self, x):
        return self.form(self.net(x))


def in_a_dict(num_classes):
    return Answers(num_classes, lambda logits: {"logits": logits})


def beside_another(num_classes):
    return Answers(num_classes, lambda logits: (logits, logits))


def of_every_position(num_classes):
    return Answers(num_classes, lambda logits: logits[..., None])


def of_four_classes():
    return linear_only(4, 1)


@pytest.mark.parametrize(
    ("name", "returned"),
    [
        ("in_a_dict", "a dict"),
        ("beside_another", "a tuple"),
        ("of_every_position", r"a tensor of shape \(1, 10, 1\)"),
        ("of_four_classes", r"a tensor of shape \(1, 4\)"),
    ],
)
def test_a_model_that_gives_no_row_of_logits_is_refused_before_it_is_trained(name, returned):
    config = dataclasses.replace(CONFIG, model=ModelConfig(f"{__name__}:{name}")).baseline()
    with pytest.raises(ModelError, match=f"returns {returned} for one image, no row of 10 logits"):
        check_config(config)
