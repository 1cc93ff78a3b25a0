"""Slots in a trial: null = absent, exact after a kill and with shared training, paid for, told apart by their keys."""

import dataclasses
import itertools

import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.records.checkpoint import load_model
from gcp_core.records.stages import StageStore
from gcp_core.training import run_trial
from gcp_core.training.epoch import build_optimizer
from gcp_core.training.polish import polish
from gcp_core.training.setup import build_setup, check_config
from gcp_core.training.state import State
from tests.gcp_core.training.interrupted import Killed, killed_in, without_time
from tests.oracles.sweeps.remembering import Remembering, states_in_common

OURS = "tests.oracles.fillings"
DATA = DataConfig("digits", val_share=0.25, train_images=96)
SMALL = ModelConfig("vgg_tiny", width=0.125)
SINGLE = TrialConfig(
    data=DATA, model=SMALL, train=TrainConfig(epochs=4, batch_size=32),
    prune=PruneConfig(criterion="l1", interval=1, ratio=0.15, target=None, until=3, min_channels=1),
)  # fmt: skip
PATH = TrialConfig(
    data=DATA, model=SMALL, train=TrainConfig(batch_size=32, schedule="cycles"),
    prune=PruneConfig(criterion="l1", start=2, interval=2, ratio=0.3, target=0.55, min_channels=1),
)  # fmt: skip
REPAIR = {"repair": f"{OURS}:HalfRemoved"}
PENALTY = {"penalty": f"{OURS}:Remembered"}
CLOCK = {"clock": f"{OURS}:EveryOther"}


def other(base=SINGLE, *, train=None, **prune):
    return dataclasses.replace(
        base,
        train=dataclasses.replace(base.train, **(train or {})),
        prune=dataclasses.replace(base.prune, **prune),
    )


# --- null = absent ------------------------------------------------------------------------------------------------


def test_a_penalty_of_nothing_and_a_repair_of_nothing_leave_every_bit_as_it_is(monkeypatch, alone):
    from gcp_core.repairs import build_repair
    from gcp_core.training import composition

    plain = alone(SINGLE)
    null = run_trial(other(train={"penalty": f"{OURS}:Zero"}), latency=False)
    assert null.weights_sha256 == plain.weights_sha256
    assert null.plans == plain.plans
    assert without_time(null) == without_time(plain)
    # The null repair is not even called; called, it changes nothing.
    monkeypatch.setattr(composition, "NO_REPAIR", "is called")
    called = run_trial(SINGLE, latency=False)
    assert build_repair("none").patch(None, None, None, [], None) is None
    assert called.weights_sha256 == plain.weights_sha256
    assert [plan.meta["repair"] for plan in called.plans] == ["none"] * 3


def test_the_interval_clock_is_a_clock_that_is_due_whenever_it_may_be(alone):
    asked = run_trial(other(clock="gcp_core.schedule.clocks:Interval"), latency=False)
    assert asked.weights_sha256 == alone(SINGLE).weights_sha256


def test_every_slot_changes_the_trial_that_it_fills(alone):
    plain = alone(SINGLE).weights_sha256
    for prune, train in (
        (REPAIR, {}), ({}, PENALTY), (CLOCK, {}), ({"allocator": f"{OURS}:FirstGroup"}, {}),
    ):  # fmt: skip
        assert alone(other(train=train, **prune)).weights_sha256 != plain


# --- exact after a kill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_a_trial_with_every_slot_filled_goes_on_bit_by_bit_after_a_kill(tmp_path, alone, killed):
    config = other(train={**PENALTY, "epochs": 6}, until=6, **REPAIR, **CLOCK)
    straight = alone(config)
    assert [plan.meta["epoch"] for plan in straight.plans] == [2, 4, 6]
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(killed), checkpoint_dir=tmp_path, latency=False)
    torch.manual_seed(99)
    resumed = run_trial(config, checkpoint_dir=tmp_path, latency=False)
    assert resumed.trained_epochs == 7 - killed
    assert resumed.weights_sha256 == straight.weights_sha256
    assert resumed.plans == straight.plans
    assert without_time(resumed) == without_time(straight)


