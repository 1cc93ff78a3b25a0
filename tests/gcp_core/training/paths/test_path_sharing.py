"""Paths share what they have in common and nothing else: bit by bit the same as paths alone, no epoch trained twice."""

import dataclasses
import shutil

import pytest

from gcp_core.config import PruneConfig, TrainConfig
from gcp_core.records.checkpoint import read_manifest
from gcp_core.records.stages import StageStore, course_after_events, stage_key
from gcp_core.training import run_trial
from tests.gcp_core.records.test_stage_keys import NOT_IN_SINGLE_TRIALS
from tests.oracles.small_paths import PATH, comparable, path
from tests.oracles.sweeps.prefix_tree import ideal_path_epochs
from tests.oracles.sweeps.remembering import Remembering, states_in_common

#: Two starts, two intervals, three ratios. The ratios of each pair begin with other levels, so share the dense phase.
GRID = [
    path(start=start, interval=interval, ratio=ratio, criterion="l1")
    for start in (2, 3) for interval in (1, 2) for ratio in (0.25, 0.3, 0.5)
]  # fmt: skip
#: Paths that agree with the first one for a while, and its baseline.
KIN = [
    path(),
    path(target=0.3),
    path(levels=(0.3, 0.51, 0.9)),  # the same first two levels in other words
    path(levels=(0.3, 0.8)),
    path(train={"epochs": 5}),
    PATH.baseline(),
]


@pytest.fixture(scope="module")
def alone():
    """The results of :data:`KIN`, each trained without a store."""
    return [run_trial(config) for config in KIN]


@pytest.fixture(scope="module")
def _stages_of_path(tmp_path_factory):
    """What :data:`PATH` leaves behind in an empty store."""
    folder = tmp_path_factory.mktemp("stages") / "of_path"
    run_trial(PATH, stages=StageStore(folder))
    return folder


@pytest.fixture
def after_path(_stages_of_path, tmp_path):
    """A store of the test's own into which :data:`PATH` has been trained."""
    shutil.copytree(_stages_of_path, tmp_path / "after_path")
    return StageStore(tmp_path / "after_path")


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1)], ids=["forwards", "backwards"])
def test_paths_that_share_equal_paths_alone_bit_by_bit(tmp_path, alone, order):
    store = StageStore(tmp_path)
    for i in order:
        assert comparable(run_trial(KIN[i], stages=store)) == comparable(alone[i])


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_no_epoch_of_a_grid_of_paths_is_trained_twice(tmp_path, order):
    store = StageStore(tmp_path)
    results = [(config, run_trial(config, stages=store)) for config in GRID[::order]]
    trained = sum(result.trained_epochs for _, result in results)
    assert trained == ideal_path_epochs(results)
    # At the least the dense phases: twelve are trained as two.
    assert trained <= sum(len(result.history) for _, result in results) - (12 * 2.5 - (2 + 3))


def test_kin_share_every_cycle_that_they_have_in_common(tmp_path, alone):
    store = StageStore(tmp_path)
    trained = [run_trial(config, stages=store).trained_epochs for config in KIN]
    # The whole first path; nothing; one other last cycle; one other second cycle; nothing; nothing.
    assert trained == [8, 0, 2, 2, 0, 0]
    assert sum(trained) == ideal_path_epochs(list(zip(KIN[:5], alone[:5], strict=True)))


@pytest.mark.parametrize(
    ("other", "common"),
    [
        ({"ratio": 0.5}, 2),
        ({"criterion": "l1"}, 2),
        ({"min_share": 0.6, "ratio": 0.4}, 2),
        ({"start": 3}, 0),
        ({"start": 1}, 0),
        ({"seed": 2}, 0),
        ({"train": {"lr": 0.05}}, 0),
        ({"train": {"warmup": 0.5}}, 0),
    ],
    ids=str,
)
def test_paths_of_the_same_start_share_the_dense_phase_and_no_more(after_path, other, common):
    config = path(**other)
    shared = run_trial(config, stages=after_path)
    assert len(shared.history) - shared.trained_epochs == common
    assert comparable(shared) == comparable(run_trial(config))


@pytest.mark.parametrize(
    "other",
    [
        {"train": {"restart": 0.5}},
        {"train": {"pace": "slow_start"}},
        {"train": {"pace": "tests.gcp_core.schedule.test_paces:halving"}},
        {"interval": 3},
        {"interval": 1},
    ],
    ids=str,
)
def test_equal_cuts_at_another_rate_are_other_weights(after_path, alone, other):
    """The first event comes after the same epoch and takes the same units; from there on nothing is shared."""
    config, first = path(**other), alone[0]
    second = run_trial(config, stages=after_path)
    assert second.plans[0] == first.plans[0]
    assert len(second.history) - second.trained_epochs == 2
    assert second.snapshots[0].weights_sha256 == first.snapshots[0].weights_sha256
    assert second.snapshots[1].weights_sha256 != first.snapshots[1].weights_sha256
    assert comparable(second) == comparable(run_trial(config))


def test_a_baseline_of_as_many_epochs_as_the_dense_phase_is_the_dense_phase(tmp_path):
    store = StageStore(tmp_path)
    own = run_trial(PATH.baseline(), stages=store)
    result = run_trial(PATH, stages=store)
    assert len(result.history) - result.trained_epochs == 2
    assert result.snapshots[0].weights_sha256 == own.weights_sha256
    longer = dataclasses.replace(PATH, baseline_epochs=3).baseline()
    assert run_trial(longer, stages=store).trained_epochs == 3, (
        "one-cycle over more epochs is no continuation"
    )


