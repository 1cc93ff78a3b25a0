"""What happens in a trial's process, without Ray."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from gcp_core.config import ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import CheckpointError, ConfigError, Diverged, InfeasibleTarget, ProcessLost
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, read_outcome, trial_id
from sweeps.storage.lock import Holder
from sweeps.worker import trial
from sweeps.worker.node import Demands, Node
from sweeps.worker.trial import Extra, _send_trial, _this_node, describe, run_job
from tests.integration import drivers
from tests.sweeps.fake_runner import Result

RUNNER = "tests.sweeps.fake_runner:run"


def _job(folder: Path, config: TrialConfig | None = None) -> Job:
    return Job("t0007", "trial", 7, config or TrialConfig(), {"prune.target": 0.5}, str(folder / "t0007"))


def noisy(config: TrialConfig, *, report=None, checkpoint_dir=None) -> Result:
    print("printed")
    logging.getLogger("somewhere").info("logged")
    return Result("complete", {"val_accuracy": 1.0})


def infeasible(config: TrialConfig, *, report=None, checkpoint_dir=None) -> Result:
    raise InfeasibleTarget("0.9 cannot be removed", "prune.target", "lower it")


def diverging(config: TrialConfig, *, report=None, checkpoint_dir=None) -> Result:
    return Result("diverged", {"epochs": 1.0}, error="the loss is nan")


def test_a_finished_job_leaves_config_log_and_outcome(tmp_path: Path) -> None:
    job = _job(tmp_path)
    rows: list[dict[str, float]] = []
    outcome = run_job(job, f"{__name__}:noisy", rows.append)
    assert outcome.status == "complete"
    folder = Path(job.folder)
    assert TrialConfig.from_dict(yaml.safe_load((folder / "config.yaml").read_text())) == job.config
    log = (folder / "trial.log").read_text()
    assert "printed" in log
    assert "INFO somewhere: logged" in log
    assert read_outcome(folder) == outcome


def test_every_epoch_is_reported_as_it_ends(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    outcome = run_job(_job(tmp_path), RUNNER, rows.append)
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    assert outcome.history == tuple(rows)
    assert outcome.last_epoch == 20


def test_a_job_that_has_an_outcome_is_not_run_again(tmp_path: Path) -> None:
    job = _job(tmp_path)
    first = run_job(job, RUNNER, lambda row: None)
    assert run_job(job, f"{__name__}:infeasible", lambda row: None) == first


ENDS = [
    ("infeasible", "infeasible", "prune.target: 0.9 cannot be removed (lower it)"),
    ("diverging", "diverged", "the loss is nan"),
    ("missing", "failed", "runner: tests.sweeps.worker.test_trial has no callable 'missing'"),
]


@pytest.mark.parametrize(("runner", "status", "error"), ENDS)
def test_an_end_without_a_model_has_its_own_status_and_one_sentence(tmp_path, runner, status, error) -> None:
    outcome = run_job(_job(tmp_path), f"tests.sweeps.worker.test_trial:{runner}", lambda row: None)
    assert (outcome.status, outcome.error) == (status, error)


def test_an_exception_of_somebody_else_is_named_with_its_type() -> None:
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(ValueError("two\nlines")) == "ValueError: two lines"
    assert describe(ZeroDivisionError()) == "ZeroDivisionError"
    assert describe(Diverged("the loss is nan", "train")) == "train: the loss is nan"


def without_memory(config: TrialConfig, *, report=None, checkpoint_dir=None) -> Result:
    (Path(checkpoint_dir) / "epochs" / "epoch_0001").mkdir(parents=True)
    raise {"python": MemoryError(), "gpu": torch.OutOfMemoryError("CUDA out of memory"), "cpu": None}[
        config.model.name
    ] or RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize("where", ["python", "gpu", "cpu"])
def test_memory_that_runs_out_fails_the_trial_and_says_what_to_lower(tmp_path: Path, where: str) -> None:
    config = TrialConfig(model=ModelConfig(name=where), train=TrainConfig(batch_size=96))
    job = _job(tmp_path, config)
    outcome = run_job(job, f"{__name__}:without_memory", lambda row: None)
    assert outcome.status == "failed"
    assert outcome.error.startswith(
        "out of memory with train.batch_size=96; lower it, or search.concurrency (trials on one machine share"
    )
    assert not (Path(job.folder) / "epochs").exists(), "a trial that has ended needs no checkpoints"


SUPERSEDED = """
import sys
from pathlib import Path
from sweeps.records.job import Job
from sweeps.worker.trial import run_job
job = Job.from_json(sys.argv[1])
def sink(row):
    if row["epoch"] == int(sys.argv[2]):
        (Path(job.folder) / ".lock").unlink()
        (Path(job.folder) / ".lock").write_text("another node's")
        (Path(job.folder) / "epochs").mkdir()
