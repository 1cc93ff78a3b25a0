"""A path that rests after a cycle and goes on later is, bit by bit, one that never rested."""

import shutil

import pytest

from gcp_core.training import run_trial
from tests.oracles.small_paths import PATH, comparable, finals_that_count, path, weights_on_disk

LAST = 3  #: PATH has the snapshots 0 .. 3


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return run_trial(PATH, checkpoint_dir=folder), folder


def rest_at(*levels):
    return lambda snapshot: snapshot.level in levels


@pytest.mark.parametrize("level", range(LAST))
def test_a_path_rests_with_its_snapshots_and_is_not_over(straight, tmp_path, level):
    result = run_trial(PATH, checkpoint_dir=tmp_path, snapshot=rest_at(level))
    assert (result.status, result.ended) == ("paused", "paused")
    assert [s.weights_sha256 for s in result.snapshots] == [
        s.weights_sha256 for s in straight[0].snapshots[: level + 1]
    ]
    assert finals_that_count(result.finals) == finals_that_count(straight[0].snapshots[level].finals)
    assert len(result.history) == result.snapshots[-1].epoch
    assert len(result.plans) == level, "no cut before a rest: the next event belongs to the next cycle"
    assert not (tmp_path / "result.json").exists()
    assert len(list((tmp_path / "epochs").iterdir())) == 1, "one state to go on from"


def test_a_path_that_rests_at_every_level_comes_to_the_same_end(straight, tmp_path):
    trained = 0
    for level in range(LAST):
        told = []

        def tell(snapshot, level=level, told=told):
            told.append(snapshot.level)
            return snapshot.level == level

        result = run_trial(PATH, checkpoint_dir=tmp_path, snapshot=tell)
        assert (result.status, told[-1]) == ("paused", level)
        trained += result.trained_epochs
    result = run_trial(PATH, checkpoint_dir=tmp_path)
    assert trained + result.trained_epochs == len(straight[0].history), "no epoch twice"
    assert comparable(result) == comparable(straight[0])
    assert weights_on_disk(tmp_path) == weights_on_disk(straight[1])


def test_told_to_rest_again_at_once_it_rests_and_trains_nothing(tmp_path):
    run_trial(PATH, checkpoint_dir=tmp_path, snapshot=rest_at(1))
    again = run_trial(PATH, checkpoint_dir=tmp_path, snapshot=rest_at(1))
    assert (again.status, again.trained_epochs, len(again.snapshots)) == ("paused", 0, 2)


def test_a_path_at_its_end_does_not_rest(straight, tmp_path):
    result = run_trial(PATH, checkpoint_dir=tmp_path, snapshot=rest_at(LAST))
    assert comparable(result) == comparable(straight[0])


def test_a_resting_path_whose_target_is_lowered_is_over(tmp_path):
    run_trial(PATH, checkpoint_dir=tmp_path, snapshot=rest_at(2))
    result = run_trial(path(target=0.4), report=lambda row: pytest.fail("trained"), checkpoint_dir=tmp_path)
    assert (result.status, result.ended, len(result.snapshots)) == ("complete", "target", 3)


def test_a_resting_path_whose_state_is_gone_is_trained_again(straight, tmp_path):
    run_trial(PATH, checkpoint_dir=tmp_path, snapshot=rest_at(1))
    shutil.rmtree(tmp_path / "epochs")
    result = run_trial(PATH, checkpoint_dir=tmp_path)
    assert comparable(result) == comparable(straight[0])
    assert result.trained_epochs == len(straight[0].history)
