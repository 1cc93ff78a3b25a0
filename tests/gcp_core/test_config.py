"""The trial's configuration checks itself and names what is wrong."""

import pickle
from pathlib import Path

import pytest

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError, InfeasibleTarget

BAD = [
    (lambda: TrainConfig(epochs=0), "train.epochs: 0 is not a whole number >= 1"),
    (lambda: TrainConfig(epochs=True), "train.epochs: True is not"),
    (lambda: TrainConfig(lr=-0.1), "train.lr: -0.1 is not a number in (0.0, inf)"),
    (lambda: TrainConfig(lr=float("nan")), "train.lr: nan is not"),
    (lambda: TrainConfig(schedule="one-cycle"), 'did you mean "one_cycle"?'),
    (lambda: TrainConfig(nesterov=True, momentum=0.0), "train.nesterov"),
    (lambda: TrainConfig(optimizer="adagrad"), "train.optimizer: 'adagrad' is unknown (allowed: adamw, sgd)"),
    (lambda: TrainConfig(milestones=(0.5, 1.5)), "train.milestones.1: 1.5 is neither an epoch nor a share"),
    (lambda: TrainConfig(milestones=(-1,)), "train.milestones.0: -1 is not a number in [0.0, inf)"),
    (lambda: PruneConfig(target=1.0), "prune.target: 1.0 would remove everything"),
    (lambda: PruneConfig(target=1.5), "prune.target: 1.5 is not a number in (0.0, 1.0]"),
    (lambda: PruneConfig(ratio=0.2, count=3), "ratio and count cannot both be given"),
    (lambda: PruneConfig(hidden_count=True), "prune.hidden_count: True is not a whole number >= 1"),
    (lambda: PruneConfig(of="mac"), 'did you mean "macs"?'),
    (lambda: PruneConfig(until=0), "prune.until: 0 is not a whole number >= 1"),
    (lambda: PruneConfig(until=1.5), "prune.until: 1.5"),
    (lambda: PruneConfig(residual="scattered"), 'did you mean "scatter"?'),
    (lambda: PruneConfig(scoring_images="all"), "prune.scoring_images"),
    (lambda: DataConfig(val_share=0.0), "data.val_share"),
    (lambda: ModelConfig(width=0), "model.width"),
    (lambda: TrialConfig.from_dict({"prune": {"intervall": 3}}), "prune.intervall: unknown key (value 3)"),
    (lambda: TrialConfig.from_dict({"prune": {"intervall": 3}}), 'did you mean "interval"?'),
    (lambda: TrialConfig.from_dict({"train": None}), "train: None is not a mapping of keys"),
    (lambda: DataConfig("parquet", path=3), "data.path: 3 is not a path"),
    (lambda: ModelConfig(weights=["a.pt"]), "model.weights: ['a.pt'] is not a path"),
    (lambda: PruneConfig(exclude="fc"), "prune.exclude: 'fc' is no list of patterns (['fc'])"),
    (lambda: PruneConfig(options={"seen": {1, 2}}), "prune.options: holds what is no plain value"),
]


@pytest.mark.parametrize(("build", "text"), BAD)
def test_a_bad_value_is_refused_with_its_path_and_what_is_allowed(build, text):
    with pytest.raises(ConfigError) as caught:
        build()
    assert text in str(caught.value)


def test_a_configuration_survives_the_round_trip_through_plain_values():
    config = TrialConfig(
        seed=3, prune=PruneConfig(exclude=("layer1.*",), count=7, options={"read": "branch"})
    )
    assert TrialConfig.from_dict(config.to_dict()) == config
    assert TrialConfig.from_dict(config.baseline().to_dict()).prune is None


def test_a_path_may_be_given_as_one_and_is_the_same_trial():
    """A key, and every file that a trial leaves, is made of plain values."""
    given = TrialConfig(
        data=DataConfig("parquet", path=Path("/set")), model=ModelConfig(weights=Path("w.pt"))
    )
    text = TrialConfig(data=DataConfig("parquet", path="/set"), model=ModelConfig(weights="w.pt"))
    assert given == text
    assert given.key() == text.key()


def test_config_id_ignores_the_seed_and_the_key_does_not():
    one, two = TrialConfig(seed=1), TrialConfig(seed=2)
    assert one.config_id() == two.config_id()
    assert one.key() != two.key()
    assert one.key() == TrialConfig(seed=1, threads=2).key()


@pytest.mark.parametrize(
    "handling",
    [{"streaming": True}, {"memory_gib": 0.5}, {"workers": 0}, {"download": True}],
    ids=lambda options: next(iter(options)),
)
def test_how_images_are_read_is_no_part_of_a_trials_identity(handling):
    plain, other = TrialConfig(), TrialConfig(data=DataConfig(**handling))
    assert other != plain
    assert (other.key(), other.config_id()) == (plain.key(), plain.config_id())
    assert TrialConfig.from_dict(other.to_dict()) == other


@pytest.mark.parametrize(
    "config",
    [
        TrialConfig(data=DataConfig("parquet", path="/elsewhere")),
        TrialConfig(data=DataConfig(augment="none")),
        TrialConfig(train=TrainConfig(precision="bf16")),
        TrialConfig(prune=PruneConfig(hidden_count=22)),
        TrialConfig(prune=PruneConfig(options={"read": None})),
        TrialConfig(prune=None),
    ],
)
def test_whatever_can_change_the_result_is_part_of_the_identity(config):
    assert config.key() != TrialConfig(data=DataConfig(config.data.name)).key()
    assert config.config_id() != TrialConfig(data=DataConfig(config.data.name)).config_id()


def test_a_key_stays_what_it_was_when_fields_with_a_null_default_are_added():
    """Keys of the first version: results and ledgers written by it are still found."""
    assert TrialConfig().key() == "70cc94c56aeb"
    assert TrialConfig(seed=3).key() == "67ba116bd395"


def test_ratio_defaults_only_when_no_count_is_given():
    assert PruneConfig().ratio == 0.2
    assert PruneConfig(count=5).ratio is None


def test_errors_keep_their_fields_through_pickle():
    error = InfeasibleTarget("too much", "prune.target", "lower it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InfeasibleTarget
    assert (again.message, again.where, again.hint) == ("too much", "prune.target", "lower it")
    assert str(again) == "prune.target: too much (lower it)"
