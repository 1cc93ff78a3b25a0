"""Shared training: the weights are those of unshared trials, and no epoch is trained that another trial trained."""

import dataclasses

import pytest

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.schema import PER_EPOCH
from gcp_core.training import run_trial
from gcp_core.training.stages import StageStore, stage_key
from tests.oracles.prefix_tree import ideal_epochs

BASE = TrialConfig(
    data=DataConfig("digits", val_share=0.25, train_images=200),
    model=ModelConfig("vgg_tiny", width=0.125),
    train=TrainConfig(epochs=6, batch_size=50),
    prune=PruneConfig(criterion="frs", start=3, interval=1, ratio=0.2, target=0.3, until=5),
)


def with_prune(**values):
    return dataclasses.replace(BASE, prune=dataclasses.replace(BASE.prune, **values))


TRIALS = [
    BASE.baseline(),
    with_prune(),
    with_prune(target=0.6),
    with_prune(interval=2, target=0.6),
    with_prune(interval=2, ratio=0.4, target=0.6),
    with_prune(start=2, target=0.3),
]


def comparable(result):
    """Everything of a result that is no wall time."""
    rows = [{k: v for k, v in r.metrics.items() if k != "time/epoch_s"} for r in result.history]
    finals = {k: v for k, v in result.finals.items() if k not in ("latency_ms", "device_hours")}
    return result.weights_sha256, result.plans, rows, finals


@pytest.fixture(scope="module")
def unshared():
    return [run_trial(config) for config in TRIALS]


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1)])
def test_shared_trials_equal_unshared_ones_bit_by_bit(tmp_path, unshared, order):
    store = StageStore(tmp_path)
    for i in order:
        assert comparable(run_trial(TRIALS[i], stages=store)) == comparable(unshared[i])


def test_no_epoch_of_the_prefix_tree_is_trained_twice(tmp_path, unshared):
    store = StageStore(tmp_path)
    trained = sum(run_trial(config, stages=store).trained_epochs for config in TRIALS)
    assert trained == ideal_epochs(unshared, epochs=6)
    assert trained < 36 / 1.5


def test_every_epoch_is_reported_also_those_that_another_trial_trained(tmp_path):
    store = StageStore(tmp_path)
    run_trial(BASE.baseline(), stages=store)
    seen = []
    run_trial(BASE, report=lambda r: seen.append(r), stages=store)
    assert [r.epoch for r in seen] == [1, 2, 3, 4, 5, 6]
    assert all(set(r.metrics) == set(PER_EPOCH) for r in seen)


def test_another_seed_thread_count_or_learning_rate_shares_nothing(tmp_path):
    store = StageStore(tmp_path)
    run_trial(BASE.baseline(), stages=store)
    for other in (
        dataclasses.replace(BASE, seed=1),
        dataclasses.replace(BASE, threads=2),
        dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, lr=0.05)),
    ):
        assert run_trial(other, stages=store).trained_epochs == 6


def test_a_damaged_stage_is_trained_again(tmp_path, unshared):
    store = StageStore(tmp_path)
    run_trial(BASE.baseline(), stages=store)
    for state in tmp_path.glob("*/state.pt"):
        state.write_bytes(state.read_bytes()[:-7])
    result = run_trial(TRIALS[1], stages=store)
    assert result.trained_epochs == 6
    assert comparable(result) == comparable(unshared[1])


def test_a_shared_trial_that_was_killed_resumes_to_the_same_weights(tmp_path, unshared):
    store = StageStore(tmp_path / "stages")
    run_trial(BASE.baseline(), stages=store)

    def kill(seen):
        if seen.epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(TRIALS[2], report=kill, checkpoint_dir=tmp_path / "trial", stages=store)
    resumed = run_trial(TRIALS[2], checkpoint_dir=tmp_path / "trial", stages=store)
    assert comparable(resumed) == comparable(unshared[2])


def test_the_store_stays_within_its_bound_and_drops_what_was_not_used_for_longest(tmp_path):
    store = StageStore(tmp_path, max_bytes=1)
    run_trial(BASE.baseline(), stages=store)
    assert len(list(tmp_path.iterdir())) == 1, "the newest stage stays, whatever its size"
    roomy = StageStore(tmp_path / "roomy")
    run_trial(BASE.baseline(), stages=roomy)
    assert len(list(roomy.root.iterdir())) == 6


def test_the_key_depends_on_what_was_removed_and_when():
    plan = run_trial(BASE).plans[0]
    keys = {
        stage_key("trunk", [], 4),
        stage_key("trunk", [], 5),
        stage_key("other", [], 4),
        stage_key("trunk", [plan], 4),
        stage_key("trunk", [plan.with_meta(epoch=2)], 4),
    }
    assert len(keys) == 5
    assert stage_key("trunk", [plan], 4) == stage_key("trunk", [plan.with_meta(criterion="l1")], 4)


def test_epochs_taken_over_count_the_units_of_the_trial_that_takes_them_over(tmp_path):
    """The baseline knows nothing of ``exclude``: more units are prunable there."""
    config = with_prune(exclude=("features.0",), target=0.2)
    store = StageStore(tmp_path)
    run_trial(BASE.baseline(), stages=store)
    assert comparable(run_trial(config, stages=store)) == comparable(run_trial(config))
