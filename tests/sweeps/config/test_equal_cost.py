"""Paths at equal cost: what is too dear is not proposed, and the unpruned twin costs as much as a path may."""

from __future__ import annotations

from typing import Any

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.equal_cost import too_dear
from sweeps.config.sweep_config import SweepConfig, load_config

#: Costs of a path: start + 1.9 * interval dense epochs, so from 9.7 (4 and 3) to 23.4 (12 and 6).
TREE = {
    "name": "paths",
    "train": {"schedule": "cycles"},
    "prune": {
        "start": {"choice": [4, 12, 8]},
        "interval": {"choice": [6, 3, 4]},
        "levels": [0.3, 0.5, 0.65, 0.8, 0.9, 0.95],
        "min_share": 0.03,
    },
    "search": {"trials": 2},
}


def config(**overrides: Any) -> SweepConfig:
    return load_config(TREE, {name.replace("__", "."): value for name, value in overrides.items()})


def test_without_a_limit_the_baseline_costs_as_much_as_the_dearest_path_wherever_it_is() -> None:
    # The dearest stands in the middle of a choice: 12 + 1.9 * 6 = 23.4.
    assert config().baseline.epochs == 24
    assert config(baseline__epochs=7).baseline.epochs == 7


@pytest.mark.parametrize(("limit", "epochs"), [(18.0, 18), (17.2, 18), (18.01, 19), (100.0, 24)])
def test_with_a_limit_it_costs_as_much_as_a_path_may(limit: float, epochs: int) -> None:
    assert config(search__max_path_cost=limit).baseline.epochs == epochs


def test_whether_the_user_said_how_long_is_remembered() -> None:
    assert not config().baseline_given
    assert config(baseline__epochs=7).baseline_given


def test_a_path_at_the_limit_is_not_too_dear() -> None:
    space = config().space
    path = space.resolve({"prune.start": 4, "prune.interval": 6})  # 15.4
    assert not too_dear(path, None)
    assert not too_dear(path, 15.4)
    assert too_dear(path, 15.3)
    single = load_config({"name": "x", "train": {"epochs": 40}}).space
    assert not too_dear(single.resolve(single.first()), 1.0)


def test_a_limit_below_every_path_names_the_cheapest_and_where_it_is() -> None:
    assert config(search__max_path_cost=9.7).search.max_path_cost == 9.7
    with pytest.raises(ConfigError) as caught:
        config(search__max_path_cost=9.6)
    assert str(caught.value).startswith(
        "search.max_path_cost: 9.6 dense epochs are too few: the cheapest path costs 9.7, at prune.start=4,"
        " prune.interval=3"
    )


def test_a_searched_cap_counts_with_its_upper_end() -> None:
    capped = {
        "train__epochs": {"choice": [8, 20, 12]},
        "prune__start": {"choice": [2, 8, 4]},
        "prune__interval": 4,
    }
    # The dearest: 8, then 4 epochs each at .7, .5 and .35 up to epoch 20: 8 + 4 * 1.55 = 14.2.
    assert config(**capped).baseline.epochs == 15
    # The cheapest: 2, then 4 epochs each at .7, .5, .35 and .2 up to epoch 18: 2 + 4 * 1.75 = 9.
    assert config(**capped, search__max_path_cost=9.0).baseline.epochs == 9
    with pytest.raises(ConfigError, match=r"the cheapest path costs 9, at prune.start=2"):
        config(**capped, search__max_path_cost=8.9)
    with pytest.raises(ConfigError, match=r"train.epochs: 6 epochs are shorter than the dense phase"):
        config(**{**capped, "train__epochs": 6, "prune__start": 8})


def test_a_limit_below_the_only_path_says_what_it_costs() -> None:
    only = {"prune__start": 4, "prune__interval": 3, "search__max_path_cost": 5.0}
    with pytest.raises(ConfigError, match=r"the cheapest path costs 9.7 \("):
        config(**only)


def test_a_point_of_the_users_own_above_the_limit_is_named_with_its_cost() -> None:
    points = [{"prune.start": 4}, {"prune.start": 8, "prune.interval": 6}]
    assert len(config(search__points=points, search__max_path_cost=19.4).search.points) == 2
    with pytest.raises(ConfigError) as caught:
        config(search__points=points, search__max_path_cost=18)
    text = str(caught.value)
    assert "search.points.1: the path at prune.start=8, prune.interval=6 costs 19.4 dense epochs" in text
    assert "more than search.max_path_cost allows: 18" in text


def test_ranges_without_steps_and_large_spaces_are_looked_at_in_part() -> None:
    endless = config(
        prune__levels=None,
        prune__ratio={"low": 0.2, "high": 0.5},
        prune__target=0.9,
        prune__start={"low": 1, "high": 200},
        prune__interval={"low": 1, "high": 200},
        prune__min_share=0.05,
    )
    # The dearest corner: 200 epochs, then 200 each at .8, .64, ... down to the first share below .1 (eleven cuts).
    assert endless.baseline.epochs == 200 + round(200 * sum(0.8**k for k in range(1, 12)) + 0.5)


def test_the_quick_configs_limit_leaves_44_of_its_60_paths() -> None:
    from pathlib import Path

    root = Path(__file__).resolve().parents[3]
    quick = load_config(root / "configs" / "cifar10_quick.yaml", {"data.path": "somewhere"})
    assert (quick.search.max_path_cost, quick.baseline.epochs) == (18, 18)
    dear = [too_dear(quick.space.resolve(point), 18) for point in quick.space.grid()]
    assert (sum(dear), len(dear)) == (16, 60)
