"""Several processes train one trial: all with the same plans and weights, and none waits for one that is gone."""

import dataclasses
import os
import signal
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError, GcpError, ModelError, ProcessLost
from gcp_core.records.checkpoint import load_model
from gcp_core.records.stages import StageStore
from gcp_core.training import run_trial
from gcp_core.training.polish import polish
from gcp_core.training.team import group, team
from gcp_core.training.team.member import Started
from gcp_core.training.team.processes import start_here
from gcp_core.training.team.share import Share
from gcp_core.training.team.team import Team
from tests.gcp_core.training.interrupted import Killed, killed_in, without_time
from tests.oracles.small_paths import PATH, comparable, path, weights_on_disk

pytestmark = pytest.mark.integration

PARTS = "tests.gcp_core.training.team.parts"
#: Three events, four snapshots.
PATH_OF_TWO = path(train={"processes": 2})
#: Three events in four epochs; 72 images in batches of 16, so the last one has 8.
SINGLE = TrialConfig(
    seed=2,
    data=DataConfig("digits", val_share=0.25, train_images=72),
    model=ModelConfig("vgg_tiny", width=0.125),
    train=TrainConfig(epochs=4, batch_size=16, processes=2),
    prune=PruneConfig(criterion="frs", interval=1, ratio=0.15, target=None, until=3, min_channels=1),
)


def trained(config=SINGLE, **train):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def baseline(model, processes=2, **train):
    """Two epochs without pruning: 73 images in batches of 32, so the last one has 9, which two cannot share evenly."""
    return TrialConfig(
        data=DataConfig("digits", val_share=0.25, train_images=73),
        model=ModelConfig(model, width=0.125),
        train=TrainConfig(epochs=2, batch_size=32, processes=processes, **train),
        prune=None,
    )


class Watched:
    """The processes that a trial starts."""

    def __init__(self):
        self.members = []

    def __call__(self, config):
        started = start_here(config)
        self.members = list(started.members)
        return started

    @property
    def pids(self):
        return [member.pid for member in self.members]


class Kept(Watched):
    """Starts a second process once: a trial that ends well leaves it for the next one."""

    def __call__(self, config):
        if not self.members:
            (member,) = start_here(config).members
            self.members.append(member)
            self.end, member.end = member.end, lambda timeout_s: "kept"
        return Started(self.members)


@pytest.fixture(scope="module")
def kept():
    start = Kept()
    yield start
    start.end(10.0)


def gone(pids):
    """Whether none of the processes is left: they were waited for, so there are no zombies."""
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.fixture
def marks(monkeypatch):
    """Before and after every epoch: what all processes have then."""
    seen = []
    train = Team.train

    def watched(team, state, pace=None):
        team._catch_up(state)
        seen.append(team.marks(state))
        loss = train(team, state, pace)
        seen.append(team.marks(state))
        return loss

    monkeypatch.setattr(Team, "train", watched)
    return seen


@pytest.fixture(scope="module")
def straight(kept):
    return run_trial(SINGLE, start=kept)


# --- the same in all processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [PATH, trained(processes=1)], ids=["path", "single"])
def test_one_process_through_the_distributed_code_is_plain_training_bit_by_bit(config):
    alone, team = run_trial(config), run_trial(config, start=start_here)
    assert team.weights_sha256 == alone.weights_sha256
    assert team.plans == alone.plans
    assert without_time(team) == without_time(alone)
    assert not dist.is_initialized()


def test_steps_of_several_processes_run_as_they_are_written_and_that_is_said_once(caplog):
    plain = trained(processes=1)
    team = run_trial(trained(plain, compile="inductor"), start=start_here)
    assert team.weights_sha256 == run_trial(plain).weights_sha256
    said = [record.message for record in caplog.records if "as they are written" in record.message]
    assert said == ["train.compile: steps of several processes run as they are written"]


SCATTER = dataclasses.replace(
    trained(sync_norms=True, batch_size=36),
    model=ModelConfig("resnet20", width=0.25),
    prune=dataclasses.replace(SINGLE.prune, residual="scatter"),
)


@pytest.mark.parametrize(
    ("config", "events", "epochs"),
    [(PATH_OF_TWO, 3, 8), (SINGLE, 3, 4), (SCATTER, 3, 4)],
    ids=["path", "single", "scatter with synchronised norms"],
)
def test_all_processes_have_the_same_plans_weights_and_momenta_before_and_after_every_epoch(
    marks, kept, config, events, epochs
):
    result = run_trial(config, start=kept)
    assert len(result.plans) == events
    assert len(result.snapshots) == (4 if config.is_path else 0)
    assert len(marks) == 2 * epochs
    for first, second in marks:
        assert first == second
    assert len({mark["plans"] for mark, _ in marks}) == events + 1
    assert len({mark["optimizer"] for mark, _ in marks}) == 1 + epochs + events


