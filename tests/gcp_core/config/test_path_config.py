"""A path's configuration: what is refused and how, what makes two paths the same, and that older keys stay."""

import dataclasses
import json

import pytest

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError

C = TrialConfig


def path(*, seed=0, baseline_epochs=None, train=None, **prune):
    """A small path; ``train`` and ``prune`` override single values."""
    pruning = {"start": 4, "interval": 3, **prune}
    training = {"schedule": "cycles", **(train or {})}
    return C(
        seed=seed,
        baseline_epochs=baseline_epochs,
        train=TrainConfig(**training),
        prune=PruneConfig(**pruning),
    )


BAD = [
    (lambda: path(start=None), "prune.start", "is required with train.schedule: cycles", "for instance 4"),
    (lambda: path(until=0.5), "prune.until", "0.5 has no meaning", "target says how deep"),
    (lambda: path(until=12), "prune.until", "12 has no meaning", "target says how deep"),
    (lambda: path(count=7), "prune.count", "7 has no meaning", "ratio or levels say how much"),
    (lambda: path(finish=True), "prune.finish", "True has no meaning", "ratio or levels say how much"),
    (lambda: path(hidden_count=22), "prune.hidden_count", "22 has no meaning", "ratio or levels"),
    (
        lambda: path(train={"epochs": 3}),
        "train.epochs",
        "3 epochs are shorter than the dense phase",
        "prune.start (4); null",
    ),
    (lambda: C(train=TrainConfig(schedule="cycles"), prune=None), "prune", "a path prunes", "one_cycle"),
    (lambda: path(levels=(0.5, 0.3)), "prune.levels.1", "0.3 does not rise above 0.5", "[0.3, 0.5"),
    (lambda: path(levels=(0.3, 0.5, 0.5)), "prune.levels.2", "0.5 does not rise above 0.5", "[0.3, 0.5"),
    (lambda: path(levels=(0, 0.5)), "prune.levels.0", "0 is not a number in (0.0, 1.0]", ""),
    (lambda: path(levels=(0.5, 1.0)), "prune.levels.1", "1.0 would remove everything", "below 1"),
    (lambda: path(levels=(0.5, 1.5)), "prune.levels.1", "1.5 is not a number", ""),
    (lambda: path(levels=(float("nan"),)), "prune.levels.0", "nan is not a number", ""),
    (lambda: path(levels=(True,)), "prune.levels.0", "True is not a number", ""),
    (lambda: path(levels=("half",)), "prune.levels.0", "'half' is not a number", ""),
    (lambda: path(levels=()), "prune.levels", "() is no list of shares", "[0.3, 0.5"),
    (lambda: path(levels=0.5), "prune.levels", "0.5 is no list of shares", "[0.3, 0.5"),
    (lambda: path(levels="0.5"), "prune.levels", "'0.5' is no list of shares", "[0.3, 0.5"),
    (lambda: path(levels=(0.5,), ratio=0.3), "prune.levels", "levels and ratio cannot both", "ratio to null"),
    (
        lambda: path(levels=(0.5,), ratio_of="cost"),
        "prune.levels",
        "levels and ratio_of cannot both",
        "ratio_of to null",
    ),
    (
        lambda: path(levels=(0.5,), target=0.8),
        "prune.levels",
        "levels and target cannot both be given",
        "ends at the last level",
    ),
    (lambda: path(ratio_of="units of cost"), "prune.ratio_of", "'units of cost' is unknown", "cost, units"),
    (lambda: path(train={"restart": 0.0}), "train.restart", "0.0 is not a number in (0.0, 1.0]", ""),
    (lambda: path(train={"restart": -0.5}), "train.restart", "-0.5 is not a number", ""),
    (lambda: path(train={"restart": 1.01}), "train.restart", "1.01 is not a number", ""),
    (lambda: path(train={"restart": float("nan")}), "train.restart", "nan is not a number", ""),
    (lambda: path(train={"pace": ""}), "train.pace", "'' is not a pace's name", ""),
    (lambda: path(train={"pace": 3}), "train.pace", "3 is not a pace's name", ""),
    (lambda: path(baseline_epochs=0), "baseline.epochs", "0 is not a whole number >= 1", ""),
    # What only paths have, in a single trial.
    (lambda: TrainConfig(restart=0.5), "train.restart", "0.5: only cycles have it", "train.schedule: cycles"),
    (
        lambda: TrainConfig(schedule="step", pace="slow_start"),
        "train.pace",
        "'slow_start': only cycles have it",
        "train.schedule: cycles",
    ),
    (
        lambda: C(prune=PruneConfig(levels=(0.3,))),
        "prune.levels",
        "(0.3,): only paths have it",
        "train.schedule: cycles",
    ),
    (
        lambda: C(prune=PruneConfig(ratio_of="cost")),
        "prune.ratio_of",
        "'cost': only paths have it",
        "train.schedule: cycles",
    ),
    (lambda: C(prune=PruneConfig(until=None)), "prune.until", "None: only paths have it", "1.0"),
    (
        lambda: TrainConfig(schedule="cycle", restart=0.5),
        "train.schedule",
        "'cycle'",
        'did you mean "cycles"',
    ),
    (
        lambda: C.from_dict({"prune": {"level": [0.3]}}),
        "prune.level",
        "unknown key (value [0.3])",
        'did you mean "levels"',
    ),
]


