"""``prune.method`` in a sweep: what it fills is visible, what the user has set stays, methods can be searched."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gcp_core.errors import ConfigError
from gcp_core.methods import Method, method_names
from sweeps.cli import main
from sweeps.config.reading import plain
from sweeps.config.sweep_config import check_tree, differences, load_config, load_trial

SINGLE = Path(__file__).parents[3] / "configs" / "digits_single.yaml"
PATHS = {
    "name": "methods",
    "train": {"schedule": "cycles", "batch_size": 64},
    "prune": {"start": 2, "interval": 2, "ratio": 0.5, "target": 0.7},
    "search": {"trials": 4},
}


def taylor():
    slots = {"prune.criterion": "taylor", "prune.allocator": "uniform"}
    return Method("taylor", "Taylor.", slots, "here", "all of it")


TAYLOR = f"{__name__}:taylor"


def test_what_a_method_fills_is_visible_in_the_merged_config():
    config = load_config(PATHS, {"prune.method": TAYLOR})
    prune = config.tree["prune"]
    assert (prune["method"], prune["criterion"], prune["allocator"]) == (TAYLOR, "taylor", "uniform")
    trial = load_trial(PATHS, {"prune.method": TAYLOR})
    assert (trial.prune.criterion, trial.prune.allocator) == ("taylor", "uniform")
    assert trial.key() == load_trial(PATHS, {"prune.criterion": "taylor", "prune.allocator": "uniform"}).key()


def test_what_the_user_has_set_stays_even_if_it_is_the_default():
    trial = load_trial(PATHS, {"prune.method": TAYLOR, "prune.allocator": "global"})
    assert (trial.prune.criterion, trial.prune.allocator) == ("taylor", "global")
    ranged = load_config(PATHS, {"prune.method": TAYLOR, "prune.criterion": {"choice": ["l1", "frs"]}})
    assert [ranged.space.resolve(point).prune.criterion for point in ranged.space.grid()] == ["l1", "frs"]


def test_methods_can_be_searched_and_each_point_fills_its_own_slots():
    config = load_config(PATHS, {"prune.method": {"choice": [None, "gcp", "slow_start", TAYLOR]}})
    trials = [config.space.resolve(point) for point in config.space.grid()]
    slots = [(t.prune.criterion, t.prune.allocator, t.train.pace) for t in trials]
    assert slots == [
        ("frs", "global", "linear"), ("frs", "global", "linear"), ("frs", "global", "slow_start"),
        ("taylor", "uniform", "linear"),
    ]  # fmt: skip
    assert trials[0].key() == trials[1].key(), "gcp is what a trial is anyway: it is trained once"
    assert "criterion" not in config.tree["prune"], "each point has its own"


@pytest.mark.parametrize("method", [TAYLOR, "gcp", {"choice": ["gcp", TAYLOR, "slow_start"]}])
@pytest.mark.parametrize("more", [{}, {"prune.allocator": "uniform"}])
def test_a_stored_config_read_again_is_the_same_sweep(method, more):
    config = load_config(PATHS, {"prune.method": method, **more})
    again = check_tree(json.loads(json.dumps(plain(config.tree))))
    assert differences(config.tree, again.tree) == []
    assert again.digest() == config.digest()
    points = list(config.space.grid())
    assert [again.space.resolve(p) for p in points] == [config.space.resolve(p) for p in points]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"prune.method": "gpc"}, "prune.method: 'gpc' is unknown (did you mean \"gcp\"?"),
        ({"prune.method": {"choice": ["gcp", "slo_start"]}}, "prune.method.choice.1: 'slo_start' is unknown"),
        ({"prune.method": 3}, "prune.method: 3 is not text or null"),
        ({"prune.method": {"low": 1, "high": 2}}, "prune.method: only {choice: [..]} is possible here"),
        ({"prune.methode": "gcp"}, "prune.methode: unknown key"),
        ({"prune.repair_options": 3}, "prune.repair_options: 3 is not a mapping"),
        ({"prune.repair": 3}, "prune.repair: 3 is not text"),
        ({"prune.repare": "none"}, "prune.repare: unknown key (value 'none') (did you mean \"repair\"?)"),
    ],
)
def test_a_bad_method_or_slot_is_refused_with_its_place(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(PATHS, overrides)
    assert message in str(caught.value)


def test_a_method_that_single_trials_cannot_have_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"only cycles have it \(train.schedule: cycles\)"):
        load_config(SINGLE, {"prune.method": "slow_start"})


def test_options_of_slots_can_be_searched():
    config = load_config(PATHS, {"prune.allocator_options.p": {"choice": [1, 2]}})
    options = [config.space.resolve(point).prune.allocator_options for point in config.space.grid()]
    assert options == [{"p": 1}, {"p": 2}]


def test_the_command_lists_every_method_with_its_source():
    done = CliRunner().invoke(main, ["methods"])
    assert done.exit_code == 0
    listed = json.loads(CliRunner().invoke(main, ["methods", "--json"]).stdout)
    assert [method["name"] for method in listed] == method_names()
    for method in listed:
        assert method["name"] in done.stdout
        assert method["source"] in done.stdout