def test_a_path_shares_nothing_after_an_event_with_a_single_trial_of_the_same_cut(tmp_path):
    """Same start, same first cut at the same epoch: the single trial's rate goes on falling, the path's restarts."""
    store = StageStore(tmp_path)
    run_trial(path(criterion="l1", ratio_of="units", ratio=0.2), stages=store)
    single = dataclasses.replace(
        PATH,
        train=TrainConfig(epochs=4, batch_size=32),
        prune=PruneConfig(
            criterion="l1",
            start=2,
            interval=1,
            until=2,
            ratio=0.2,
            target=None,
            min_channels=1,
            min_share=0.03,
        ),
    )
    assert run_trial(single, stages=store).trained_epochs == 4


def test_every_epoch_that_others_trained_is_reported_and_every_snapshot_taken(tmp_path, after_path, alone):
    reported, told = [], []
    result = run_trial(
        PATH, stages=after_path, report=lambda row: reported.append(row.epoch), snapshot=told.append,
        checkpoint_dir=tmp_path / "path",
    )  # fmt: skip
    assert reported == list(range(1, 9))
    assert [s.level for s in told] == [0, 1, 2, 3]
    assert result.trained_epochs == 0
    assert comparable(result) == comparable(alone[0])


def test_a_phase_is_taken_over_from_its_furthest_state_alone(after_path, alone):
    """The states before it may have been evicted; their epochs are reported all the same."""
    for folder in after_path.root.iterdir():
        if len(read_manifest(folder)["history"]) % 2 == 0:  # epochs 1, 3, 5, 7
            shutil.rmtree(folder)
    result = run_trial(PATH, stages=after_path)
    assert result.trained_epochs == 0
    assert comparable(result) == comparable(alone[0])


def test_a_shared_path_that_is_killed_goes_on_to_the_same_weights(tmp_path, alone):
    store = StageStore(tmp_path / "stages")
    run_trial(KIN[3], stages=store)

    def kill(seen):
        if seen.epoch == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(PATH, report=kill, checkpoint_dir=tmp_path / "path", stages=store)
    resumed = run_trial(PATH, checkpoint_dir=tmp_path / "path", stages=store)
    assert comparable(resumed) == comparable(alone[0])


def test_damaged_states_of_others_are_trained_again(after_path, alone):
    for state in after_path.root.glob("*/state.pt"):
        state.write_bytes(state.read_bytes()[:-7])
    result = run_trial(PATH, stages=after_path)
    assert result.trained_epochs == 8
    assert comparable(result) == comparable(alone[0])


def test_the_key_names_the_course_once_there_was_an_event(alone):
    plans = alone[0].plans
    courses = [
        course_after_events(path(**values))
        for values in (
            {},
            {"start": 3},
            {"interval": 3},
            {"train": {"restart": 1.0}},
            {"train": {"pace": "slow_start"}},
        )
    ]
    assert len({stage_key("trunk", plans[:1], 3, course) for course in courses}) == len(courses)
    assert len({stage_key("trunk", [], 2, course) for course in courses}) == 1
    for other in (path(target=0.9), path(train={"epochs": 9}), path(levels=(0.4,)), path(criterion="l1")):
        assert course_after_events(other) == courses[0], "what was cut says it"
    assert course_after_events(PATH.baseline()) == []


# --- equal key => equal weights -----------------------------------------------------------------------------------

#: What only paths have, and what means something else for them -> another value.
_OTHER = {
    "train.restart": 0.5,
    "train.pace": "slow_start",
    "train.epochs": 4,
    "train.lr": 0.05,
    "train.warmup": 0.5,
    "train.momentum": 0.8,
    "train.optimizer": "adamw",
    "prune.ratio_of": "units",
    "prune.levels": (0.3, 0.6),
    "prune.ratio": 0.45,
    "prune.start": 3,
    "prune.interval": 1,
    "prune.target": 0.4,
    "prune.of": "params",
    "prune.criterion": "l1",
    "prune.min_share": 0.5,
    "prune.min_channels": 3,
    "prune.round_to": 2,
    "prune.exclude": ("features.0",),
    "prune.scoring_images": 20,
    "prune.repair": "tests.oracles.fillings:HalfRemoved",
    "prune.allocator": "tests.oracles.fillings:FirstGroup",
    "train.penalty": "tests.oracles.fillings:Remembered",
    "seed": 2,
}


def changed(name):
    part, _, field = name.partition(".")
    if not field:
        return path(seed=_OTHER[name])
    return path(**({field: _OTHER[name]} if part == "prune" else {part: {field: _OTHER[name]}}))


def test_everything_that_only_paths_have_is_tried():
    assert {name.split(".")[-1] for name in _OTHER} >= NOT_IN_SINGLE_TRIALS


def test_equal_keys_of_paths_have_equal_weights():
    trained = {}
    for name in ["", *_OTHER]:
        store = Remembering()
        run_trial(changed(name) if name else PATH, stages=store)
        trained[name] = store.seen
    assert states_in_common(trained) > 100, "otherwise nothing was compared"
    # The converse where it is easy to see: what differs in the rate shares no state after the first event.
    for name, common in (("train.restart", 2), ("train.pace", 2), ("prune.interval", 2), ("prune.start", 0)):
        assert len(set(trained[""]) & set(trained[name])) == common, name
    assert set(trained["train.epochs"]) < set(trained[""]), "a cap is no part of the key"
    assert set(trained["prune.target"]) < set(trained[""])
