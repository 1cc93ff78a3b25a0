"""Shared training: the weights are those of unshared trials, and no epoch is trained that another trial trained."""

import dataclasses
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.records.checkpoint import STATE, read_manifest, read_state
from gcp_core.records.stages import MAX_BYTES, StageStore, stage_key, usual_bound
from gcp_core.schema import PER_EPOCH
from gcp_core.training import run_trial
from tests.oracles.sweeps.prefix_tree import ideal_epochs

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
    finals = {k: v for k, v in result.finals.items() if k != "device_hours" and "latency" not in k}
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


@pytest.mark.parametrize("moment", ["before the hash", "before the time stamp"])
def test_a_stage_that_is_evicted_while_it_is_read_costs_only_the_sharing(
    tmp_path, unshared, monkeypatch, moment
):
    """Another process makes room between any two of this one's looks at the folder."""
    from gcp_core.records import checkpoint

    store = StageStore(tmp_path)
    run_trial(BASE.baseline(), stages=store)
    evicted = []

    def evicting(real, folder_of):
        def first_evict(path, *args, **kwargs):
            evicted.append(folder_of(path))
            shutil.rmtree(folder_of(path))
            return real(path, *args, **kwargs)

        return first_evict

    if moment == "before the hash":
        monkeypatch.setattr(checkpoint, "file_digest", evicting(checkpoint.file_digest, lambda p: p.parent))
    else:
        monkeypatch.setattr(os, "utime", evicting(os.utime, lambda p: p))
    assert comparable(run_trial(TRIALS[1], stages=store)) == comparable(unshared[1])
    assert evicted


@pytest.mark.parametrize("harm", ["another model", "another optimiser", "no loss", "no history"])
def test_a_stage_that_does_not_fit_is_passed_over_whole(tmp_path, unshared, monkeypatch, harm):
    """Whatever lies under a key: tensors that happen to fit are not taken while others are not."""
    store = StageStore(tmp_path)
    run_trial(BASE.baseline(), stages=store)
    real = store.load

    def spoiled(key):
        found = real(key)
        if found is None:
            return None
        manifest, tensors = found
        if harm == "another model":
            tensors["model"]["features.4.running_mean"] = torch.zeros(99)
        elif harm == "another optimiser":
            tensors["optimizer"]["state"][5]["momentum_buffer"] = torch.zeros(99)
        else:
            del manifest[harm.removeprefix("no ")]
        return manifest, tensors

    monkeypatch.setattr(store, "load", spoiled)
    result = run_trial(TRIALS[1], stages=store)
    assert result.trained_epochs == 6
    assert comparable(result) == comparable(unshared[1])


def test_what_others_trained_counts_as_if_the_trial_had_trained_it(tmp_path):
    """``device_hours`` does not depend on who ran first: not on what was taken over, not on what was only loaded."""
    store = StageStore(tmp_path)
    baseline = run_trial(BASE.baseline(), stages=store)
    before = {r.epoch: r.metrics["time/epoch_s"] for r in baseline.history}
    again = run_trial(BASE.baseline(), stages=store)
    assert again.trained_epochs == 0
    times = {r.epoch: r.metrics["time/epoch_s"] for r in again.history}
    assert [times[e] for e in range(1, 6)] == [before[e] for e in range(1, 6)]
    (stage,) = [s for s in map(read_manifest, tmp_path.iterdir()) if len(s["history"]) == 5]
    assert times[6] > stage["seconds"] > 0, "the last epoch was loaded, and counts what its training took"
    assert again.finals["device_hours"] == sum(times.values()) / 3600


def test_device_hours_count_the_devices():
    config = dataclasses.replace(BASE.baseline(), train=dataclasses.replace(BASE.train, epochs=1))
    for devices, factor in ((None, 1), (0.25, 0.25), (4, 4)):
        result = run_trial(config, devices=devices)
        assert result.finals["device_hours"] == factor * result.history[0].metrics["time/epoch_s"] / 3600
    two = run_trial(dataclasses.replace(config, threads=2))
    assert two.finals["device_hours"] == 2 * two.history[0].metrics["time/epoch_s"] / 3600


def test_what_is_being_written_is_not_evicted(tmp_path):
    being_written = tmp_path / ".0123-tmp"
    being_written.mkdir()
    (being_written / "state.pt").write_bytes(b"x" * 100)
    run_trial(BASE.baseline(), stages=StageStore(tmp_path, max_bytes=1))
    assert being_written.is_dir()


def test_what_a_killed_process_was_writing_goes_after_an_hour_and_what_is_written_stays(tmp_path) -> None:
    """A large file on a slow disk may take longer: its folder is old, but the file grows."""
    now = time.time()
    for name, folder_s, file_s in (("young", 3000, 3000), ("grows", 9000, 60), ("killed", 9000, 4000)):
        folder = tmp_path / f".0123-{name}"
        folder.mkdir()
        (folder / STATE).write_bytes(b"x" * 100)
        os.utime(folder / STATE, (now - file_s, now - file_s))
        os.utime(folder, (now - folder_s, now - folder_s))
    StageStore(tmp_path).save("k", {"w": torch.zeros(5)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".0123-grows", ".0123-young", "k"]


def test_a_store_is_looked_through_now_and_then_and_not_for_every_stage(tmp_path, monkeypatch) -> None:
    """A look after 2 % of the bound; the first stage of a process always looks."""
    store, looks = StageStore(tmp_path, max_bytes=10_000_000), []
    monkeypatch.setattr(store, "_evict", lambda keep: looks.append(keep))
    for number in range(60):
        store.save(f"k{number:02d}", {"w": torch.zeros(5000)}, {})  # 20 kB and a little: ten are 2 %
    assert looks[0] == "k00"
    assert 4 <= len(looks) <= 8


def test_by_default_stages_take_a_quarter_of_the_free_disk_and_never_nothing(tmp_path, monkeypatch) -> None:
    for free, expected in ((8 * 10**9, 2 * 10**9), (10**12, MAX_BYTES), (10**6, 64 * 1024**2)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert usual_bound(tmp_path / "not" / "there") == expected


PATH = dataclasses.replace(
    BASE,
    train=TrainConfig(schedule="cycles", batch_size=50),
    prune=PruneConfig(criterion="l1", start=2, interval=2, levels=(0.3, 0.5)),
)


@pytest.mark.parametrize(("config", "own"), [(with_prune(interval=2), [3, 5]), (PATH, [])])
def test_an_epoch_that_is_a_stage_and_a_checkpoint_is_one_file(tmp_path, config, own):
    """Only after an event of a single trial the checkpoint holds something else (``own``: these epochs)."""
    files = {}

    def saved(folder):
        manifest, state = read_manifest(folder), folder / STATE
        files[manifest["epoch"]] = state.stat().st_nlink
        read_state(folder, manifest)

    result = run_trial(config, checkpoint_dir=tmp_path / "t", stages=StageStore(tmp_path / "s"), saved=saved)
    assert [plan.meta["epoch"] for plan in result.plans] == own or config.is_path
    assert {epoch for epoch, names in files.items() if names == 1} == set(own)
    assert {names for epoch, names in files.items() if epoch not in own} == {2}
