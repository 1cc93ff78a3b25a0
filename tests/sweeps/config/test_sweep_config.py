"""Every mistake in a config is one error that names path, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.paths import is_of_paths
from sweeps.config.sweep_config import differences, load_config, load_trial

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "configs" / "digits_single.yaml"
A_FILE_URL = (ROOT / "runs").as_uri()


def _error(overrides: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, overrides)
    return str(caught.value)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"prune.intervall": 3}, 'prune.intervall: unknown key (value 3) (did you mean "interval"?)'),
    ({"interval": 3}, 'interval: unknown key (value 3) (did you mean "prune.interval"?)'),
    ({"train.lr": "fast"}, "train.lr: 'fast' is not a number"),
    ({"train.lr": True}, "train.lr: True is not a number"),
    ({"train.epochs": True}, "train.epochs: True is not a whole number"),
    ({"train.epochs": 1.5}, "train.epochs: 1.5 is not a whole number"),
    ({"train.epochs": 0}, "train.epochs: 0 is not a whole number >= 1"),
    ({"train.nesterov": 1}, "train.nesterov: 1 is not true or false"),
    ({"train.milestones": [0.5, "late"]}, "train.milestones.1: 'late' is not a number"),
    ({"prune.of": "mac"}, "prune.of: 'mac' is unknown (did you mean \"macs\"?)"),
    ({"prune.of": {"choice": ["macs", "prams"]}}, "prune.of: 'prams' is unknown (did you mean \"params\"?)"),
    ({"prune.ratio": {"low": 0.4, "high": 0.1}}, "prune.ratio: inverted range: low 0.4 is above high 0.1"),
    (
        {"prune.ratio": {"low": 0.4, "high": 0.4}},
        "prune.ratio: empty range: low and high are both 0.4 (give the value itself)",
    ),
    (
        {"prune.ratio": {"choice": []}},
        "prune.ratio.choice: [] is an empty range (a list of at least one value)",
    ),
    ({"prune.ratio": {"choice": 0.3}}, "prune.ratio.choice: 0.3 is not a list (for instance"),
    ({"prune.ratio": {"choice": "0.1, 0.2"}}, "prune.ratio.choice: '0.1, 0.2' is not a list (for instance"),
    ({"prune.ratio": {"choice": [0.1], "low": 0.1}}, "prune.ratio: choice cannot be combined with low"),
    ({"prune.ratio": {"choice": [0.1, "much"]}}, "prune.ratio.choice.1: 'much' is not a number or null"),
    ({"prune.ratio": {"choice": [0.1, 0.1]}}, "prune.ratio.choice.1: 0.1 is given twice"),
    (
        {"prune.ratio": {"low": 0.1, "hihg": 0.4}},
        'prune.ratio.hihg: unknown key (value 0.4) (did you mean "high"?)',
    ),
    (
        {"prune.ratio": {"low": 0.1, "high": 0.4, "step": 0.5}},
        "prune.ratio.step: step 0.5 is not in (0, high - low]",
    ),
    ({"prune.ratio": {"low": 0.1, "high": "x"}}, "prune.ratio.high: 'x' is not a number"),
    (
        {"train.lr": {"low": 0.1, "high": float("inf")}},
        "train.lr.high: inf is no end of a range (a finite number)",
    ),
    ({"train.lr": {"low": float("nan"), "high": 0.1, "step": 0.1}}, "train.lr.low: nan is no end of a range"),
    (
        {"resources.hang_minutes": float("inf")},
        "resources.hang_minutes: inf is not a number > 0 (longer than",
    ),
    ({"train.lr": {"low": 0.0, "high": 0.1, "log": True}}, "train.lr: a log range needs low > 0 and no step"),
    ({"prune.criterion": {"low": 1, "high": 2}}, "prune.criterion: only {choice: [..]} is possible here"),
    ({"prune.count": 3}, "prune: ratio and count cannot both be given (set one of them to null)"),
    ({"search.concurrency": {"choice": [1, 2]}}, "search.concurrency: cannot be searched (give one value)"),
    ({"search.trials": 0}, "search.trials: 0 is not a whole number >= 1 (a sweep needs at least one trial)"),
    ({"search.sampler": "tpee"}, "search.sampler: 'tpee' is unknown (did you mean \"tpe\"?)"),
    ({"search.objectives": {"macs": "low"}}, "search.objectives.macs: 'low' is unknown (allowed: max, min)"),
    (
        {"search.objectives": {"test_accuracy": "max"}},
        "search.objectives.test_accuracy: the search must not use the test split (use val_accuracy)",
    ),
    ({"search.constraints": ["mac <= 2"]}, "search.constraints.0: 'mac' is unknown (did you mean \"macs\"?)"),
    ({"search.points": [{"prune.interval": 9}]}, "search.points.prune.interval: 9 is outside the range"),
    (
        {"train.nesterov": True, "train.momentum": {"choice": [0.9, 0.0]}},
        "train.nesterov: nesterov needs a momentum above 0 (at the point",
    ),
    (
        {
            "train.nesterov": {"choice": [False, True]},
            "train.momentum": {"choice": [0.9, 0.0, 0.8]},
            "search.points": [{"train.nesterov": True, "train.momentum": 0.0}],
        },
        "train.nesterov: nesterov needs a momentum above 0 (at the point",
    ),
    ({"resources.gpus": "one"}, "resources.gpus: 'one' is not a number"),
    ({"storage": "s3://bucket/team"}, "ledger: is required when storage is an object store"),
    ({"storage": "s3://", "ledger": "here"}, "storage: 's3://' has no bucket name"),
    ({"storage": A_FILE_URL, "ledger": "here"}, f"storage: {A_FILE_URL!r} is a folder"),
    (
        {"storage": "s3://key:word@bucket/team", "ledger": "here"},
        "storage: holds a password, which would be copied",
    ),
    ({"ledger": "here"}, "ledger: 'here' is not a database URL"),
    ({"name": "../elsewhere"}, "name: '../elsewhere' is not a valid sweep name"),
    ({"data": 3}, "data: 3 is not a section (data: {key: value})"),
]


@pytest.mark.parametrize(
    ("overrides", "expected"), MISTAKES, ids=[next(iter(m[0])) + str(i) for i, m in enumerate(MISTAKES)]
)
def test_a_mistake_is_named_with_path_value_and_remedy(overrides: dict[str, Any], expected: str) -> None:
    assert _error(overrides).startswith(expected)


def test_a_refused_end_of_a_range_says_at_which_point_it_was_met() -> None:
    assert _error({"prune.ratio": {"low": 0.1, "high": 1.4}}) == (
        "prune.ratio: 1.4 is not a number in (0.0, 1.0] "
        "(at the point prune.interval=4, prune.ratio=1.4, prune.target=0.95)"
    )


def test_any_leaf_may_be_a_range() -> None:
    config = load_config(
        DEMO,
        {
            "seed": {"choice": [0, 1, 2]},
            "model.width": {"low": 0.25, "high": 1.0, "step": 0.25},
            "train.milestones": {"choice": [[0.5], [0.25, 0.75]]},
            "train.lr": {"low": 1e-3, "high": 0.1, "log": True},
            "prune.options": {"read": {"choice": ["sum", "branch"]}},
        },
    )
    searched = {d.path for d in config.space.dimensions}
    assert {"seed", "model.width", "train.milestones", "train.lr", "prune.options.read"} <= searched
    trial = config.space.resolve({**config.space.first(), "train.milestones": [0.25, 0.75], "seed": 2})
    assert (trial.seed, trial.train.milestones, trial.prune.options) == (2, (0.25, 0.75), {"read": "sum"})


def test_until_is_searched_in_epochs_or_in_shares_by_the_type_of_its_ends() -> None:
    def until(low: float, high: float) -> list[type]:
        config = load_config(DEMO, {"prune.until": {"low": low, "high": high}})
        dimension = next(d for d in config.space.dimensions if d.path == "prune.until")
        return [type(value) for value in dimension.extremes()]

    assert until(8, 12) == [int, int]
    assert until(0.5, 0.75) == [float, float]


def test_the_single_trials_of_the_digits_have_4_times_4_times_14_points_and_24_trials() -> None:
    config = load_config(DEMO)
    assert (config.space.size(), config.num_trials()) == (4 * 4 * 14, 24)


def test_a_whole_number_is_welcome_where_a_number_is_asked_for_and_means_the_same_trial() -> None:
    whole, real = (load_trial(DEMO, {"train.lr": value}) for value in (1, 1.0))
    assert whole.key() == real.key()


def test_cpus_of_a_trial_are_its_threads() -> None:
    assert load_trial(DEMO, {"resources.cpus": 2}).threads == 2


def test_only_budget_resources_and_tracking_may_change_between_two_runs() -> None:
    old = load_config(DEMO).tree
    allowed = {
        "search.trials": 99,
        "search.concurrency": 7,
        "resources.gpus": 0.5,
        "tracking.uri": "http://x:1",
    }
    assert differences(old, load_config(DEMO, allowed).tree) == []
    assert differences(old, load_config(DEMO, {"train.lr": 0.2}).tree) == ["train.lr: 0.1 -> 0.2"]
    assert differences(old, load_config(DEMO, {"prune.interval": 2}).tree) == [
        "prune.interval: (not there) -> 2",
        "prune.interval.choice: [1, 2, 3, 4] -> (not there)",
    ]


def test_until_that_changes_from_all_epochs_to_the_first_one_is_a_difference() -> None:
    def tree(until: Any) -> dict[str, Any]:
        return load_config(DEMO, {"prune.until": until}).tree

    assert differences(tree(1.0), tree(1)) == ["prune.until: 1.0 -> 1"]
    assert differences(tree({"choice": [0.5, 1.0]}), tree({"choice": [0.5, 1]})) == [
        "prune.until.choice: [0.5, 1.0] -> [0.5, 1]"
    ]
    assert differences(tree(1.0), tree(1.0)) == []
    assert differences(tree({"low": 0.5, "high": 1.0}), tree({"low": 0.5, "high": 1})) == [], "a share"
    whole, real = (load_config(DEMO, {"train.lr": value}).tree for value in (1, 1.0))
    assert differences(whole, real) == []


def test_a_point_does_not_name_the_first_epoch_where_all_of_them_are_fixed() -> None:
    point = {"search.points": [{"prune.until": 1}]}
    assert load_config(DEMO, {"prune.until": 1, **point}).search.points == ({"prune.until": 1},)
    assert _error({"prune.until": 1.0, **point}) == (
        "search.points.prune.until: 1 is not the fixed value 1.0 (search it, or leave it out)"
    )


@pytest.mark.parametrize(
    ("name", "trials"),
    [
        ("demo", 7),
        ("digits_single", 24),
        ("cifar10_quick", 8),
        ("cifar10_single", 32),
        ("cifar10_criteria", 9),
    ],
)
def test_every_config_in_the_repository_is_valid(name: str, trials: int) -> None:
    config = load_config(
        ROOT / "configs" / f"{name}.yaml", {"data.path": "somewhere"} if name.startswith("cifar10") else {}
    )
    assert config.num_trials() == trials
    assert is_of_paths(config.tree) == (name in ("demo", "cifar10_quick"))


def test_a_merged_config_reads_back_as_itself() -> None:
    config = load_config(DEMO)
    assert load_config(config.tree).tree == config.tree