run_job(job, "tests.sweeps.fake_runner:run", sink)
"""


@pytest.mark.parametrize("epoch", [3, 20])
def test_a_process_whose_lock_was_broken_ends_and_leaves_the_folder_to_its_new_owner(
    tmp_path: Path, epoch: int
) -> None:
    job = _job(tmp_path)
    done = drivers.run(SUPERSEDED, [job.to_json(), epoch])
    assert done.returncode == 1, done.stderr
    folder = Path(job.folder)
    assert [row["epoch"] for row in spool.rows(folder)] == list(range(1, epoch + 1))
    assert (folder / "epochs").exists(), "the new owner's checkpoints"
    assert read_outcome(folder) is None
    said = (folder / "trial.log").read_text() + done.stderr
    assert f"t0007 was given to another process ({folder} has been taken over by another process)" in said


def test_ray_answers_for_the_nodes_of_its_own_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    context = SimpleNamespace(get_node_id=lambda: "a", get_session_name=lambda: "session_2")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    nodes = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    holder = _this_node()
    assert holder.name == "a of session_2"
    names = ("a of session_2", "b of session_2", "forgotten of session_2", "c of session_1", "")
    assert [holder.gone(name) for name in names] == [False, True, True, None, None]


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a trial's process tells the driver."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", lambda values: said.append(json.loads(values[trial.PAYLOAD])))
    monkeypatch.setattr(trial, "_this_node", Holder)
    monkeypatch.setattr(trial, "UNSEEN_S", 0.0)
    return said


def test_a_node_that_does_not_see_the_storage_trains_nothing_and_says_so(
    tmp_path: Path, reported: list[dict[str, Any]]
) -> None:
    """It joined after the start; the driver has made the trial's folder where all others see it."""
    job = _job(tmp_path / "elsewhere" / "trials")
    trial.tune_trainable({"job": job.to_json(), "runner": RUNNER})
    (said,) = reported
    assert said["unfit"].startswith(
        f"the node {os.uname().nodename} does not see {tmp_path / 'elsewhere'}: all"
    )
    assert not (tmp_path / "elsewhere").exists(), "a folder of this node alone would keep what it trains"
    Path(job.folder).mkdir(parents=True)
    trial.tune_trainable({"job": job.to_json(), "runner": RUNNER})
    assert [*reported[-1]] == ["outcome"]


def test_a_node_that_lacks_what_others_were_asked_for_trains_nothing_and_says_so(
    tmp_path: Path, reported: list[dict[str, Any]]
) -> None:
    """It joined after the start: each trial would fail there within seconds, and make room for the next."""
    job = _job(tmp_path / "trials")
    Path(job.folder).mkdir(parents=True)
    demands = Demands(Node("the driver"), paths=(f"{tmp_path}/data",)).to_json()
    trial.tune_trainable({"job": job.to_json(), "runner": RUNNER, "demands": demands})
    (said,) = reported
    name = os.uname().nodename
    assert said["unfit"] == (
        f"the node {name} has joined without what a trial needs: data is missing on at least one node: {name} has no"
        f" {tmp_path}/data (what data.path and model.weights name must be at the same path on every node); mend or remove"
        " the node and run again: the sweep continues"
    )
    assert read_outcome(job.folder) is None
    demands = Demands(Node("the driver")).to_json()
    trial.tune_trainable({"job": job.to_json(), "runner": RUNNER, "demands": demands})
    assert [*reported[-1]] == ["outcome"]


def without_server(config: TrialConfig, *, report=None, checkpoint_dir=None) -> Result:
    try:
        raise OSError(errno.ESTALE, "Stale file handle")
    except OSError as exc:
        raise CheckpointError("cannot be read") from exc


