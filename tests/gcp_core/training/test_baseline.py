"""A baseline is training and nothing else: it asks nothing of the model that only pruning needs."""

import dataclasses

import pytest
import torch
from torch import nn

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ModelError
from gcp_core.records.checkpoint import load_model
from gcp_core.training import run_trial
from gcp_core.training.evaluation import check_logits
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
        ("beside_another", r"a tuple of a tensor of shape \(1, 10\), a tensor of shape \(1, 10\)"),
        ("of_every_position", r"a tensor of shape \(1, 10, 1\)"),
        ("of_four_classes", r"a tensor of shape \(1, 4\)"),
    ],
)
def test_a_model_that_gives_no_row_of_logits_is_refused_before_it_is_trained(name, returned):
    config = dataclasses.replace(CONFIG, model=ModelConfig(f"{__name__}:{name}")).baseline()
    with pytest.raises(ModelError, match=f"returns {returned} for one image, no row of 10 logits"):
        check_config(config)


class WhileTraining(nn.Module):
    """Logits in eval mode; ``form`` says what it makes of them while it trains."""

    def __init__(self, num_classes, in_channels, form):
        super().__init__()
        self.net, self.form = linear_only(num_classes, in_channels), form
        self.norm = nn.BatchNorm1d(num_classes)

    def forward(self, x):
        logits = self.norm(self.net(x))
        return self.form(logits) if self.training else logits


def needs_targets(logits):
    raise ValueError("targets should not be none when in training mode")


def parts_of_a_batch(logits):
    return logits.view(-1, 32, 10).flatten(0, 1)


FORMS = {
    "a_dict": lambda logits: {"logits": logits},
    "a_string": lambda logits: "logits",
    "features_beside": lambda logits: (logits, logits[:, :4]),
    "nothing_at_all": lambda logits: (None, []),
    "needs_targets": needs_targets,
    "heads": lambda logits: (logits, [None, logits, (logits,)]),
    "parts_of_a_batch": parts_of_a_batch,
}


def training_returns(name):
    """A factory of this module that is named in a config."""
    globals()[name] = lambda num_classes, in_channels: WhileTraining(num_classes, in_channels, FORMS[name])
    return dataclasses.replace(CONFIG, model=ModelConfig(f"{__name__}:{name}")).baseline()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a_dict", "returns a dict for 2 images, no row of 10 logits for each"),
        ("a_string", "returns a str for 2 images"),
        (
            "features_beside",
            r"returns a tuple of a tensor of shape \(2, 10\), a tensor of shape \(2, 4\) for 2",
        ),
        ("nothing_at_all", "returns a tuple"),
        (
            "needs_targets",
            r", the model does not run on an input of shape \(64, 1, 8, 8\): targets should not be",
        ),
    ],
)
def test_a_model_that_gives_no_logits_while_it_trains_is_refused_before_it_is_trained(name, said):
    with pytest.raises(ModelError, match=f"in training mode.*{said}") as caught:
        check_config(training_returns(name))
    assert caught.value.where == "model.name"


@pytest.mark.parametrize("name", ["heads", "parts_of_a_batch"])
def test_auxiliary_heads_and_networks_that_need_a_whole_batch_to_train_are_taken(name):
    check_config(training_returns(name))


def test_looking_at_a_model_in_training_mode_leaves_nothing_behind():
    model = WhileTraining(10, 1, FORMS["heads"]).eval()
    before, drawn = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    check_logits(model, torch.ones(1, 1, 8, 8), 10, batch=64)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not any(module.training for module in model.modules())