@pytest.mark.parametrize("killed", [2, 3, 4, 5])
def test_a_path_with_penalty_and_repair_goes_on_bit_by_bit_after_a_kill(tmp_path, alone, killed):
    config = other(PATH, train=PENALTY, **REPAIR)
    straight = alone(config)
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(killed), checkpoint_dir=tmp_path)
    resumed = run_trial(config, checkpoint_dir=tmp_path)
    assert [s.weights_sha256 for s in resumed.snapshots] == [s.weights_sha256 for s in straight.snapshots]
    assert len(straight.snapshots) == 4


def test_the_models_that_are_left_have_the_repaired_weights(tmp_path):
    result = run_trial(other(**REPAIR), checkpoint_dir=tmp_path, latency=False)
    from gcp_core.records.checkpoint import weights_digest

    assert weights_digest(load_model(result.folder).state_dict()) == result.weights_sha256


def test_a_polish_has_the_penalty_and_goes_on_bit_by_bit(tmp_path):
    config = other(PATH, train=PENALTY, **REPAIR)
    path = run_trial(config, checkpoint_dir=tmp_path / "path")
    source = path.snapshots[2].folder
    straight = polish(config, source, 3, checkpoint_dir=tmp_path / "one").model
    with pytest.raises(Killed):
        polish(
            config, source, 3, report=killed_in(path.snapshots[2].epoch + 2), checkpoint_dir=tmp_path / "two"
        )
    again = polish(config, source, 3, checkpoint_dir=tmp_path / "two")
    assert again.trained_epochs == 2
    assert again.model.weights_sha256 == straight.weights_sha256


# --- sharing ------------------------------------------------------------------------------------------------------

#: Trials that differ only in a slot (or an option of one); each is compared with every other.
FILLED = {
    "plain": SINGLE,
    "repair": other(**REPAIR),
    "repair, other option": other(**REPAIR, repair_options={"share": 0.25}),
    "repair, other images": other(**REPAIR, scoring_images=20),
    "repair, other criterion": other(**REPAIR, criterion="l2"),
    "penalty": other(train=PENALTY),
    "penalty, other option": other(train={**PENALTY, "penalty_options": {"weight": 0.02}}),
    "penalty and repair": other(train=PENALTY, **REPAIR),
    "clock": other(**CLOCK),
    "clock, other option": other(**CLOCK, clock_options={"first": 1}),
    "allocator": other(allocator=f"{OURS}:FirstGroup"),
    "looking allocator": other(allocator=f"{OURS}:Looking"),
    "sets": other(criterion=f"{OURS}:Sets"),
    "uniform": other(allocator="uniform"),
}


@pytest.fixture(scope="module")
def seen():
    found = {}
    for name, config in FILLED.items():
        store = Remembering()
        run_trial(config, stages=store, latency=False)
        found[name] = store.seen
    return found


