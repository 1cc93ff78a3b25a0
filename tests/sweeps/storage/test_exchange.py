"""Driver and trials that share nothing but an object store (a real S3 server on loopback)."""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path

import pytest

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.training import run_trial
from sweeps.config.places import working_folder
from sweeps.records import spool
from sweeps.records.job import Job, Stop, write_stop
from sweeps.records.layout import EPOCHS, NEWEST, STAGES
from sweeps.storage.exchange import ObjectExchange, trial_exchange
from sweeps.storage.lock import Superseded
from sweeps.storage.object_stages import open_stages
from sweeps.storage.objects import ObjectStore
from sweeps.storage.packs import unpack
from sweeps.worker.trial import DEFAULT_RUNNER, run_job
from tests.integration import drivers

pytestmark = pytest.mark.integration


TRIAL = TrialConfig(
    data=DataConfig("digits", train_images=200),
    model=ModelConfig("vgg_tiny", 0.125),
    train=TrainConfig(epochs=5),
    prune=PruneConfig(criterion="l1", interval=1, ratio=0.3, target=0.5, until=1.0),
)


def _job(folder: Path, trial: TrialConfig = TRIAL) -> Job:
    return Job("t0000", "trial", 0, trial, {}, str(folder / "trials" / "t0000"))


def _run(url: str, job: Job, sink=lambda row: None, runner: str = DEFAULT_RUNNER):
    with trial_exchange(Path("/nowhere"), url) as exchange:
        return run_job(job, runner, sink, exchange=exchange)


class Died(BaseException):
    """Stands for a node that is gone: nothing after it is run."""


def test_a_trial_goes_on_on_another_node_from_its_last_epoch_to_the_same_weights(
    s3: str, tmp_path: Path
) -> None:
    alone = run_trial(TRIAL)
    job, seen = _job(tmp_path), []

    def dies(row: dict[str, float]) -> None:
        seen.append(row["epoch"])
        if row["epoch"] == 4:
            raise Died

    with contextlib.suppress(Died):
        _run(s3, job, dies)
    store = ObjectStore(s3)
    assert set(store.sizes(f"trials/t0000/{EPOCHS}")) == {f"trials/t0000/{EPOCHS}/{NEWEST}"}
    outcome = _run(s3, job, lambda row: seen.append(row["epoch"]))
    assert seen == [1, 2, 3, 4, 4, 5], "only the running epoch is trained again"
    assert outcome.weights_sha256 == alone.weights_sha256
    assert not store.sizes(f"trials/t0000/{EPOCHS}")
    assert not tmp_path.joinpath("trials").exists(), "the driver's folder is not the trial's"
    assert _run(s3, job, lambda row: pytest.fail("it had ended")) == outcome


def test_nodes_whose_clocks_are_days_apart_work_on_one_trial(s3: str, tmp_path: Path, monkeypatch) -> None:
    """The first is a day ahead and dies; the second is a day behind. Only the times of MLflow's points differ."""
    job, seen, real, day = _job(tmp_path), [], time.time, 86_400

    def dies(row: dict[str, float]) -> None:
        seen.append(row["epoch"])
        if row["epoch"] == 4:
            raise Died

    monkeypatch.setattr(spool.time, "time", lambda: real() + day)
    with contextlib.suppress(Died):
        _run(s3, job, dies)
    monkeypatch.setattr(spool.time, "time", lambda: real() - day)
    outcome = _run(s3, job, lambda row: seen.append(row["epoch"]))
    assert seen == [1, 2, 3, 4, 4, 5]
    assert outcome.weights_sha256 == run_trial(TRIAL).weights_sha256
    days = [round((row[spool.AT] / 1000 - real()) / day) for row in outcome.history]
    assert days == [1, 1, 1, -1, -1]


@pytest.mark.parametrize("damage", ["no pack", "half a pack", "another state"])
def test_a_checkpoint_that_is_damaged_in_the_store_is_passed_over(
    s3: str, tmp_path: Path, damage: str
) -> None:
    job, store, seen = _job(tmp_path), ObjectStore(s3), []

    def dies(row: dict[str, float]) -> None:
        if row["epoch"] == 4:
            raise Died

    with contextlib.suppress(Died):
        _run(s3, job, dies)
    newest = f"trials/t0000/{EPOCHS}/{NEWEST}"
    whole = store.read(newest)
    middle = len(whole) // 2
    changed = {
        "no pack": b"torn",
        "half a pack": whole[:middle],
        "another state": whole[:middle] + bytes(16) + whole[middle + 16 :],
    }
    assert changed[damage] != whole
    store.write(newest, changed[damage])
    outcome = _run(s3, job, lambda row: seen.append(row["epoch"]))
    assert seen == [1, 2, 3, 4, 5]
    assert outcome.weights_sha256 == run_trial(TRIAL).weights_sha256