@pytest.mark.parametrize("model", ["without_norms", "WithAnUnusedLayer"])
def test_the_gradient_is_that_of_one_process_also_in_a_batch_that_two_cannot_share_evenly(
    tmp_path, kept, model
):
    """After six steps of rate 0.1, weights that differ by less than 1e-6 come of gradients that do so."""
    model = f"{PARTS}:{model}"
    one = run_trial(baseline(model, 1), checkpoint_dir=tmp_path / "one")
    two = run_trial(baseline(model, 2), checkpoint_dir=tmp_path / "two", start=kept)
    assert_close(one, two, 1e-6)
    assert two.history[-1].metrics["train/loss"] == pytest.approx(
        one.history[-1].metrics["train/loss"], abs=1e-6
    )


def test_synchronised_norms_see_the_whole_batch(tmp_path, kept):
    one = run_trial(baseline("vgg_tiny", 1), checkpoint_dir=tmp_path / "one")
    two = run_trial(baseline("vgg_tiny", 2, sync_norms=True), checkpoint_dir=tmp_path / "two", start=kept)
    assert_close(one, two, 1e-5)


def assert_close(one, two, off):
    wanted, found = (load_model(result.folder).state_dict() for result in (one, two))
    for name, tensor in wanted.items():
        assert torch.allclose(found[name].double(), tensor.double(), rtol=0, atol=off), name


def test_number_of_processes_and_their_norms_are_in_the_key_where_there_are_several():
    assert trained(processes=1).key() == trained(processes=1, sync_norms=True).key()
    keys = {trained(**t).key() for t in ({"processes": 1}, {}, {"processes": 4}, {"sync_norms": True})}
    assert len(keys) == 4
    assert "processes" not in trained(processes=1).identity()["train"]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_trial_that_was_killed_goes_on_bit_by_bit(tmp_path, kept, straight):
    watched = Watched()
    with pytest.raises(Killed):
        run_trial(SINGLE, report=killed_in(3), checkpoint_dir=tmp_path, start=watched)
    assert len(watched.pids) == 1
    assert gone(watched.pids)
    again = run_trial(SINGLE, checkpoint_dir=tmp_path, start=kept)
    assert again.trained_epochs == 2
    assert_same(again, straight)


def assert_same(result, wanted):
    assert result.weights_sha256 == wanted.weights_sha256
    assert result.plans == wanted.plans
    assert without_time(result) == without_time(wanted)


def test_what_a_penalty_has_learned_of_the_first_process_s_images_goes_on(tmp_path, kept):
    config = trained(penalty=f"{PARTS}:Counts")
    with pytest.raises(Killed):
        run_trial(config, report=killed_in(3), checkpoint_dir=tmp_path, start=kept)
    assert_same(run_trial(config, checkpoint_dir=tmp_path, start=kept), run_trial(config, start=kept))


def test_a_process_killed_in_the_middle_of_an_epoch_ends_the_call_and_the_next_one_goes_on(
    tmp_path, kept, monkeypatch
):
    wanted = run_trial(PATH_OF_TWO, checkpoint_dir=tmp_path / "straight", start=kept)
    watched, steps, of_batch = Watched(), [], Share.of_batch

    def killing(share, *about):
        steps.append(about)
        if len(steps) == 14:  # of three a batch: in epoch 5, two events behind it
            os.kill(watched.pids[0], signal.SIGKILL)
        return of_batch(share, *about)

    monkeypatch.setattr(Share, "of_batch", killing)
    with pytest.raises(ProcessLost, match=r"process 1 of 2 is gone \(killed by signal 9\)") as raised:
        run_trial(PATH_OF_TWO, checkpoint_dir=tmp_path / "lost", start=watched)
    assert "newest checkpoint" in raised.value.hint
    assert gone(watched.pids)
    assert not dist.is_initialized()
    again = run_trial(PATH_OF_TWO, checkpoint_dir=tmp_path / "lost", start=kept)
    assert again.trained_epochs == 4
    assert comparable(again) | {"snapshots": 0} == comparable(wanted) | {"snapshots": 0}
    assert weights_on_disk(tmp_path / "lost") == weights_on_disk(tmp_path / "straight")


