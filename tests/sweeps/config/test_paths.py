"""A sweep of paths, as it is written down: what is filled in, what is refused, what may change."""

from __future__ import annotations

import copy

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.paths import Step, foreseen_cost, steps_ahead
from sweeps.config.sweep_config import check_tree, differences, load_config

TREE = {
    "name": "paths",
    "train": {"schedule": "cycles", "batch_size": 64},
    "prune": {"start": 4, "interval": 6, "levels": [0.3, 0.5, 0.65, 0.8, 0.9, 0.95], "min_share": 0.03},
    "search": {"trials": 2},
}


def tree(**changes: object) -> dict[str, object]:
    """TREE with dotted paths (``__`` for the dot) set; None takes a key out."""
    made = copy.deepcopy(TREE)
    for path, value in changes.items():
        part, _, name = path.partition("__")
        made.setdefault(part, {})
        if value is None:
            made[part].pop(name, None)
        else:
            made[part][name] = value
    return made


def of_ratio(**changes: object) -> dict[str, object]:
    return tree(**{"prune__levels": None, "prune__ratio": 0.5, "prune__target": 0.8, **changes})


def test_what_follows_from_being_a_path_is_filled_in():
    config = load_config(tree())
    trial = config.space.resolve(config.space.first())
    assert trial.is_path
    assert (trial.train.epochs, trial.prune.until, trial.prune.target, trial.prune.depth()) == (
        None,
        None,
        None,
        0.95,
    )
    assert config.search.stopping == "none"
    assert trial.baseline().train.schedule == "one_cycle"


def test_a_config_that_was_filled_in_is_read_again_and_is_the_same():
    for given in (tree(), of_ratio(), of_ratio(prune__target={"low": 0.3, "high": 0.8})):
        once = load_config(given)
        again = check_tree(once.tree)
        assert again.tree == once.tree
        assert differences(once.tree, again.tree) == []


def test_the_baseline_costs_as_much_as_the_dearest_path():
    # 4 + 6 * (.7 + .5 + .35 + .2 + .1 + .05) = 15.4 dense epochs
    config = load_config(tree())
    assert foreseen_cost(config.space.resolve({})) == pytest.approx(15.4)
    assert config.baseline.epochs == 16
    assert config.space.resolve({}).baseline().train.epochs == 16
    # 12 + 6 * 1.9 = 23.4
    searched = load_config(tree(prune__start={"choice": [4, 12]}))
    points = [{"prune.start": 4}, {"prune.start": 12}]
    assert searched.baseline.epochs == 24
    assert {searched.space.resolve(point).baseline().train.epochs for point in points} == {24}, "one for all"
    assert load_config(tree(baseline__epochs=7)).baseline.epochs == 7


def test_a_cap_keeps_the_foreseen_cost_down():
    config = load_config(tree(train__epochs=17))  # the dense phase and two cycles
    assert foreseen_cost(config.space.resolve({})) == pytest.approx(4 + 6 * 0.7 + 6 * 0.5)


def test_a_searched_target_is_how_deep_paths_go_and_is_not_drawn():
    config = load_config(
        of_ratio(prune__target={"low": 0.3, "high": 0.8}, prune__interval={"choice": [2, 3]})
    )
    assert [dimension.path for dimension in config.space.dimensions] == ["prune.interval"]
    assert config.space.resolve(config.space.first()).prune.target == 0.8


@pytest.mark.parametrize("choice", [[0.5, None, 0.8], [None]])
def test_a_searched_target_with_null_in_it_goes_down_to_the_floors(choice):
    config = load_config(of_ratio(prune__target={"choice": choice}))
    assert config.space.dimensions == ()
    assert config.space.resolve({}).prune.target is None
    assert check_tree(config.tree).tree == config.tree


@pytest.mark.parametrize(("choice", "cap"), [([8, 20, 12], 20), ([8, None], None)])
def test_a_searched_cap_is_how_far_paths_go_and_points_are_as_many_as_paths(choice, cap):
    """Two paths that differ in their caps alone are one: the second of two points would never be tried."""
    config = load_config(
        tree(train__epochs={"choice": choice}, prune__interval={"choice": [2, 3]}, search__trials=9)
    )
    paths = [config.space.resolve(point) for point in config.space.grid()]
    assert {path.train.epochs for path in paths} == {cap}
    assert config.num_trials() == len({path.key() for path in paths}) == 2
    assert check_tree(config.tree).tree == config.tree


def test_a_searched_cap_may_be_raised_like_one_that_is_given():
    old = load_config(tree(train__epochs={"choice": [8, 20]}))
    more = load_config(tree(train__epochs={"choice": [8, 40]}))
    assert differences(old.tree, more.tree) == []
    assert more.space.dimensions == old.space.dimensions, "what the ledger has of a path stays a point"


def test_what_decides_about_going_on_may_change_and_levels_may_not():
    old = load_config(tree()).tree
    changed = load_config(tree(search__min_gain=0.5, search__max_path_cost=16.0)).tree
    assert differences(old, changed) == []
    deeper = tree(prune__levels=[0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.97])
    assert differences(old, load_config(deeper).tree), "other models"


