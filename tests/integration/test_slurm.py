"""``deploy/slurm.sbatch`` with a stand-in for Slurm: real Ray on two nodes, one of which comes and goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gcp_core.training import run_trial
from sweeps.config.sweep_config import load_config
from sweeps.records.job import read_outcome
from sweeps.records.ledger import read_records
from tests.integration.held_criterion import FOLDER, waiting
from tests.prepared import with_store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("slurm_stand_in.py")
#: A job's number decides about Ray's port: one for every process of the tests.
JOB = str(os.getpid())
#: How often the second node is lost: more often than a trial may be lost without having trained a further epoch.
KILLS = 2
TREE = {
    "name": "slurm",
    "data": {"name": "digits", "val_share": 0.25, "train_images": 320},
    "model": {"name": "vgg_tiny", "width": 0.5},
    "train": {"epochs": 12, "batch_size": 32},
    "prune": {
        "criterion": "tests.integration.held_criterion:build",
        "interval": {"choice": [2, 3]},
        "ratio": 0.12,
        "target": 0.5,
        "until": 9,
    },
    "search": {"trials": 2, "concurrency": 1, "sampler": "random"},
    "resources": {"retries": 1},
}


def _environment(folder: Path, nodes: str) -> dict[str, str]:
    """What Slurm gives a job, with the stand-in's commands first on the PATH."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name in ("srun", "scontrol"):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" {name} "$@"\n')
        command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return {
        **kept,
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # the criterion is there
        "STAND_IN": str(folder),
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "TMPDIR": "/tmp",  # Ray's sockets must have short names
    }


def _job(folder: Path, nodes: str, words: list[str], **more: str) -> subprocess.Popen[bytes]:
    with (folder / "job.log").open("a") as log:
        return subprocess.Popen(
            ["bash", str(ROOT / "deploy" / "slurm.sbatch"), *words],
            env={**_environment(folder, nodes), **more},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _said(folder: Path) -> str:
    return (folder / "job.log").read_text()


def _trains(raylet: psutil.Process, waits: set[int]) -> bool:
    """Whether one of the trials that wait in an event runs on the node."""
    try:
        return any(worker.pid in waits for worker in raylet.children())
    except psutil.NoSuchProcess:
        return False


def _end(job: subprocess.Popen[bytes]) -> None:
    if job.poll() is None:
        job.terminate()
        job.wait()


def _ray(folder: Path, node: str, name: str) -> psutil.Process | None:
    """A process of the Ray of a step, if it runs."""
    step = folder / f"{node}.step"
    if not step.exists():
        return None
    try:
        family = psutil.Process(int(step.read_text())).children(recursive=True)
        return next((one for one in family if one.name() == name), None)
    except psutil.NoSuchProcess:
        return None


def test_nodes_that_come_and_go_and_a_head_that_is_lost_cost_no_trial_and_change_no_weight(
    tmp_path: Path,
) -> None:
    storage = tmp_path / "storage"
    folder = with_store(storage / "slurm")
    config = tmp_path / "sweep.yaml"
    config.write_text(json.dumps({**TREE, "storage": str(storage)}))
    # Trials are on the second node alone; a driver waits five seconds for a head that is gone, not sixty.
    settings = {"GCP_SWEEP_HEAD_CPUS": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    held = tmp_path / "held"
    held.mkdir()
    job, gone = _job(tmp_path, "first,second", [str(config)], **settings, **{FOLDER: str(held)}), 0
    found: set[int] = set()
    try:
        while job.poll() is None:
            raylet, waits = _ray(tmp_path, "second", "raylet"), waiting(held)
            # A trial waits at each event once: by the next one it has trained a further epoch.
            if raylet is not None and _trains(raylet, waits - found):
                lost = raylet if gone < KILLS else _ray(tmp_path, "first", "gcs_server")
                assert lost is not None
                lost.kill()
                gone, found = gone + 1, waits
            time.sleep(0.05)
    finally:
        _end(job)
    assert (job.returncode, gone) == (1, KILLS + 1), _said(tmp_path)
    assert not _left(), "the job's Ray has ended with it"
    # Without the variable no trial waits any more, neither in the second job nor here.
    again = _job(tmp_path, "first,second", [str(config)], **settings)
    try:
        again.wait()
    finally:
        _end(again)
    said = _said(tmp_path)
    assert again.returncode == 0, said
    objectives = load_config(json.loads(config.read_text())).search.objectives
    trials, _ = read_records(folder, "slurm", objectives)
    assert [record.job.trial_id for record in trials] == ["t0000", "t0001"]
    assert [record.status for record in trials] == ["complete"] * 2, said
    for record in trials:
        alone = run_trial(record.job.config, latency=False)
        outcome = read_outcome(record.job.folder)
        assert outcome is not None
        assert outcome.weights_sha256 == alone.weights_sha256
    assert not _left(), "the job's Ray has ended with it"
    assert not Path(f"/tmp/gcp-sweep-{JOB}").exists()


def _left() -> list[psutil.Process]:
    """Processes of the job's Ray."""
    mark = f"gcp-sweep-{JOB}"
    return [one for one in psutil.process_iter() if mark in " ".join(_words(one))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
