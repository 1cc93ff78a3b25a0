"""Methods: every one can be had, says where it is from, and fills its slots and no others."""

import dataclasses

import pytest

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.methods import METHODS, Method, filled, find_method, method_names, with_method
from gcp_core.training.setup import check_config

SINGLE = TrialConfig(
    data=DataConfig("digits", train_images=96),
    model=ModelConfig("vgg_tiny", 0.125),
    train=TrainConfig(epochs=4),
)
PATH = dataclasses.replace(
    SINGLE, train=TrainConfig(schedule="cycles"), prune=PruneConfig(start=2, ratio=0.3, target=0.5)
)


@pytest.mark.parametrize("name", method_names())
def test_every_method_says_what_it_does_where_it_is_from_and_what_was_read(name):
    method = find_method(name)
    assert method.name == name
    assert method.does.endswith(".")
    assert method.source
    assert method.read
    assert method.slots
    assert METHODS.describe(name).endswith(".")


@pytest.mark.parametrize("name", method_names())
def test_every_method_can_be_trained_on_a_path_or_a_single_trial(name):
    refused = []
    for config in (SINGLE, PATH):
        try:
            check_config(with_method(config, name))
        except ConfigError as exc:
            refused.append(exc)
    assert len(refused) < 2
    assert all(exc.hint for exc in refused), "what cannot work says what to try"


def test_gcp_is_what_a_trial_is_anyway():
    assert with_method(SINGLE, "gcp").key() == SINGLE.key()


def test_slow_start_needs_cycles_and_says_so():
    assert with_method(PATH, "slow_start").train.pace == "slow_start"
    with pytest.raises(
        ConfigError, match=r"train.pace: 'slow_start': only cycles have it \(train.schedule: cycles\)"
    ):
        with_method(SINGLE, "slow_start")


def mine():
    """A method of one's own."""
    slots = {
        "prune.criterion": "taylor",
        "prune.allocator": "uniform",
        "prune.options": {"order": 2, "more": 1},
    }
    return Method("mine", "Mine.", slots, "here", "all of it")


def of_nothing():
    return Method("of_nothing", "Nothing.", {"prune.critereon": "l1"}, "here", "all of it")


HERE = f"{__name__}:mine"


def test_what_the_user_has_set_stays():
    tree = {"prune": {"method": HERE, "allocator": "global", "target": 0.3}}
    found = filled(tree, {"prune.allocator", "prune.target"})
    assert found["prune"] == {
        "method": HERE, "criterion": "taylor", "allocator": "global", "target": 0.3, "options": {"order": 2, "more": 1},
    }  # fmt: skip
    assert "criterion" not in tree["prune"], "a copy"


def test_a_ratio_that_nobody_has_said_is_the_method_s_and_another_one_stays():
    assert with_method(SINGLE, "activation_density").pruning.ratio == 1.0
    said = dataclasses.replace(SINGLE, prune=PruneConfig(ratio=0.3))
    assert with_method(said, "activation_density").pruning.ratio == 0.3


def of_paths():
    """A method of one's own that fills what a path makes of nothing, lists among it."""
    slots = {
        "prune.ratio_of": "units",
        "prune.exclude": ("features.0",),
        "prune.start": 5,
        "train.milestones": [0.4, 0.6],
    }
    return Method("of_paths", "Of paths.", slots, "here", "all of it")


def test_what_a_trial_makes_of_nothing_is_the_method_s_also_in_paths_and_lists():
    found = with_method(PATH, f"{__name__}:of_paths")
    assert (found.pruning.ratio_of, found.pruning.exclude) == ("units", ("features.0",))
    assert (found.train.milestones, found.train.schedule) == ((0.4, 0.6), "cycles")
    assert found.pruning.start == 2, "said: a path has none by itself"
    train = TrainConfig(schedule="cycles", milestones=(0.2,))
    said = dataclasses.replace(PATH, train=train, prune=PruneConfig(start=1, exclude=("features.3",)))
    found = with_method(said, f"{__name__}:of_paths")
    assert (found.pruning.start, found.pruning.exclude) == (1, ("features.3",))
    assert found.train.milestones == (0.2,)


def test_options_are_merged_and_those_of_another_criterion_are_not_filled():
    tree = {"prune": {"method": HERE, "options": {"order": 1}}}
    assert filled(tree, {"prune.options"})["prune"]["options"] == {"order": 1, "more": 1}
    tree = {"prune": {"method": HERE, "criterion": "l1"}}
    assert "options" not in filled(tree, {"prune.criterion"})["prune"]


def test_filling_twice_is_filling_once():
    tree = {"prune": {"method": HERE}}
    once = filled(tree, set())
    assert filled(once, {f"prune.{name}" for name in once["prune"]}) == once


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpc", "prune.method: 'gpc' is unknown (did you mean \"gcp\"?; or package.module:factory)"),
        (f"{__name__}:SINGLE", "has no callable"),
        (f"{__name__}:of_nothing", "fills 'prune.critereon', which is no key of a config"),
        ("builtins:dict", "returned a dict, which is no method"),
    ],
)
def test_what_is_no_method_is_refused(name, message):
    with pytest.raises(ConfigError) as caught:
        with_method(SINGLE, name)
    assert message in str(caught.value)


def test_a_baseline_has_no_method():
    with pytest.raises(ConfigError, match="a baseline has no method"):
        with_method(SINGLE.baseline(), "gcp")


def test_a_method_that_nobody_has_filled_in_is_refused_before_training():
    """By hand the name alone does nothing: better said than found out."""
    by_hand = dataclasses.replace(PATH, prune=dataclasses.replace(PATH.prune, method="slow_start"))
    with pytest.raises(
        ConfigError, match=r"prune.method: 'slow_start' stands there, but nothing of the method does"
    ):
        check_config(by_hand)
    with pytest.raises(ConfigError, match=r"prune\.method: 'slow' is unknown"):
        check_config(dataclasses.replace(SINGLE, prune=PruneConfig(method="slow")))


def all_are_usual():
    slots = {"prune.ratio": 0.2, "prune.exclude": [], "train.epochs": 20}
    return Method("all_are_usual", "Nothing that is not so anyway.", slots, "here", "all of it")


def test_a_ratio_that_nobody_has_said_is_not_something_of_a_method():
    config = TrialConfig(prune=PruneConfig(method="activation_density"))
    with pytest.raises(
        ConfigError, match=r"'activation_density' stands there, but nothing .*: prune.allocator, prune.clock"
    ):
        check_config(config)
    filled_in = with_method(SINGLE, "activation_density")
    check_config(filled_in)
    usual = f"{__name__}:all_are_usual"
    check_config(dataclasses.replace(SINGLE, prune=PruneConfig(method=usual)))