@pytest.mark.parametrize("path", ["prune.target", "train.epochs"])
def test_how_far_paths_go_may_change_and_their_course_may_not(path):
    old = load_config(of_ratio()).tree
    assert differences(old, load_config(of_ratio(), {path: 0.9 if "target" in path else 90}).tree) == []
    assert differences(old, load_config(of_ratio(), {"prune.interval": 5}).tree)
    single = {"name": "x", "train": {"epochs": 10}, "prune": {"target": 0.5}}
    assert differences(
        load_config(single).tree, load_config(single, {path: 0.6 if "target" in path else 9}).tree
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (tree(prune__start=None), "prune.start: is required with train.schedule: cycles"),
        (tree(prune__until=0.75), "prune.until: cannot be used with train.schedule: cycles"),
        (of_ratio(prune__count=3), "ratio and count"),
        ({**TREE, "prune": None}, "prune: a path prunes (train.schedule: one_cycle trains without pruning)"),
        (tree(prune__target=0.5), "prune.levels: levels and target cannot both be given"),
        (tree(prune__ratio=0.2), "prune.levels: levels and ratio cannot both be given"),
        (tree(prune__levels=[0.5, 0.3]), "does not rise above 0.5"),
        (tree(train__epochs=3), "train.epochs: 3 epochs are shorter than the dense phase"),
        (tree(train__restart=1.5), "train.restart"),
        (tree(search__stopping="rungs"), "search.stopping: paths cannot be stopped at rungs"),
        (tree(train__schedule={"choice": ["cycles", "cosine"]}), "cannot be searched together"),
        (tree(baseline__epochs=0), "baseline.epochs: 0 is not a whole number >= 1"),
        (tree(train__schedule="one_cycle"), "only paths have it"),
        (tree(search__min_gain=-0.1), "search.min_gain: -0.1 is not a number >= 0"),
        (tree(search__min_gain=float("nan")), "search.min_gain: nan is not a number >= 0"),
        (tree(search__max_path_cost=-1.0), "search.max_path_cost: -1.0 is not a number > 0"),
        (tree(search__max_path_cost=0), "search.max_path_cost: 0.0 is not a number > 0"),
        (
            tree(search__stopping="rungs"),
            "paths cannot be stopped at rungs, because each of their models counts (none, or leave it out)",
        ),
        (
            {"name": "x", "train": {"epochs": 4}, "search": {"min_gain": 0.1}},
            "search.min_gain: is for paths only: a single trial has no steps to choose between",
        ),
        (
            {"name": "x", "search": {"max_path_cost": 10}},
            "search.max_path_cost: is for paths only: a single trial has no steps to choose between",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(given, text):
    with pytest.raises(ConfigError) as caught:
        load_config(given)
    assert text in str(caught.value)


def test_points_to_try_first_leave_out_what_has_its_first_value_and_may_name_what_is_fixed():
    space = load_config(
        tree(
            prune__start={"choice": [4, 12]},
            prune__interval={"choice": [6, 3]},
            train__restart={"choice": [1.0, 0.5]},
        )
    ).space
    assert space.canonical({"prune.start": 12}) == {
        "prune.start": 12, "prune.interval": 6, "train.restart": 1.0,
    }  # fmt: skip
    assert space.canonical({"train.schedule": "cycles"})["prune.start"] == 4
    with pytest.raises(ConfigError, match=r"'one_cycle' is not the fixed value 'cycles'"):
        space.canonical({"train.schedule": "one_cycle"})
    with pytest.raises(ConfigError, match=r"'prune.strt' is not searched.*did you mean"):
        space.canonical({"prune.strt": 4})


def test_the_steps_of_a_path_add_up_to_its_cost_from_wherever_it_stands():
    path = load_config(tree()).space.resolve({})
    whole = list(steps_ahead(path))
    assert whole[0] == Step(0.0, 4.0)
    assert [step.removed for step in whole[1:]] == [0.3, 0.5, 0.65, 0.8, 0.9, 0.95]
    assert [step.cost for step in whole[1:]] == pytest.approx([4.2, 3.0, 2.1, 1.2, 0.6, 0.3])
    assert sum(step.cost for step in whole) == pytest.approx(foreseen_cost(path))
    for done in range(1, 7):  # coarse units cut a little more than the level
        assert list(steps_ahead(path, whole[done].removed + 0.004, 4 + 6 * done)) == whole[done + 1 :]


def test_a_cap_and_a_ratio_say_how_many_steps_there_are():
    capped = load_config(tree(train__epochs=17)).space.resolve({})
    assert [step.removed for step in steps_ahead(capped)] == [0.0, 0.3, 0.5]
    assert list(steps_ahead(capped, 0.5, 16)) == []
    halves = load_config(of_ratio()).space.resolve({})
    assert list(steps_ahead(halves, 0.5, 10)) == [Step(0.75, 1.5), Step(0.875, 0.75)]
    units = load_config(of_ratio(prune__ratio_of="units")).space.resolve({})
    assert list(steps_ahead(units, 0.6, 10)) == [Step(0.75, 1.5), Step(0.875, 0.75)]