def test_trials_that_differ_in_a_slot_share_no_state_that_the_slot_has_influenced(seen):
    """Equal keys have equal weights, and what a slot has not touched yet is shared."""
    assert states_in_common(seen) > 40
    assert not set(seen["plain"]) & set(seen["penalty"])
    assert not set(seen["penalty"]) & set(seen["penalty, other option"])
    for one, two in itertools.combinations(("plain", "repair", "repair, other option"), 2):
        assert len(set(seen[one]) & set(seen[two])) == 1, "the epoch before the first event"
    late = set(seen["plain"]) & set(seen["clock"])
    assert len(late) == 1, "without an event after the first epoch, everything after it is another state"
    assert len(set(seen["plain"]) & set(seen["clock, other option"])) == 2, "both cut after the first epoch"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Into which every trial of :data:`FILLED` has been trained, one after the other."""
    store = StageStore(tmp_path_factory.mktemp("stages"))
    for config in FILLED.values():
        run_trial(config, stages=store, latency=False)
    return store


@pytest.mark.parametrize("name", ["repair", "penalty and repair", "clock", "looking allocator", "sets"])
def test_shared_training_gives_the_weights_of_training_alone(store, alone, name):
    by_itself = alone(FILLED[name])
    shared = run_trial(FILLED[name], stages=store, latency=False)
    assert shared.trained_epochs == 0
    assert shared.weights_sha256 == by_itself.weights_sha256
    assert shared.plans == by_itself.plans


def test_paths_that_differ_in_their_repair_part_at_their_first_event():
    found = {}
    for name, config in {
        "plain": PATH,
        "repair": other(PATH, **REPAIR),
        "penalty": other(PATH, train=PENALTY),
    }.items():
        store = Remembering()
        run_trial(config, stages=store)
        found[name] = store.seen
    assert len(set(found["plain"]) & set(found["repair"])) == 2, "the dense phase"
    assert not set(found["plain"]) & set(found["penalty"])
    assert states_in_common(found) == 2


# --- what looking costs -------------------------------------------------------------------------------------------


def test_the_looks_of_repair_allocator_and_clock_are_charged():
    """A forward of the scoring images costs their share of the training images, over 3 (forward and backward)."""
    plain = run_trial(other(until=1), latency=False)
    assert len(plain.plans) == 1
    sample = len(build_setup(SINGLE).scorer[1].images)
    share = sample / 96 / 3
    repaired = run_trial(other(until=1, **REPAIR), latency=False)
    assert repaired.finals["train_cost"] == pytest.approx(plain.finals["train_cost"] + 2.0 * share)
    looked = run_trial(other(until=1, allocator=f"{OURS}:Looking"), latency=False)
    own = looked.history[0].metrics["cost/macs"] * 3
    dense = build_setup(SINGLE).dense_cost.macs
    assert looked.finals["train_cost"] == pytest.approx(1 + own / dense + share)
    # Asked after epochs 1, 2 and 3 (half a forward each); it cuts after the second.
    timed = run_trial(other(**CLOCK), latency=False)
    macs = [1.0, 1.0, *[row.metrics["cost/macs"] / dense for row in timed.history[1:-1]]]
    assert [plan.meta["epoch"] for plan in timed.plans] == [2]
    assert timed.finals["train_cost"] == pytest.approx(sum(macs) + 0.5 * share * sum(macs[:3]))


@pytest.mark.parametrize(("allocator", "forwards", "cuts"), [("global", 0, [1]), (f"{OURS}:Looking", 1, [])])
def test_an_event_that_finds_nothing_to_remove_is_charged_for_its_look_also_after_a_kill(
    tmp_path, allocator, forwards, cuts
):
    """Floors leave one unit of each of the widest layers, which the first event takes; the looking allocator asks for
    units of a narrow one.
    """
    config = other(criterion="taylor", ratio=0.9, min_share=0.9, allocator=allocator)
    straight = run_trial(config, latency=False)
    assert [plan.meta["epoch"] for plan in straight.plans] == cuts
    setup = build_setup(config)
    share = len(setup.scorer[1].images) / 96 / 3
    dense = setup.dense_cost.macs
    macs = [1.0, *[row.metrics["cost/macs"] / dense for row in straight.history[:-1]]]
    # A forward and a backward pass of the criterion, and one of the allocator that looks.
    each = (3.0 + forwards) * share
    assert straight.finals["train_cost"] == pytest.approx(sum(macs) + each * sum(macs[:3]))
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(3), checkpoint_dir=tmp_path, latency=False)
    resumed = run_trial(config, checkpoint_dir=tmp_path, latency=False)
    assert resumed.finals["train_cost"] == straight.finals["train_cost"]


@pytest.mark.parametrize(
    ("criterion", "images"),
    [("mean_activation", 96), ("hrank", 32), ("shuffled:hrank", 32), ("bn_scale", 0), ("l1", 0)],
)
def test_a_criterion_is_charged_for_the_images_that_it_looks_at(criterion, images):
    """Apart from the one image that says which norm follows which layer."""
    config = other(until=1, criterion=criterion)
    setup, seen = build_setup(config), []
    model = setup.new_model()
    model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    setup.scorer[0].judge(model, setup.groups, setup.scorer[1], torch.Generator().manual_seed(0))
    assert sum(seen) - seen.count(1) == images
    trial = run_trial(config, latency=False)
    left = trial.history[0].metrics["cost/macs"] / setup.dense_cost.macs
    assert trial.finals["train_cost"] == pytest.approx(1 + 3 * left + images / 96 / 3)


# --- the null and the state ---------------------------------------------------------------------------------------


def test_a_state_that_does_not_fit_leaves_the_penalty_as_it_was():
    setup = build_setup(other(train=PENALTY))
    state = State.fresh(setup)
    state.optimizer = build_optimizer(state.model, setup.config.train)
    before = state.penalty
    with pytest.raises(KeyError):
        state.load({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}, "here")
    assert state.penalty is before


# --- bad input ----------------------------------------------------------------------------------------------------

RESNET = dataclasses.replace(SINGLE, model=ModelConfig("resnet20", width=0.25))
BAD = [
    (other(repair="leest_squares"), "prune.repair: 'leest_squares' is unknown"),
    (other(repair="nonne"), 'did you mean "none"?'),
    (other(train={"penalty": "nonne"}), "train.penalty: 'nonne' is unknown"),
    (other(clock="intervall"), 'prune.clock: \'intervall\' is unknown (did you mean "interval"?'),
    (other(allocator="unifrom"), 'prune.allocator: \'unifrom\' is unknown (did you mean "uniform"?'),
    (other(**REPAIR, repair_options={"sahre": 1}), "prune.repair_options.sahre: unknown option (value 1)"),
    (other(allocator_options={"p": 1}), "prune.allocator_options.p: unknown option (value 1) (this allocator has no"),
    (other(clock_options={"p": 1}), "prune.clock_options.p"),
    (other(train={"penalty": f"{OURS}:Sets"}), "returned a Sets, which is no penalty (a penalty has term(...))"),
    (other(repair=f"{OURS}:Zero"), "which is no repair (a repair has patch(...))"),
    (other(criterion=f"{OURS}:Sets", allocator=f"{OURS}:PerUnit"), "goes by scores of single units"),
    (other(criterion=f"shuffled:{OURS}:Sets"), "has no scores of single units to shuffle"),
    (other(RESNET, residual="scatter", **REPAIR), "no layer reads the units of layer1.0.conv2"),
    (other(RESNET, residual="scatter", allocator=f"{OURS}:Growing"), "lets layers grow"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "message"), BAD)
def test_what_cannot_work_is_refused_before_training(config, message):
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: other(PATH, **CLOCK), "prune.clock"),
        (lambda: other(target=0.3, finish=True, **CLOCK), "prune.finish: no event of the clock"),
        (lambda: other(repair=""), "prune.repair: '' is not a repair's name"),
        (lambda: other(allocator=3), "prune.allocator: 3 is not an allocator's name"),
        (lambda: other(repair_options=[1]), "prune.repair_options: [1] is not a mapping"),
        (lambda: other(repair_options={"a": {1}}), "prune.repair_options: holds what is no plain value"),
        (lambda: other(train={"penalty": None}), "train.penalty: None is not a penalty's name"),
        (lambda: other(method=""), "prune.method: '' is not a method's name"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_said(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_a_repair_in_scatter_mode_works_where_the_last_convs_are_excluded():
    check_config(other(RESNET, residual="inner", **REPAIR))
    check_config(other(RESNET, residual="scatter", exclude=("*.conv2",), **REPAIR))


# --- identity -----------------------------------------------------------------------------------------------------


def test_slots_that_are_not_filled_are_no_part_of_a_trials_key_and_a_method_never_is():
    assert not {"repair", "repair_options", "clock", "method"} & set(SINGLE.identity()["prune"])
    assert not {"penalty", "penalty_options"} & set(SINGLE.identity()["train"])
    assert other(method="gcp").key() == SINGLE.key()
    keys = {config.key() for config in FILLED.values()}
    assert len(keys) == len(FILLED)
    for config in FILLED.values():
        assert TrialConfig.from_dict(config.to_dict()) == config