@pytest.mark.parametrize(("build", "where", "message", "hint"), BAD)
def test_what_cannot_be_a_path_is_refused_with_its_place_its_value_and_a_way_out(build, where, message, hint):
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.where == where
    assert message in caught.value.message
    assert hint in caught.value.hint


# --- what is filled in --------------------------------------------------------------------------------------------


def test_what_nobody_said_is_filled_in():
    plain = path()
    assert (plain.prune.ratio, plain.prune.ratio_of, plain.prune.target) == (0.2, "cost", 0.5)
    assert (plain.prune.until, plain.train.epochs) == (None, None)
    listed = path(levels=[0.3, 0.5])
    assert (listed.prune.levels, listed.prune.ratio, listed.prune.ratio_of) == ((0.3, 0.5), None, None)
    assert (listed.prune.target, listed.prune.depth()) == (None, 0.5)
    assert TrainConfig().epochs == 20


def test_the_defaults_of_single_trials_count_as_not_said():
    assert path(until=0.75) == path()
    assert path(levels=(0.3,), target=0.5) == path(levels=(0.3,), target=None) == path(levels=(0.3,))


def test_a_ratio_of_units_is_what_a_single_trial_means_anyway():
    one, other = C(), C(prune=PruneConfig(ratio_of="units"))
    assert (one, one.key()) == (other, other.key())


@pytest.mark.parametrize(
    "config",
    [
        path(),
        path(levels=(0.3, 0.5), baseline_epochs=9),
        path(ratio_of="units", target=None, train={"epochs": 9, "pace": "slow_start", "restart": 0.5}),
    ],
)
def test_a_path_survives_the_round_trip_through_json(config):
    assert C.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# --- levels -------------------------------------------------------------------------------------------------------

# ratio or levels, share removed so far -> the next level
NEXT = [
    ({"ratio": 0.5}, 0.0, 0.5),
    ({"ratio": 0.5}, 0.49, 0.5),
    ({"ratio": 0.5}, 0.5, 0.75),  # exactly at a level: the next one
    ({"ratio": 0.5}, 0.6, 0.75),
    ({"ratio": 0.5}, 0.9, 0.9375),  # 0.875 was passed by the way
    ({"ratio": 0.3}, 1 - 0.7**2, 1 - 0.7**3),
    ({"ratio": 0.1}, 1 - 0.9**30, 1 - 0.9**31),
    ({"ratio": 0.01}, 1 - 0.99**300, 1 - 0.99**301),
    ({"ratio": 1.0}, 0.2, 1.0),
    ({"ratio": 0.5}, 1.0, None),
    ({"levels": (0.3, 0.5, 0.9)}, 0.0, 0.3),
    ({"levels": (0.3, 0.5, 0.9)}, 0.3, 0.5),
    ({"levels": (0.3, 0.5, 0.9)}, 0.55, 0.9),
    ({"levels": (0.3, 0.5, 0.9)}, 0.9, None),
    ({"ratio": 0.5, "ratio_of": "units"}, 0.2, None),
]


