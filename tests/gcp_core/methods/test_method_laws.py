"""What holds of every method: removed = gated, exact after a kill, replayed, nothing shared that differs."""

import copy
import dataclasses
import functools
import json
import signal

import pytest
import torch

from gcp_core.allocators import Budget
from gcp_core.allocators.adjustment import cost_of_widths
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.methods import method_names, with_method
from gcp_core.plan import Plan
from gcp_core.pruning.growth import groups_after
from gcp_core.pruning.surgery import apply_plan, gate_channels
from gcp_core.records.checkpoint import load_model, weights_digest
from gcp_core.records.results import TrialResult
from gcp_core.records.stages import StageStore
from gcp_core.training import run_trial, state
from gcp_core.training.setup import build_setup, check_config
from tests.gcp_core.training.interrupted import Killed, killed_in, without_time
from tests.integration import drivers
from tests.oracles.sweeps.remembering import Remembering, states_in_common

DATA = DataConfig("digits", val_share=0.25, train_images=96)
SINGLE = TrialConfig(
    data=DATA, model=ModelConfig("vgg_tiny", width=0.125), train=TrainConfig(epochs=6, batch_size=32),
    prune=PruneConfig(ratio=0.15, target=0.4, min_channels=1),
)  # fmt: skip
PATH = dataclasses.replace(
    SINGLE, train=TrainConfig(batch_size=32, schedule="cycles"),
    prune=PruneConfig(start=1, interval=2, ratio=0.25, target=0.4, min_channels=1),
)  # fmt: skip
#: A network of six epochs has no time to come to rest.
OPTIONS = {"clock_options": {"window": 1, "tolerance": 1.0}}


def trials():
    """(name, trial) of every method, as a single trial and as a path where it can be both."""
    found = []
    for name in method_names():
        for kind, base in (("single", SINGLE), ("path", PATH)):
            try:
                config = with_method(base, name)
            except ConfigError:
                continue
            if config.pruning.clock == "density_saturated":
                config = dataclasses.replace(config, prune=dataclasses.replace(config.pruning, **OPTIONS))
            found.append((f"{name}, {kind}", config))
    return found


TRIALS = trials()
#: Wide and deep enough that a group which has lost units gets some of them back.
GROWING = dataclasses.replace(
    dict(TRIALS)["network_adjustment, path"],
    model=ModelConfig("vgg_tiny", width=0.25),
    prune=dataclasses.replace(dict(TRIALS)["network_adjustment, path"].pruning, target=0.7),
)
#: The same to a number of parameters; and a single trial whose events grow.
GROWING_PARAMS = dataclasses.replace(GROWING, prune=dataclasses.replace(GROWING.pruning, of="params"))
GROWING_SINGLE = dataclasses.replace(
    dict(TRIALS)["network_adjustment, single"],
    model=ModelConfig("vgg_tiny", width=0.25),
    prune=dataclasses.replace(dict(TRIALS)["network_adjustment, single"].pruning, interval=1, ratio=0.05),
)
ALL = [
    *TRIALS,
    ("network_adjustment, path that grows", GROWING),
    ("network_adjustment, single that grows", GROWING_SINGLE),
]
EVERY = pytest.mark.parametrize(("name", "config"), ALL, ids=[name for name, _ in ALL])


def test_there_is_a_trial_of_every_method():
    assert {name.partition(",")[0] for name, _ in TRIALS} == set(method_names())
    assert [name for name, _ in TRIALS if name.startswith("slow_start")] == ["slow_start, path"]
    assert len(TRIALS) == 2 * len(method_names()) - 1


