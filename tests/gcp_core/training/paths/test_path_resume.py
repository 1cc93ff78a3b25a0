"""A path that was killed, stopped or told to go deeper is, bit by bit, the one that was never interrupted."""

import dataclasses
import itertools
import json
import shutil
import signal

import pytest
import torch

from gcp_core.records import checkpoint
from gcp_core.records.checkpoint import load_model, weights_digest
from gcp_core.records.stages import StageStore
from gcp_core.training import finals, run_trial, sharing
from gcp_core.training import path as loop
from tests.gcp_core.training.interrupted import Killed
from tests.integration import drivers
from tests.oracles.small_paths import PATH, comparable, finals_that_count, path, weights_on_disk

pytestmark = pytest.mark.integration

#: Levels 0.3, 0.51, 0.657, 0.7599, 0.83193: two more cycles than the path to 0.6.
DEEP = path(target=0.8)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(result, folder) of the path that was never interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    return run_trial(PATH, checkpoint_dir=folder), folder


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """The same for the deeper target: target and cap are no part of a path, so it begins with the other one."""
    folder = tmp_path_factory.mktemp("deep")
    return run_trial(DEEP, checkpoint_dir=folder), folder


def begin_with(finished, folder):
    """Let ``folder`` be that of a path that has come to its end, as :func:`straight` and :func:`deep` have it."""
    shutil.copytree(finished[1], folder, dirs_exist_ok=True)


def assert_equal(result, folder, expected):
    wanted, wanted_folder = expected
    assert comparable(result) == comparable(wanted)
    assert weights_on_disk(folder) == weights_on_disk(wanted_folder)
    for snapshot in result.snapshots:
        assert weights_digest(load_model(snapshot.folder).state_dict()) == snapshot.weights_sha256


class Deaths:
    """Dies the n-th time that something is about to happen, or has just happened."""

    def __init__(self, monkeypatch, at):
        self.patch, self.left = monkeypatch, at

    def count(self, *_):
        self.left -= 1
        if self.left == 0:
            raise Killed

    def before(self, owner, name):
        real = getattr(owner, name)

        def dying(*args, **kwargs):
            self.count()
            return real(*args, **kwargs)

        self.patch.setattr(owner, name, dying)

    def after(self, owner, name):
        real = getattr(owner, name)

        def dying(*args, **kwargs):
            found = real(*args, **kwargs)
            self.count()
            return found

        self.patch.setattr(owner, name, dying)


#: Moment -> (the how manieth time, what dies there). An event's moments happen three times in the path, a snapshot's
#: four times, an epoch's eight times.
MOMENTS = {
    "in an epoch's training": ((1, 8), lambda d: d.after(sharing, "train_epoch")),
    "in the report": ((2, 8), None),
    # The third file is snapshot 0, the fifth the state at the end of the first cycle.
    "while a file is written": ((1, 3, 5), lambda d: d.before(checkpoint, "file_digest")),
    "in the saved hook": ((2, 4), None),
    "between checkpoint and snapshot": ((1, 4), lambda d: d.before(finals, "finals_of")),
    "before a snapshot is saved": ((1, 4), lambda d: d.before(finals, "save_model")),
    "while a snapshot is written": ((1, 4), lambda d: d.before(checkpoint, "flush")),
    "between a snapshot and its being told": ((1, 4), lambda d: d.after(finals, "save_model")),
    "in the snapshot hook": ((1, 4), None),
    "between snapshot and event": ((1, 4), lambda d: d.before(loop, "why_over")),
    "in the event, before the choice": ((1, 3), lambda d: d.before(loop, "level_plan")),
    "in the event, before the cut": ((1, 3), lambda d: d.before(loop.State, "cut")),
    "after the cut": ((1, 3), lambda d: d.after(loop.State, "cut")),
    "before the result is written": ((1,), lambda d: d.before(loop, "write_result")),
}