@pytest.mark.parametrize(("values", "removed", "expected"), NEXT)
def test_the_next_level_is_the_first_one_that_is_not_reached_yet(values, removed, expected):
    found = path(target=None, **values).prune.next_level(removed)
    assert found is expected if expected is None else found == pytest.approx(expected, abs=1e-12)


# --- the same path or another -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "same",
    [
        path(target=0.95),
        path(target=None),
        path(train={"epochs": 4}),
        path(train={"epochs": 40}),
        path(baseline_epochs=30),
        path(ratio=0.2, ratio_of="cost", until=None, train={"restart": 1.0, "pace": "linear"}),
        dataclasses.replace(path(), threads=3),
    ],
)
def test_how_deep_a_path_goes_and_what_it_is_compared_with_is_no_part_of_it(same):
    assert (same.key(), same.config_id()) == (path().key(), path().config_id())


def test_paths_that_differ_have_different_keys():
    others = [
        path(),
        path(start=5),
        path(interval=2),
        path(ratio=0.3),
        path(ratio_of="units"),
        path(levels=(0.2, 0.36)),
        path(levels=(0.2, 0.36, 0.5)),
        path(of="params"),
        path(min_share=0.03),
        path(criterion="l1"),
        path(train={"restart": 0.5}),
        path(train={"pace": "slow_start"}),
        path(train={"lr": 0.05}),
        path(train={"warmup": 0.5}),
        C(prune=PruneConfig(start=4, interval=3)),
        path().baseline(),
        path(baseline_epochs=5).baseline(),
    ]
    assert len({config.key() for config in others}) == len(others)
    assert len({config.config_id() for config in others}) == len(others)


def test_seeds_share_the_config_id_and_not_the_key():
    one, two = path(seed=1), path(seed=2)
    assert one.config_id() == two.config_id()
    assert one.key() != two.key()


def test_a_baseline_is_trained_one_cycle_for_as_long_as_it_is_told():
    config = path(baseline_epochs=15, train={"restart": 0.5, "pace": "slow_start", "epochs": 40, "lr": 0.05})
    own = config.baseline()
    assert (own.prune, own.is_path, own.baseline_epochs) == (None, False, None)
    assert own.train == TrainConfig(epochs=15, lr=0.05)
    assert path().baseline() == path().dense_phase() == C(train=TrainConfig(epochs=4), prune=None)
    assert config.dense_phase().train.epochs == 4
    assert own.baseline() == own, "a baseline is its own"


#: Computed by the code before there were paths: config, key, config_id.
BEFORE = [
    (C(), "70cc94c56aeb", "e9a76e0a9d06"),
    (C(prune=None), "80d982921d5f", "b87fab5e671c"),
    (C(seed=3, train=TrainConfig(epochs=12, lr=0.05, batch_size=64)), "16111c1d14ae", "eca19a93fc77"),
    (
        C(
            model=ModelConfig("resnet20", 0.5),
            prune=PruneConfig(start=3, interval=3, ratio=0.3, target=0.8, until=1.0),
        ),
        "d3c521d4f023",
        "759d59482725",
    ),
    (
        C(prune=PruneConfig(count=7, hidden_count=22, target=None, until=150)),
        "0205334d1e0e",
        "a183b22cc853",
    ),
    (
        C(
            data=DataConfig("digits", val_share=0.25),
            train=TrainConfig(epochs=6, schedule="step", milestones=(3, 5)),
            prune=PruneConfig(criterion="l1", round_to=4),
        ),
        "c29cba40f3e2",
        "45a3c5907082",
    ),
    (C(prune=PruneConfig(until=0.5, exclude=("features.0",))), "9f8f0d2006d9", "255e1382b526"),
    (
        C(train=TrainConfig(schedule="cosine", optimizer="adamw", lr=0.001)).baseline(),
        "1e4ae50fa51e",
        "6a20c92a63c2",
    ),
]


@pytest.mark.parametrize(("config", "key", "config_id"), BEFORE)
def test_single_trials_and_baselines_keep_the_keys_they_had_before_there_were_paths(config, key, config_id):
    assert (config.key(), config.config_id()) == (key, config_id)
    again = C.from_dict(config.to_dict())
    assert (again.key(), again.config_id()) == (key, config_id)
