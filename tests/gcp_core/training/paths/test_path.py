"""A path from start to end: its order of work, its levels and ends, its snapshots and what they have cost."""

import dataclasses
import hashlib
import json

import pytest
import torch

from gcp_core.config import PruneConfig, TrainConfig
from gcp_core.data import RawData
from gcp_core.data.digits import load_digits
from gcp_core.errors import Diverged, InfeasibleTarget
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, reachable_share
from gcp_core.records.checkpoint import load_model, read_manifest, weights_digest
from gcp_core.records.results import read_snapshots
from gcp_core.schema import FINALS, PER_EPOCH
from gcp_core.training import finals, observe, run_trial, sharing
from gcp_core.training import path as loop
from gcp_core.training.evaluation import evaluate_folder
from gcp_core.training.setup import check_config
from tests.oracles.mac_count import count_macs
from tests.oracles.small_paths import PATH, comparable, finals_that_count, path

IMAGE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(result, folder, epochs reported, snapshots told) of the path, kept on disk."""
    folder = tmp_path_factory.mktemp("path")
    reported, told = [], []
    result = run_trial(
        PATH, checkpoint_dir=folder, report=lambda row: reported.append(row), snapshot=told.append
    )
    return result, folder, reported, told


# --- the course ---------------------------------------------------------------------------------------------------


def test_a_path_leaves_a_finished_model_at_the_end_of_every_phase(ran):
    result, folder, reported, told = ran
    assert (result.status, result.ended, result.error, result.trained_epochs) == ("complete", "target", "", 8)
    assert [(s.level, s.epoch) for s in result.snapshots] == [(0, 2), (1, 4), (2, 6), (3, 8)]
    assert [plan.meta["epoch"] for plan in result.plans] == [2, 4, 6]
    assert tuple(told) == result.snapshots == read_snapshots(folder)
    assert [row.epoch for row in reported] == list(range(1, 9))
    assert all(set(row.metrics) == set(PER_EPOCH) for row in reported)


def test_a_paths_own_values_are_those_of_its_last_snapshot(ran):
    result, folder, _, _ = ran
    last = result.snapshots[-1]
    assert (result.finals, result.weights_sha256, result.folder) == (
        last.finals,
        last.weights_sha256,
        last.folder,
    )
    assert last.folder == folder / "snapshots" / "03"


def test_the_cost_changes_with_the_first_epoch_of_a_cycle_and_never_within(ran):
    macs = [row.metrics["cost/macs"] for row in ran[0].history]
    snapshots = [s.finals["macs"] for s in ran[0].snapshots]
    assert macs == [cost for cost in snapshots for _ in range(2)]
    assert snapshots == sorted(set(snapshots), reverse=True)
    units = [row.metrics["prune/channels_left"] for row in ran[0].history]
    taken = [plan.num_units for plan in ran[0].plans]
    assert units[::2] == [units[0] - sum(taken[:k]) for k in range(4)]


def test_nothing_is_evaluated_between_a_cut_and_the_training_after_it(monkeypatch, tmp_path):
    """Checkpoint, then the snapshot on all images, then the cut, then training."""
    done = []

    def noting(module, name, word):
        real = getattr(module, name)

        def noted(*args, **kwargs):
            done.append(word(*args) if callable(word) else word)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)

    def split(model, images, *_):
        return {337: "val", 450: "test"}[len(images)]

    noting(sharing, "train_epoch", "train")
    noting(observe, "evaluate", split)
    noting(finals, "evaluate", split)
    noting(finals, "save_model", "snapshot")
    noting(loop, "level_plan", "choose")
    noting(loop.State, "cut", "cut")
    noting(loop.EpochCheckpoints, "save", "state")
    run_trial(PATH, checkpoint_dir=tmp_path)
    epoch = ["train", "val", "state"]
    # The validation of a phase's last epoch is the snapshot's.
    phase = [*epoch, *epoch, "test", "snapshot", "choose", "cut"]
    assert done == [*phase * 3, *epoch, *epoch, "test", "snapshot"]


def test_a_snapshot_is_evaluated_on_all_validation_images_where_epochs_are_not(ran):
    part = run_trial(path(train={"eval_images": 50}))
    assert [s.finals["val_accuracy"] for s in part.snapshots] == [
        s.finals["val_accuracy"] for s in ran[0].snapshots
    ]
    assert part.weights_sha256 == ran[0].weights_sha256


# --- levels and ends ----------------------------------------------------------------------------------------------

SHORT = {"start": 1, "interval": 1}


def shares(result, of="macs"):
    return [s.finals[f"{of}_removed"] for s in result.snapshots]


@pytest.mark.parametrize("of", ["macs", "params"])
def test_a_path_ends_untrimmed_at_its_first_level_beyond_the_target(of):
    result = run_trial(path(**SHORT, of=of, ratio=0.3, target=0.4))
    found = shares(result, of)
    # 1 - 0.7^k: 0.3, 0.51; a unit of this net is up to an eighth of a layer.
    assert len(found) == 3
    assert 0.3 <= found[1] < 0.4
    assert 0.51 <= found[2] < 0.62
    assert [plan.meta["level"] for plan in result.plans] == pytest.approx([0.3, 0.51])
    assert (result.ended, result.finals["target_reached"]) == ("target", 1)
    assert [s.finals["target_reached"] for s in result.snapshots] == [0, 0, 1]


def test_a_path_goes_through_the_listed_levels():
    levels = (0.2, 0.5, 0.8)
    result = run_trial(path(**SHORT, levels=levels))
    assert [plan.meta["level"] for plan in result.plans] == list(levels)
    assert all(level <= share < level + 0.1 for level, share in zip(levels, shares(result)[1:], strict=True))
    assert (result.ended, result.finals["target_reached"]) == ("target", 1)


def test_of_units_every_event_takes_the_ratio_of_the_living():
    result = run_trial(path(**SHORT, ratio_of="units", ratio=0.25, target=0.6))
    alive = 56  # 2 * (4 + 8 + 16)
    for plan in result.plans:
        assert plan.num_units == int(0.25 * alive + 0.5)
        alive -= plan.num_units
    assert result.ended == "target"
    assert all(share < 0.6 for share in shares(result)[:-1])
    assert shares(result)[-1] >= 0.6


def test_an_event_cut_short_by_the_floors_is_trained_and_the_path_ends_there():
    result = run_trial(path(**SHORT, ratio=0.5, target=0.9, min_share=0.5))
    # Half of all channels left: a quarter of the MACs of inner layers, half at the first layer.
    assert len(result.snapshots) == 3
    assert 0.5 <= shares(result)[1] < 0.75
    assert shares(result)[2] < 0.75 < result.plans[-1].meta["level"] + 1e-9
    assert len(result.history) == 3, "the cycle after the last event was trained"
    assert (result.status, result.ended, result.finals["target_reached"]) == ("complete", "floors", 0)


def test_a_path_whose_floors_allow_nothing_more_ends_at_once():
    groups = find_groups(build_model("vgg_tiny", 10, 1, 0.125), IMAGE)
    least = reachable_share(groups, [Budget(ratio=1.0, min_channels=1, min_share=0.5)])
    result = run_trial(path(**SHORT, levels=(least, 0.9), min_share=0.5))
    assert shares(result) == [0, pytest.approx(least, abs=1e-12)]
    assert len(result.plans) == 1
    assert (result.status, result.ended, result.finals["target_reached"]) == ("complete", "floors", 0)


def test_a_path_without_a_target_goes_down_to_its_floors():
    result = run_trial(path(**SHORT, ratio=0.6, target=None, min_share=0.25))
    assert (result.status, result.ended) == ("complete", "floors")
    assert shares(result)[-1] > 0.84, "a quarter of the channels, about a sixteenth of most layers' MACs"


def test_floors_that_let_no_path_begin_are_refused():
    with pytest.raises(InfeasibleTarget, match="nothing can be removed"):
        check_config(path(min_share=1.0))


def test_floors_short_of_the_target_are_told_before_the_path_starts(caplog):
    check_config(path(min_share=0.5, target=0.9))
    assert "prune.min_channels=1, min_share=0.5 leave" in caplog.text
    assert "not at 90.0 % removed" in caplog.text


@pytest.mark.parametrize(("cap", "levels"), [(2, [0]), (3, [0]), (4, [0, 1]), (7, [0, 1, 2])])
def test_a_cap_ends_a_path_after_its_last_whole_cycle(ran, cap, levels):
    result = run_trial(path(train={"epochs": cap}))
    assert [s.level for s in result.snapshots] == levels
    assert (result.status, result.ended, result.finals["target_reached"]) == ("complete", "cap", 0)
    assert len(result.plans) == len(levels) - 1, "no event without its cycle"
    assert [s.weights_sha256 for s in result.snapshots] == [
        s.weights_sha256 for s in ran[0].snapshots[: len(levels)]
    ]


def test_a_level_hit_exactly_counts_as_reached():
    """1 - 0.8 is a hair below two tenths."""
    config = path(**SHORT, levels=(0.3, 0.8), model={"name": "tests.oracles.small_paths:ten_channels"})
    result = run_trial(config)
    assert [plan.num_units for plan in result.plans] == [3, 5]
    assert (result.ended, result.finals["target_reached"]) == ("target", 1)
    single = dataclasses.replace(
        config,
        train=TrainConfig(epochs=2, batch_size=32),
        prune=PruneConfig(
            criterion="l1", interval=1, until=1, ratio=1.0, target=0.8, min_channels=1, min_share=0
        ),
    )
    trial = run_trial(single)
    assert [plan.num_units for plan in trial.plans] == [8]
    assert trial.finals["target_reached"] == 1


# --- snapshots ----------------------------------------------------------------------------------------------------


def test_a_snapshot_has_every_final_but_the_wall_time_of_a_forward(ran):
    for snapshot in ran[0].snapshots:
        assert set(snapshot.finals) == {
            name for name in FINALS if name != "accuracy_drop" and "latency" not in name
        }
    timed = run_trial(path(train={"epochs": 2}), latency=True)
    assert timed.snapshots[0].finals["latency_ms"] > 0


def test_a_snapshot_is_a_model_like_any_other(ran):
    from torch.utils.flop_counter import FlopCounterMode

    result, _, _, _ = ran
    for snapshot in result.snapshots:
        model = load_model(snapshot.folder)
        assert weights_digest(model.state_dict()) == snapshot.weights_sha256
        assert evaluate_folder(snapshot.folder, "val").accuracy == snapshot.finals["val_accuracy"]
        assert evaluate_folder(snapshot.folder, "test").accuracy == snapshot.finals["test_accuracy"]
        with FlopCounterMode(display=False) as counter:
            model(IMAGE)
        assert counter.get_total_flops() / 2 == snapshot.finals["macs"]
        assert sum(p.numel() for p in model.parameters()) == snapshot.finals["params"]
    dense = result.snapshots[0].finals
    assert (dense["macs_removed"], dense["params_removed"], dense["compression"]) == (0, 0, 1)
    assert dense["macs"] == sum(count_macs(build_model("vgg_tiny", 10, 1, 0.125), IMAGE).values())
    assert len({s.weights_sha256 for s in result.snapshots}) == 4


def test_a_snapshots_manifest_says_where_it_stands_and_vouches_for_its_weights(ran):
    result, _, _, _ = ran
    for number, snapshot in enumerate(result.snapshots):
        manifest = read_manifest(snapshot.folder)
        assert manifest["snapshot"] == {"level": number, "epoch": 2 + 2 * number}
        assert manifest["status"] == "complete"
        assert manifest["finals"] == snapshot.finals
        assert manifest["config_key"] == PATH.key()
        assert manifest["config"] == json.loads(json.dumps(PATH.to_dict()))
        assert [plan["meta"]["epoch"] for plan in manifest["plans"]] == [2, 4, 6][:number]
        assert [row["epoch"] for row in manifest["history"]] == list(range(1, snapshot.epoch + 1))
        assert manifest["weights_sha256"] == snapshot.weights_sha256
        file = snapshot.folder / manifest["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == manifest["sha256"]


def test_epochs_and_device_hours_add_up_from_the_start(ran):
    result, _, _, _ = ran
    for snapshot in result.snapshots:
        seconds = [row.metrics["time/epoch_s"] for row in result.history[: snapshot.epoch]]
        assert snapshot.finals["epochs"] == snapshot.epoch
        assert snapshot.finals["device_hours"] == pytest.approx(sum(seconds) / 3600)
    half = run_trial(path(train={"epochs": 2}), devices=0.5)
    assert half.finals["device_hours"] == pytest.approx(
        0.5 * sum(row.metrics["time/epoch_s"] for row in half.history) / 3600
    )


#: What scoring one image costs, in forward passes; a training step costs three.
FORWARDS = {"l1": 0.0, "mean_activation": 1.0}


@pytest.mark.parametrize("criterion", FORWARDS)
def test_the_training_cost_is_what_a_hand_adds_up(tmp_path, criterion):
    result = run_trial(path(criterion=criterion, scoring_images=30, start=3), checkpoint_dir=tmp_path)
    macs = [sum(count_macs(load_model(s.folder), IMAGE).values()) for s in result.snapshots]
    spent = 0.0
    for number, snapshot in enumerate(result.snapshots):
        # Three dense epochs, then two of every model; 30 of 96 images scored on the model before each event.
        spent += (3 if number == 0 else 2) * macs[number]
        if number:
            spent += FORWARDS[criterion] / 3 * 30 / 96 * macs[number - 1]
        assert snapshot.finals["train_cost"] == pytest.approx(spent / macs[0])


def test_the_training_cost_of_trials_that_are_no_paths():
    """Each epoch counts the model that it trained: the event at its end comes after it."""
    prune = PruneConfig(
        criterion="mean_activation", interval=1, until=2, ratio=0.2, target=None, scoring_images=30
    )
    single = dataclasses.replace(PATH, train=TrainConfig(epochs=4, batch_size=32), prune=prune)
    assert run_trial(single.baseline()).finals["train_cost"] == 4
    result = run_trial(single)
    dense = result.finals["macs"] / (1 - result.finals["macs_removed"])
    left = [row.metrics["cost/macs"] / dense for row in result.history]
    scored = (1 + left[0]) * 30 / 96 / 3
    assert result.finals["train_cost"] == pytest.approx(1 + left[0] + left[1] + left[2] + scored)


def permuted(config):
    """Digits whose test labels are another's."""
    raw = load_digits(config)
    return RawData.build(raw.train_images, raw.train_labels, raw.test_images, (raw.test_labels + 1) % 10)