def test_the_drivers_word_reaches_a_trial(s3: str, tmp_path: Path) -> None:
    drivers = ObjectExchange(tmp_path, s3)

    def sink(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            (tmp_path / "trials/t0000").mkdir(parents=True)
            write_stop(tmp_path / "trials/t0000", Stop("far behind"))
            drivers.send("trials/t0000/stop.json")

    outcome = _run(s3, _job(tmp_path), sink)
    assert (outcome.status, outcome.last_epoch, outcome.error) == ("stopped", 2, "far behind")


SUPERSEDED = """
import sys
import time
from pathlib import Path
from sweeps.storage.exchange import ObjectExchange, trial_exchange
from sweeps.records.job import Job
from sweeps.worker.trial import DEFAULT_RUNNER, run_job
url, text, epoch = sys.argv[1:]
job = Job.from_json(text)
def sink(row):
    print(int(row["epoch"]), file=sys.__stdout__, flush=True)
    if row["epoch"] == int(epoch):
        ObjectExchange(Path("/nowhere"), url).claim(job)
with trial_exchange(Path("/nowhere"), url) as exchange:
    run_job(job, DEFAULT_RUNNER, sink, exchange=exchange)
"""


@pytest.mark.parametrize(("epoch", "seen"), [(2, ["1", "2"]), (5, ["1", "2", "3", "4", "5"])])
def test_a_process_whose_trial_was_given_to_another_one_ends_and_writes_nothing_more(
    s3: str, tmp_path: Path, epoch: int, seen: list[str]
) -> None:
    """Also in its last epoch, when only the outcome is left to write and the checkpoints to remove."""
    done = drivers.run(SUPERSEDED, [s3, _job(tmp_path).to_json(), epoch])
    assert (done.returncode, done.stdout.split()) == (1, seen), done.stderr
    there = ObjectStore(s3).sizes("trials/t0000")
    assert [path for path in there if f"/{EPOCHS}/" in path] == [f"trials/t0000/{EPOCHS}/{NEWEST}"]
    unpack(ObjectStore(s3).read(f"trials/t0000/{EPOCHS}/{NEWEST}"), tmp_path)
    assert [path.name for path in (tmp_path / "trials/t0000" / EPOCHS).iterdir()] == [
        f"epoch_{epoch - 1:04d}"
    ]
    assert not [path for path in there if "model/" in path or path.endswith("outcome.json")]


def test_a_process_of_an_earlier_driver_takes_no_trial_from_a_later_ones(s3: str, tmp_path: Path) -> None:
    job = _job(tmp_path)
    later, earlier = (ObjectExchange(tmp_path, s3, generation) for generation in (2, 1))
    later.claim(job)
    with pytest.raises(Superseded, match="t0000 has been taken over by a later driver"):
        earlier.claim(job)
    later.check_owner()
    ObjectExchange(tmp_path, s3, 2).claim(job)  # Ray has started it again
    with pytest.raises(Superseded, match="trials/t0000 has been taken over by another process"):
        later.check_owner()


def test_what_a_superseded_driver_trained_under_the_same_number_is_not_taken_for_this_trials(
    s3: str, tmp_path: Path
) -> None:
    other = TrialConfig(data=TRIAL.data, model=TRIAL.model, train=TrainConfig(epochs=2), prune=None)
    runner = "tests.sweeps.fake_runner:run"
    with trial_exchange(Path("/nowhere"), s3, generation=1) as exchange:
        run_job(_job(tmp_path, other), runner, lambda row: None, exchange=exchange)
    with trial_exchange(Path("/nowhere"), s3, generation=2) as exchange:
        outcome = run_job(_job(tmp_path), runner, lambda row: None, exchange=exchange)
    assert (outcome.last_epoch, outcome.finals["macs_removed"]) == (5, 0.5)
    with trial_exchange(Path("/nowhere"), s3, generation=3) as exchange:
        again = run_job(_job(tmp_path), runner, lambda row: pytest.fail("it had ended"), exchange=exchange)
    assert again == outcome


def test_training_is_shared_through_the_store_bit_by_bit(s3: str) -> None:
    later = TrialConfig(
        data=TRIAL.data,
        model=TRIAL.model,
        train=TRIAL.train,
        prune=PruneConfig(criterion="l1", interval=3, ratio=0.3, target=0.5, until=1.0),
    )
    with trial_exchange(Path("/nowhere"), s3) as exchange:
        run_trial(later, stages=open_stages(exchange))
        assert len(list((exchange.root / STAGES).iterdir())) <= 1, "nothing piles up on the node"
    with trial_exchange(Path("/nowhere"), s3) as exchange:
        baseline = run_trial(later.baseline(), stages=open_stages(exchange))
    assert baseline.trained_epochs == 2, "three of five came from the store"
    assert baseline.weights_sha256 == run_trial(later.baseline()).weights_sha256


@pytest.mark.parametrize("left", [0.0, 0.2, 0.3])
def test_a_torn_stage_is_written_again(s3: str, tmp_path: Path, left: float) -> None:
    """That it is damaged only loading shows; then it goes."""
    import torch

    exchange, state = ObjectExchange(tmp_path, s3), {"model": {"w": torch.ones(100)}}
    open_stages(exchange).save("key", state, {"loss": 1.0})
    whole = exchange.store.read(f"{STAGES}/key.tar")
    exchange.store.write(f"{STAGES}/key.tar", whole[: int(left * len(whole))])
    trial = open_stages(exchange)
    assert trial.load("key") is None
    trial.save("key", state, {"loss": 1.0})
    manifest, tensors = open_stages(exchange).load("key")
    assert (manifest["loss"], tensors["model"]["w"].sum().item()) == (1.0, 100.0)


def test_the_oldest_stages_go_when_the_store_grows_past_its_bound(s3: str, tmp_path: Path) -> None:
    import torch

    exchange = ObjectExchange(tmp_path, s3)
    stages = open_stages(exchange)
    state = {"model": {"w": torch.zeros(1000)}}
    stages.save("first", state, {})
    size = sum(exchange.sizes(STAGES).values())
    stages.max_bytes = int(2.6 * size)  # 80 % of it: two
    stages.save("second", state, {})
    assert exchange.store.names(STAGES) == {"first.tar", "second.tar"}
    stages.save("third", state, {})
    left = exchange.store.names(STAGES)
    assert "third.tar" in left
    assert len(left) == 2


def _asked(monkeypatch) -> list[str]:
    """Every request that the server gets from now on, such as ``PUT /sweeps/...``."""
    from werkzeug.serving import WSGIRequestHandler

    asked, real = [], WSGIRequestHandler.make_environ

    def noted(handler):
        asked.append(f"{handler.command} {handler.path}")
        return real(handler)

    monkeypatch.setattr(WSGIRequestHandler, "make_environ", noted)
    return asked


def _job_of_path(folder: Path) -> Job:
    train = TrainConfig(schedule="cycles")
    prune = PruneConfig(criterion="l1", start=2, interval=2, levels=(0.3, 0.5))
    config = TrialConfig(data=TRIAL.data, model=TRIAL.model, train=train, prune=prune)
    return Job("t0000", "trial", 0, config, {}, str(folder / "trials" / "t0000"))


@pytest.mark.parametrize(("kind", "snapshots"), [(_job, []), (_job_of_path, [2, 4])])
def test_an_epoch_of_a_trial_costs_six_requests_and_a_snapshot_four(
    s3: str, tmp_path: Path, monkeypatch, kind, snapshots: list[int]
) -> None:
    """As the server counts them: the driver's word, whose the trial is, its rows, its checkpoint with the log; the list
    of stages and the new stage. Until its own claim is some seconds old, whose the trial is costs two more."""
    asked, at, real = _asked(monkeypatch), [], time.monotonic
    # As if every epoch took ten seconds.
    monkeypatch.setattr(time, "monotonic", lambda: real() + 10 * len(at))
    _run(s3, kind(tmp_path), lambda row: at.append(len(asked)))
    costs = {epoch: b - a for epoch, (a, b) in enumerate(itertools.pairwise(at), 1)}
    assert costs.pop(1) <= 8
    assert costs == {epoch: 10 if epoch in snapshots else 6 for epoch in costs}, asked


def test_what_the_store_has_is_not_sent_again_at_the_end(s3: str, tmp_path: Path, monkeypatch) -> None:
    """A path's weights of all levels, say, also where it went on on another node."""
    asked = _asked(monkeypatch)

    def dies(row: dict[str, float]) -> None:
        if row["epoch"] == 5:
            raise Died

    with contextlib.suppress(Died):
        _run(s3, _job_of_path(tmp_path), dies)
    assert len(_run(s3, _job_of_path(tmp_path)).snapshots) == 3
    put = [line.removeprefix("PUT") for line in asked if line.startswith("PUT") and "weights.pt" in line]
    assert len(put) == len(set(put)) == 3


def test_an_objects_name_does_not_lead_out_of_the_folder(s3: str, tmp_path: Path, monkeypatch) -> None:
    exchange = ObjectExchange(tmp_path / "sweep", s3)
    exchange.store.write("trials/t0000/a", b"x")
    names = {"trials/t0000/a": 1, "trials/t0000/../../../out": 1}
    monkeypatch.setattr(exchange.store, "sizes", lambda path: names)
    asked = []
    real = exchange.store.get
    monkeypatch.setattr(exchange.store, "get", lambda path, file: asked.append(path) or real(path, file))
    exchange.fetch("trials")
    assert asked == ["trials", "trials/t0000/a"]


def test_where_the_drivers_folder_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path))
    assert working_folder("s3://b/x", "n", "/ledgers") == "/ledgers/n"
    first, second = (working_folder(url, "n", "postgresql://h/d") for url in ("s3://b/x", "s3://b/y"))
    assert Path(first).parents[1] == tmp_path / "sweeps"
    assert first != second
    assert working_folder("runs", "n", None) == str(Path("runs/n").absolute())