def run_to_death(config, folder, deaths, moment, told, **more):
    """Start or go on; True if it came to its end."""
    hooks = {"report": None, "saved": None, "snapshot": told.append}
    if MOMENTS[moment][1] is not None:
        MOMENTS[moment][1](deaths)
    elif moment == "in the snapshot hook":
        hooks["snapshot"] = lambda s: (deaths.count(), told.append(s))
    else:
        hooks["report" if "report" in moment else "saved"] = deaths.count
    return run_trial(config, checkpoint_dir=folder, **hooks, **more)


@pytest.mark.parametrize(
    ("moment", "time"), [(moment, time) for moment in MOMENTS for time in MOMENTS[moment][0]]
)
def test_a_path_killed_at_any_moment_goes_on_as_if_nothing_had_happened(straight, tmp_path, moment, time):
    told = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        run_to_death(PATH, tmp_path, Deaths(patch, time), moment, told)
    torch.manual_seed(99)  # whatever the new process has drawn before
    resumed = run_trial(PATH, checkpoint_dir=tmp_path, snapshot=told.append)
    assert_equal(resumed, tmp_path, straight)
    # Everybody is told of every snapshot; of one, at most, twice.
    assert sorted({s.level for s in told}) == [0, 1, 2, 3]
    assert len(told) <= 5
    assert {(s.level, s.weights_sha256) for s in told} == {
        (s.level, s.weights_sha256) for s in straight[0].snapshots
    }


@pytest.mark.parametrize("moment", ["in the saved hook", "in the snapshot hook", "after the cut"])
def test_a_killed_path_loses_at_most_the_epoch_it_was_in(tmp_path, moment):
    """Every epoch that ended with its checkpoint is trained once."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        run_to_death(PATH, tmp_path, Deaths(patch, 2), moment, [])
    # The second epoch's checkpoint, the second snapshot (after epoch 4), the second cut (after epoch 4).
    assert run_trial(PATH, checkpoint_dir=tmp_path).trained_epochs == (6 if "saved" in moment else 4)


def test_a_path_that_is_killed_over_and_over_still_comes_to_the_same_end(straight, tmp_path):
    """Each process dies at its second moment of another kind."""
    kinds = itertools.cycle(m for m in MOMENTS if len(MOMENTS[m][0]) > 1)
    for moment in itertools.islice(kinds, 40):
        try:
            with pytest.MonkeyPatch.context() as patch:
                result = run_to_death(PATH, tmp_path, Deaths(patch, 2), moment, [])
            break
        except Killed:
            continue
    assert_equal(result, tmp_path, straight)


def test_a_path_killed_by_the_system_goes_on_in_a_new_process(straight, tmp_path):
    code = """
import json, os, signal, sys
from gcp_core.config import TrialConfig
from gcp_core.training import run_trial
def snapshot(seen):
    if seen.level == 1:
        os.kill(os.getpid(), signal.SIGKILL)
run_trial(TrialConfig.from_dict(json.loads(sys.argv[1])), snapshot=snapshot, checkpoint_dir=sys.argv[2])
"""
    killed = drivers.run(code, [json.dumps(PATH.to_dict()), tmp_path])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_trial(PATH, checkpoint_dir=tmp_path)
    assert resumed.trained_epochs == 4
    assert_equal(resumed, tmp_path, straight)


@pytest.mark.parametrize("values", [{"criterion": "random"}, {"train": {"optimizer": "adamw", "lr": 1e-3}}])
def test_a_path_with_chance_or_another_optimiser_goes_on_bit_by_bit(tmp_path, values):
    config = path(**values)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        run_to_death(config, tmp_path / "killed", Deaths(patch, 5), "in the saved hook", [])
    resumed = run_trial(config, checkpoint_dir=tmp_path / "killed")
    whole = run_trial(config, checkpoint_dir=tmp_path / "whole")
    assert_equal(resumed, tmp_path / "killed", (whole, tmp_path / "whole"))


def test_a_damaged_last_checkpoint_falls_back_and_takes_its_snapshot_again(straight, tmp_path):
    """The state of epoch 4 is lost, its snapshot is not: it is trained to again, and is the same."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        run_to_death(PATH, tmp_path, Deaths(patch, 2), "in the snapshot hook", [])
    newest = tmp_path / "epochs" / "epoch_0004" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    told = []
    resumed = run_trial(PATH, checkpoint_dir=tmp_path, snapshot=told.append)
    assert resumed.trained_epochs == 5
    assert [s.level for s in told] == [1, 2, 3]
    assert_equal(resumed, tmp_path, straight)