def test_the_test_labels_decide_about_nothing_but_the_test_accuracy():
    """The same plans, weights, costs and validation numbers whatever the test images are called."""
    true = run_trial(path(data={"name": f"{__name__}:true"}))
    other = run_trial(path(data={"name": f"{__name__}:permuted"}))
    assert other.plans == true.plans
    assert [s.weights_sha256 for s in other.snapshots] == [s.weights_sha256 for s in true.snapshots]

    def without_test(result):
        found = comparable(result)
        for values in (found["finals"], *(one for _, _, one, _ in found["snapshots"])):
            del values["test_accuracy"]
        return found

    assert without_test(other) == without_test(true)
    assert [s.finals["test_accuracy"] for s in other.snapshots] != [
        s.finals["test_accuracy"] for s in true.snapshots
    ]


def true(config):
    return load_digits(config)


# --- trouble ------------------------------------------------------------------------------------------------------


def diverging_in(monkeypatch, epoch):
    real = sharing.train_epoch

    def train_epoch(model, optimizer, setup, number, **more):
        if number == epoch:
            raise Diverged(f"the training loss is nan in epoch {number}", "train")
        return real(model, optimizer, setup, number)

    monkeypatch.setattr(sharing, "train_epoch", train_epoch)


def test_a_path_that_diverges_keeps_its_finished_snapshots(monkeypatch, tmp_path, ran):
    diverging_in(monkeypatch, 5)
    result = run_trial(PATH, checkpoint_dir=tmp_path)
    assert (result.status, result.ended) == ("diverged", "")
    assert "nan in epoch 5" in result.error
    assert [s.weights_sha256 for s in result.snapshots] == [s.weights_sha256 for s in ran[0].snapshots[:2]]
    assert finals_that_count(result.finals) == finals_that_count(ran[0].snapshots[1].finals)
    again = run_trial(PATH, report=lambda row: pytest.fail("trained again"), checkpoint_dir=tmp_path)
    assert (again.status, again.snapshots, again.finals) == ("diverged", result.snapshots, result.finals)


def test_a_path_that_diverges_before_its_first_snapshot_says_how_long_it_took(monkeypatch, tmp_path):
    diverging_in(monkeypatch, 2)
    result = run_trial(PATH, checkpoint_dir=tmp_path)
    assert (result.status, result.snapshots, result.folder) == ("diverged", (), None)
    hours = result.history[0].metrics["time/epoch_s"] / 3600
    assert result.finals == {"epochs": 1.0, "device_hours": pytest.approx(hours)}
    assert run_trial(PATH, checkpoint_dir=tmp_path).finals == result.finals