def test_training_that_others_have_left_is_taken_over_by_all_processes(tmp_path, kept):
    stages = StageStore(tmp_path)
    first = run_trial(SINGLE, stages=stages, start=kept)
    other = dataclasses.replace(SINGLE, prune=dataclasses.replace(SINGLE.prune, interval=2))
    shared = run_trial(other, stages=stages, start=kept)
    assert (first.trained_epochs, shared.trained_epochs) == (4, 3)
    assert_same(shared, run_trial(other, start=kept))


def test_a_polish_is_trained_by_all_processes_and_goes_on_bit_by_bit(tmp_path, kept):
    result = run_trial(path(train={"processes": 2}, target=0.3), checkpoint_dir=tmp_path, start=kept)
    source = result.snapshots[-1].folder
    config = path(train={"processes": 2}, target=0.3)
    straight = polish(config, source, 2, start=kept)
    last = result.snapshots[-1].epoch
    with pytest.raises(Killed):
        polish(config, source, 2, report=killed_in(last + 2), checkpoint_dir=tmp_path, start=kept)
    again = polish(config, source, 2, checkpoint_dir=tmp_path, start=kept)
    assert again.trained_epochs == 1
    assert again.model.weights_sha256 == straight.model.weights_sha256


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_raised_in_one_process_is_raised_and_ends_all(rank):
    watched = Watched()
    config = trained(penalty=f"{PARTS}:RaisesIn", penalty_options={"rank": rank})
    with pytest.raises(LookupError, match=f"made to fail in process {rank}") as raised:
        run_trial(config, start=watched)
    notes = getattr(raised.value, "__notes__", [])
    assert [note.startswith("in process 1 of 2:\nTraceback") for note in notes] == [True] * rank
    assert gone(watched.pids)
    assert not dist.is_initialized()


def test_a_process_that_hangs_is_given_up_after_a_while(monkeypatch):
    watched, steps, of_batch = Watched(), [], Share.of_batch

    def stopping(share, *about):
        steps.append(about)
        if len(steps) == 3:
            os.kill(watched.pids[0], signal.SIGSTOP)
        return of_batch(share, *about)

    monkeypatch.setattr(Share, "of_batch", stopping)
    monkeypatch.setattr(team, "_REASON_S", 0.5)
    join = group.join

    def impatient(*about):
        join(*about)
        dist.set_timeout(timedelta(seconds=3))

    monkeypatch.setattr(group, "join", impatient)
    with pytest.raises(ProcessLost, match=r"process 1 of 2 hangs: .*Timed out"):
        run_trial(SINGLE, start=watched)
    assert gone(watched.pids)


def test_processes_that_drift_apart_are_noticed_after_the_epoch():
    config = trained(penalty=f"{PARTS}:Drifts", penalty_options={"rank": 1})
    with pytest.raises(
        GcpError, match="process 1 has other weights than the first one after training epoch 1"
    ):
        run_trial(config)


def test_a_loss_that_is_not_finite_is_so_for_all(kept):
    result = run_trial(trained(lr=1e30), start=kept)
    assert result.status == "diverged"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"processes": 3},
            r"train.processes: 3 processes cannot share batches of 16 images evenly.*batch_size: 15",
        ),
        ({"processes": 16}, "two or more each.*batch_size: 32"),
        ({"processes": 0}, "train.processes: 0 is not a whole number >= 1"),
        ({"sync_norms": 1}, "train.sync_norms: 1 is neither true nor false"),
        ({"device": "cuda:1"}, "train.device: 'cuda:1' is one GPU, but there are 2 processes"),
    ],
)
def test_numbers_that_cannot_be_are_refused(train, message):
    with pytest.raises(ConfigError, match=message):
        trained(**train)


@pytest.mark.parametrize(("seen", "hint"), [(0, "train.device: cpu"), (1, "at most 1")])
def test_more_processes_than_gpus_are_refused(monkeypatch, seen, hint):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    with pytest.raises(
        ConfigError, match=f"2 processes want a GPU each, but this process sees {seen}.*{hint}"
    ):
        run_trial(trained(device="cuda"))


def test_a_torch_without_what_gpus_talk_through_is_refused(monkeypatch):
    for name, value in (("is_available", True), ("device_count", 2), ("current_device", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(ConfigError, match="several GPUs need NCCL"):
        run_trial(SINGLE)


def test_a_process_that_is_one_of_a_group_already_is_refused(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError, match=r"torch\.distributed is in use in this process already"):
            run_trial(SINGLE)
    finally:
        dist.destroy_process_group()


def test_norms_of_torch_that_wait_for_others_by_themselves_are_refused():
    with pytest.raises(ModelError, match=r"SyncBatchNorm waits for all processes.*train.sync_norms: true"):
        run_trial(baseline(f"{PARTS}:with_torch_sync_norm"))