def test_a_snapshot_killed_while_it_is_replaced_is_the_old_one_the_new_one_or_none(straight, tmp_path):
    """The checkpoints are gone, so the path is trained again over its own snapshots, and dies while one goes."""
    begin_with(straight, tmp_path)
    shutil.rmtree(tmp_path / "epochs")
    (tmp_path / "result.json").unlink()

    def half_removed(place, **_):
        if place.is_dir() and place.name.lstrip(".").startswith("01"):
            sorted(place.iterdir())[0].unlink()
            raise Killed
        real(place, ignore_errors=True)

    real = shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", half_removed)
        with pytest.raises(Killed):
            run_trial(PATH, checkpoint_dir=tmp_path)
    assert_equal(run_trial(PATH, checkpoint_dir=tmp_path), tmp_path, straight)


def test_a_finished_path_is_not_trained_again(straight):
    result, folder = straight
    again = run_trial(PATH, report=lambda row: pytest.fail("trained again"), checkpoint_dir=folder)
    assert comparable(again) == comparable(result)
    assert (again.snapshots, again.folder) == (result.snapshots, result.folder)


# --- deeper, longer -----------------------------------------------------------------------------------------------


def test_a_raised_target_trains_only_the_new_cycles(straight, deep, tmp_path):
    told = []
    begin_with(straight, tmp_path)
    result = run_trial(DEEP, checkpoint_dir=tmp_path, snapshot=told.append)
    assert result.trained_epochs == 4
    assert [s.level for s in told] == [3, 4, 5], "the last one might not have been heard of"
    assert weights_on_disk(tmp_path) == weights_on_disk(deep[1])
    assert [s.weights_sha256 for s in result.snapshots] == [s.weights_sha256 for s in deep[0].snapshots]
    assert (result.plans, result.ended) == (deep[0].plans, "target")
    assert finals_that_count(result.finals) == finals_that_count(deep[0].finals)


@pytest.mark.parametrize("first", [2, 4, 5, 7])
def test_a_raised_cap_trains_only_the_new_cycles(straight, tmp_path, first):
    capped = run_trial(path(train={"epochs": first}), checkpoint_dir=tmp_path)
    assert capped.ended == "cap"
    result = run_trial(path(train={"epochs": None}), checkpoint_dir=tmp_path)
    assert result.trained_epochs == 8 - len(capped.history)
    assert_equal(result, tmp_path, straight)


def test_a_cap_that_is_raised_by_less_than_a_cycle_changes_nothing(tmp_path):
    first = run_trial(path(train={"epochs": 4}), checkpoint_dir=tmp_path)
    again = run_trial(
        path(train={"epochs": 5}), report=lambda row: pytest.fail("trained"), checkpoint_dir=tmp_path
    )
    assert comparable(again) == comparable(first)


@pytest.mark.parametrize("shared", ["everything", "the dense phase", "nothing"])
def test_a_raised_target_whose_checkpoints_are_gone_is_trained_again(deep, tmp_path, shared):
    store = None if shared == "nothing" else StageStore(tmp_path / "stages")
    place = tmp_path / "path"
    run_trial(PATH, checkpoint_dir=place, stages=store)
    if shared == "the dense phase":
        shutil.rmtree(store.root)
        run_trial(PATH.dense_phase(), stages=store)
    shutil.rmtree(place / "epochs")
    result = run_trial(DEEP, checkpoint_dir=place, stages=store)
    assert result.trained_epochs == {"everything": 4, "the dense phase": 10, "nothing": 12}[shared]
    assert_equal(result, place, deep)