def test_a_trial_whose_file_server_did_not_answer_is_not_over(tmp_path: Path) -> None:
    """Ray starts it again, as if its process had been lost; what is opened anew works."""
    job = _job(tmp_path)
    with pytest.raises(CheckpointError):
        run_job(job, f"{__name__}:without_server", lambda row: None)
    assert read_outcome(job.folder) is None
    assert run_job(job, RUNNER, lambda row: None).status == "complete"


def asserting(config: TrialConfig, *, report=None, checkpoint_dir=None) -> Result:
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


def test_an_assertion_on_the_gpu_is_the_trials_own_error_and_its_process_runs_no_other_trial(
    tmp_path: Path, reported: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(gpus: float) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")  # as every later call does

    monkeypatch.setattr(trial, "free_memory", refuse)
    job = _job(tmp_path / "trials")
    Path(job.folder).mkdir(parents=True)
    with pytest.raises(RuntimeError, match="this process can use its GPU for nothing more"):
        trial.tune_trainable({"job": job.to_json(), "runner": f"{__name__}:asserting", "gpus": 1.0})
    (said,) = reported
    outcome = Outcome.from_json(said["outcome"])
    assert read_outcome(job.folder) == outcome
    assert outcome.status == "failed"
    assert outcome.error == (
        "an assertion failed on the GPU, most often because a label or an index is out of range; `gcp-sweep trial` with"
        " train.device=cpu says which: AcceleratorError: CUDA error: device-side assert triggered"
    )


def test_of_a_sweep_in_a_store_the_full_disk_is_the_nodes_own(
    tmp_path: Path, reported: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Outcome:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial, "run_job", full)
    job = _job(tmp_path)
    trial.tune_trainable(
        {"job": job.to_json(), "runner": RUNNER, "store": f"memory://bucket/{tmp_path.name}"}
    )
    Path(job.folder).mkdir()
    trial.tune_trainable({"job": job.to_json(), "runner": RUNNER})
    assert reported == [
        {"full": f"{tempfile.gettempdir()} on {os.uname().nodename}"},
        {"full": job.folder},
    ]


def test_logging_is_left_as_it_was(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    run_job(_job(tmp_path), f"{__name__}:infeasible", lambda row: None)
    assert (root.level, list(root.handlers)) == before


def test_a_job_survives_json(tmp_path: Path) -> None:
    job = _job(tmp_path, TrialConfig(prune=PruneConfig(options={"read": "sum"}, exclude=("conv1",))))
    assert Job.from_json(job.to_json()) == job
    json.loads(job.to_json())


def test_trial_ids_are_letters_for_the_kind_and_four_digits() -> None:
    assert [trial_id("trial", 7), trial_id("baseline", 0), trial_id("confirm", 12345)] == [
        "t0007",
        "b0000",
        "c12345",
    ]


def test_an_unreadable_outcome_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text('{"status": "comp')
    assert read_outcome(tmp_path) is None


def test_a_status_nobody_knows_is_refused() -> None:
    with pytest.raises(Exception, match="'done' is not a status"):
        Outcome("done")


def test_a_trial_error_survives_pickle() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ConfigError("a", "b", "c")))
    assert str(error) == "b: a (c)"


def losing(config: TrialConfig, *, report=None, checkpoint_dir=None, start=None) -> Result:
    raise ProcessLost(f"process 1 is gone, {start}", "train.processes")


@pytest.mark.parametrize(("processes", "start"), [(1, "None"), (2, "started")])
def test_a_trial_that_lost_one_of_its_processes_is_not_over(
    tmp_path: Path, processes: int, start: str
) -> None:
    """Ray then starts it again."""
    job = _job(tmp_path, TrialConfig(train=TrainConfig(processes=processes)))
    with pytest.raises(ProcessLost, match=f"process 1 is gone, {start}"):
        run_job(job, f"{__name__}:losing", lambda row: None, extra=Extra(start="started"))
    assert read_outcome(Path(job.folder)) is None


def test_the_epoch_that_goes_to_a_store_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    job, sent = _job(tmp_path), []
    for name in ("epoch_9999", "epoch_10000"):
        (Path(job.folder) / "epochs" / name).mkdir(parents=True)
    exchange = SimpleNamespace(send=lambda *_, **__: None, send_state=lambda job, name: sent.append(name))
    _send_trial(job, exchange)
    assert sent == ["epoch_10000"]