@dataclasses.dataclass(frozen=True)
class Straight:
    """A trial that nobody disturbed.

    Attributes:
        result: with its folder.
        differences: per event, how far the outputs of the cut model are from those of the gated one, relatively.
        seen: the states that it left for others, see :class:`Remembering`.
    """

    result: TrialResult
    differences: list[float]
    seen: dict


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Name of a trial -> the trial as nobody disturbed it; trained once."""
    configs = dict(ALL)

    @functools.cache
    def trained(name):
        store = Remembering()
        with pytest.MonkeyPatch.context() as patch:
            differences = compared_at_every_event(patch)
            place = tmp_path_factory.mktemp("straight")
            result = run_trial(configs[name], stages=store, checkpoint_dir=place, latency=False)
        return Straight(result, differences, store.seen)

    return trained


def compared_at_every_event(patch):
    """From here on, every event adds to the list that comes back how far the cut model is from the gated one."""
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    differences = []

    def checked(model, plan, optimizer):
        before = copy.deepcopy(model).double().eval()
        with gate_channels(before, plan), torch.no_grad():
            gated = before(images)
        apply_plan(model, plan, optimizer)
        with torch.no_grad():
            left = copy.deepcopy(model).double().eval()(images)
        differences.append(float((left - gated).abs().max() / gated.abs().max()))

    patch.setattr(state, "apply_plan", checked)
    return differences


@EVERY
def test_what_is_left_computes_what_the_whole_does_with_its_units_at_zero(name, config, straight):
    """At every event, after the repair: the cut model is the gated one."""
    found = straight(name)
    assert len(found.differences) == len(found.result.plans) > 0
    assert max(found.differences) <= 1e-12


@EVERY
def test_a_trial_goes_on_bit_by_bit_after_a_kill_and_its_plans_rebuild_its_model(
    name, config, straight, tmp_path
):
    whole = straight(name).result
    assert whole.status == "complete"
    assert whole.plans
    first, last = max(1, whole.plans[0].meta["epoch"]), whole.history[-1].epoch
    for killed in {first, min(first + 1, last)}:
        place = tmp_path / f"killed{killed}"
        with pytest.raises(Killed):
            run_trial(config, report=killed_in(killed), checkpoint_dir=place, latency=False)
        torch.manual_seed(99)
        resumed = run_trial(config, checkpoint_dir=place, latency=False)
        assert resumed.weights_sha256 == whole.weights_sha256
        assert resumed.plans == whole.plans
        assert without_time(resumed) == without_time(whole)
        assert resumed.finals["train_cost"] == whole.finals["train_cost"]
    assert weights_digest(load_model(whole.folder).state_dict()) == whole.weights_sha256
    model = build_setup(config).new_model()
    for plan in whole.plans:
        apply_plan(model, Plan.from_json(plan.to_json()))
    shapes = {name: tensor.shape for name, tensor in load_model(whole.folder).state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("compensation, path", 4),
        ("network_adjustment, path that grows", 8),
        ("bwcp, path", 4),
        ("consensus, path", 4),
    ],
    ids=["repairs", "grows", "whitens", "gates"],
)
def test_a_path_goes_on_in_a_new_process_after_the_system_has_killed_it(name, epoch, straight, tmp_path):
    """In the cycle after an event that has repaired, has let a layer grow, or has cut gates."""
    code = """
import json, os, signal, sys
from gcp_core.config import TrialConfig
from gcp_core.training import run_trial
def report(seen):
    if seen.epoch == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