@pytest.mark.parametrize("target", [0.1, 0.5, 0.65])
def test_a_lowered_target_changes_nothing_and_trains_nothing(straight, target):
    result, folder = straight
    before = weights_on_disk(folder)
    again = run_trial(path(target=target), report=lambda row: pytest.fail("trained"), checkpoint_dir=folder)
    assert comparable(again) == comparable(result)
    assert weights_on_disk(folder) == before


def test_a_lowered_cap_changes_nothing_and_trains_nothing(straight):
    result, folder = straight
    config = path(train={"epochs": 4})
    again = run_trial(config, report=lambda row: pytest.fail("trained"), checkpoint_dir=folder)
    assert comparable(again) == comparable(result)


def test_a_target_raised_for_a_while_leaves_a_record_that_fits_together(straight, deep, tmp_path):
    """Killed in its first new cycle but one, then the target is what it was: the finished path, as it was recorded."""
    begin_with(straight, tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        run_to_death(DEEP, tmp_path, Deaths(patch, 3), "in the saved hook", [])
    again = run_trial(PATH, report=lambda row: pytest.fail("trained"), checkpoint_dir=tmp_path)
    assert comparable(again) == comparable(straight[0])
    assert again.folder == tmp_path / "snapshots" / "03"
    # And raised again it goes on from where it was killed.
    result = run_trial(DEEP, checkpoint_dir=tmp_path)
    assert result.trained_epochs == 1
    assert weights_on_disk(tmp_path) == weights_on_disk(deep[1])


@pytest.mark.parametrize("moment", ["in the saved hook", "in the snapshot hook", "after the cut"])
def test_a_path_killed_after_its_target_was_raised_goes_on(straight, deep, tmp_path, moment):
    begin_with(straight, tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        run_to_death(DEEP, tmp_path, Deaths(patch, 2), moment, [])
    result = run_trial(DEEP, checkpoint_dir=tmp_path)
    assert weights_on_disk(tmp_path) == weights_on_disk(deep[1])
    assert result.plans == deep[0].plans


def test_floors_are_no_target_a_path_that_ended_there_stays_ended(tmp_path):
    config = path(ratio=0.5, target=0.9, min_share=0.5)
    first = run_trial(config, checkpoint_dir=tmp_path)
    assert first.ended == "floors"
    deeper = dataclasses.replace(config, prune=dataclasses.replace(config.prune, target=0.95))
    again = run_trial(deeper, report=lambda row: pytest.fail("trained"), checkpoint_dir=tmp_path)
    assert comparable(again) == comparable(first)


# --- stopped ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "levels"), [(1, []), (2, [0]), (3, [0]), (4, [0, 1]), (5, [0, 1])])
def test_a_stopped_path_keeps_the_snapshots_it_has_finished(straight, tmp_path, epoch, levels):
    """At a phase's end the snapshot is taken; in the middle of a cycle the last one stands."""
    result = run_trial(PATH, report=lambda row: row.epoch == epoch, checkpoint_dir=tmp_path)
    assert (result.status, result.ended, len(result.history)) == ("stopped", "stopped", epoch)
    assert [s.level for s in result.snapshots] == levels
    assert [s.weights_sha256 for s in result.snapshots] == [
        s.weights_sha256 for s in straight[0].snapshots[: len(levels)]
    ]
    if levels:
        wanted = straight[0].snapshots[levels[-1]]
        assert finals_that_count(result.finals) == finals_that_count(wanted.finals)
    else:
        assert set(result.finals) == {"epochs", "device_hours"}
    again = run_trial(PATH, report=lambda row: pytest.fail("trained"), checkpoint_dir=tmp_path)
    assert comparable(again) == comparable(result)


def test_a_stop_with_a_paths_last_epoch_comes_too_late(straight, tmp_path):
    """As for a single trial: it is complete, and may be continued."""
    result = run_trial(PATH, report=lambda row: row.epoch == 8, checkpoint_dir=tmp_path)
    assert_equal(result, tmp_path, straight)
    assert run_trial(DEEP, checkpoint_dir=tmp_path).trained_epochs == 4