run_trial(TrialConfig.from_dict(json.loads(sys.argv[1])), report=report, checkpoint_dir=sys.argv[2], latency=False)
"""
    config, whole = dict(ALL)[name], straight(name).result
    killed = drivers.run(code, [json.dumps(config.to_dict()), tmp_path, epoch])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_trial(config, checkpoint_dir=tmp_path)
    assert 0 < resumed.trained_epochs < whole.trained_epochs
    assert [s.weights_sha256 for s in resumed.snapshots] == [s.weights_sha256 for s in whole.snapshots]


@pytest.mark.parametrize("kind", ["single", "path"])
def test_methods_share_no_state_that_a_slot_has_influenced(kind, straight):
    """Equal keys have equal weights; what parts at the first event has its dense epochs in common and no more."""
    seen = {name: straight(name).seen for name, _ in TRIALS if name.endswith(kind)}
    assert states_in_common(seen) > 0
    if kind == "single":
        assert not set(seen["grasp, single"]) & set(seen["gcp, single"]), "cut before anything is trained"
    else:
        dense = {name: set(states) & set(seen["gcp, path"]) for name, states in seen.items()}
        trained_apart = {name for name in seen if dict(ALL)[name].train.rewrite != "none"}
        assert {name for name, common in dense.items() if not common} == trained_apart
        assert len(dense["compensation, path"]) == 1
        assert len(dense["slow_start, path"]) == 1


@pytest.mark.parametrize("config", [GROWING, GROWING_PARAMS], ids=["macs", "params"])
def test_a_growing_path_restores_at_most_what_the_level_allows_and_what_a_layer_once_had(config):
    result = run_trial(config)
    assert result.ended == "target"
    grown = [plan for plan in result.plans if plan.growth is not None]
    assert grown
    groups = build_setup(config).groups
    for plan, snapshot in zip(result.plans, result.snapshots[1:], strict=True):
        assert snapshot.finals[f"{config.pruning.of}_removed"] >= plan.meta["level"] - 1e-9
        before = groups
        groups = groups_after(groups, plan)
        for group, old in zip(groups.groups, before.groups, strict=True):
            gone = len(plan.removed.get(group.name, ()))
            come = plan.growth.added.get(group.name, 0) if plan.growth is not None else 0
            assert group.size == old.size - gone + come <= group.original_size
        assert groups.cost() == (snapshot.finals["macs"], snapshot.finals["params"])
    left = [row.metrics["prune/channels_left"] for row in result.history]
    assert left[-1] == groups.num_units


@pytest.mark.parametrize(
    "name",
    ["compensation, path", "network_adjustment, path that grows", "bwcp, path", "consensus, path"],
    ids=["repairs", "grows", "whitens", "gates"],
)
def test_shared_training_gives_the_weights_of_training_alone(name, straight, tmp_path):
    store = StageStore(tmp_path)
    config, alone = dict(ALL)[name], straight(name).result
    spread = "uniform" if config.prune.allocator == "global" else "global"
    other = dataclasses.replace(config.prune, allocator=spread, allocator_options={}, method=None)
    run_trial(dataclasses.replace(config, prune=other), stages=store)
    first, again = run_trial(config, stages=store), run_trial(config, stages=store)
    assert again.trained_epochs == 0
    for shared in (first, again):
        assert [s.weights_sha256 for s in shared.snapshots] == [s.weights_sha256 for s in alone.snapshots]
        assert shared.plans == alone.plans


# --- at initialisation --------------------------------------------------------------------------------------------


def test_grasp_cuts_once_before_the_first_epoch_and_pays_for_what_it_trains(straight):
    config, result = dict(TRIALS)["grasp, single"], straight("grasp, single").result
    assert [plan.meta["epoch"] for plan in result.plans] == [0]
    assert result.finals["target_reached"] == 1
    macs = [row.metrics["cost/macs"] for row in result.history]
    assert len(set(macs)) == 1
    setup = build_setup(config)
    criterion, scoring = setup.scorer
    looked = len(scoring.images) / len(setup.train_images) * criterion.forwards / 3
    expected = config.train.num_epochs * macs[0] / setup.dense_cost.macs + looked
    assert result.finals["train_cost"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruneConfig(start=0, until=0, clock="density_saturated"), "prune.start: the clock 'density_saturated'"),
        (lambda: PruneConfig(start=-1), "prune.start: -1 is not a whole number >= 0"),
        (lambda: PruneConfig(until=0), "prune.until: 0 is not a whole number >= 1"),
        (lambda: dataclasses.replace(PATH, prune=dataclasses.replace(PATH.prune, start=0)), "prune.start: 0: a path has"),
    ],
)  # fmt: skip
def test_an_event_at_initialisation_is_for_single_trials_with_the_interval_clock(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


# --- a look is paid for as far as it went -------------------------------------------------------------------------


def test_a_single_trial_grows_at_the_cost_that_an_even_cut_would_leave():
    result = run_trial(GROWING_SINGLE)
    assert any(plan.growth is not None for plan in result.plans)
    groups = build_setup(GROWING_SINGLE).groups
    dense = groups.cost()[0]
    for plan in result.plans:
        share = 1 - Budget(ratio=GROWING_SINGLE.pruning.ratio).units(groups.num_units) / groups.num_units
        even = cost_of_widths(groups, {group.name: share * group.size for group in groups.groups})
        unit = groups.marginal_cost("macs").max()
        groups = groups_after(groups, plan)
        limit = max(even, (1 - GROWING_SINGLE.pruning.target) * dense)
        assert limit - 2 * unit <= groups.cost()[0] <= limit
    assert groups.cost()[0] == result.finals["macs"]


@pytest.mark.parametrize("name", ["compensation, path", "network_adjustment, path"])
def test_what_a_search_for_widths_has_cost_is_in_its_plan_and_is_charged(name, straight):
    config, result = dict(TRIALS)[name], straight(name).result
    setup = build_setup(config)
    criterion, scoring = setup.scorer
    assert all(plan.meta["looked"] > 1 for plan in result.plans)
    share = len(scoring.images) / len(setup.train_images) / 3
    macs = [row.metrics["cost/macs"] / setup.dense_cost.macs for row in result.history]
    repair = getattr(setup.repair, "forwards", 0)
    looks = [
        (criterion.forwards + repair + plan.meta["looked"]) * share * macs[plan.meta["epoch"] - 1]
        for plan in result.plans
    ]
    assert result.finals["train_cost"] == pytest.approx(sum(macs) + sum(looks))


# --- bad input ----------------------------------------------------------------------------------------------------

RESNET = dataclasses.replace(SINGLE, model=ModelConfig("resnet20", width=0.25))


@pytest.mark.parametrize(
    ("base", "name", "slots", "message"),
    [
        (SINGLE, "catroo", {}, 'prune.method: \'catroo\' is unknown (did you mean "catro"?'),
        (RESNET, "compensation", {"residual": "scatter"}, "no layer reads the units of layer1.0.conv2"),
        (SINGLE, "catro", {"allocator": "tests.oracles.fillings:PerUnit"}, "goes by scores of single units"),
        (SINGLE, "compensation", {"allocator_options": {"tolerated": -1}}, "prune.allocator_options.tolerated: -1"),
        (SINGLE, "compensation", {"repair_options": {"stride": 1}}, "prune.repair_options.stride: unknown option"),
        (SINGLE, "compensation", {"options": {"rows": "nrom"}}, 'prune.options.rows: \'nrom\' is unknown (did you mean'),
        (SINGLE, "activation_density", {"clock_options": {"window": 0}}, "prune.clock_options.window: 0"),
        (SINGLE, "network_adjustment", {"allocator_options": {"drop": 1.5}}, "prune.allocator_options.drop: 1.5"),
        (SINGLE, "network_adjustment", {"allocator_options": {"share": 2}}, "prune.allocator_options.share: 2"),
        (RESNET, "network_adjustment", {"residual": "scatter"}, "lets layers grow"),
        (SINGLE, "network_adjustment", {"round_to": 4}, "prune.round_to: 'network_adjustment' lets layers grow"),
        (PATH, "activation_density", {"clock": "density_saturated"}, "prune.clock: 'density_saturated' has no meaning"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_training(base, name, slots, message):
    with pytest.raises(ConfigError) as caught:
        check_config(
            with_method(dataclasses.replace(base, prune=dataclasses.replace(base.prune, **slots)), name)
        )
    assert message in str(caught.value)


def test_a_penalty_and_layers_that_grow_are_refused_together():
    config = with_method(SINGLE, "network_adjustment")
    train = dataclasses.replace(config.train, penalty="tests.oracles.fillings:Remembered")
    with pytest.raises(ConfigError, match=r"train\.penalty: .* cannot follow layers that grow"):
        check_config(dataclasses.replace(config, train=train))
