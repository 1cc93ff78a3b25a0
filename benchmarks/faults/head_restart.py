"""A sweep as a Ray job whose head is lost: every process of the cluster gets SIGKILL, a new head starts, and the job is
submitted again, word for word. Each time the head goes after a trial has trained further than before.

    pip install "ray[default]==VERSION OF RAY"       # the job server
    python -m benchmarks.faults.head_restart --out benchmarks/results/head_restart.json

Weights are compared with those of trials that nobody has disturbed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import add_out, write
from gcp_core.training import run_trial
from sweeps.config.sweep_config import load_config
from sweeps.records import spool
from sweeps.records.job import read_outcome
from sweeps.records.ledger import read_records

TREE: dict[str, Any] = {
    "name": "head-restart",
    "data": {"name": "digits", "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.5},
    "train": {"epochs": 12, "batch_size": 32},
    "prune": {"criterion": "l1", "interval": {"choice": [2, 3]}, "ratio": 0.3, "target": 0.6, "until": 9},
    "search": {"trials": 2, "concurrency": 1, "sampler": "random"},
}
#: How often the head is lost.
LOSSES = 2
_PATIENCE_S = 600.0


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Head:
    """A cluster of one node with a job server; a context manager that leaves no process."""

    def __init__(self, place: Path) -> None:
        self.port, self.server = free_ports(2)
        self._place = place

    def __enter__(self) -> Head:
        words = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address", "127.0.0.1", "--port", str(self.port)),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(self.server)),
            *("--num-cpus", "2", "--temp-dir", str(self._place), "--disable-usage-stats"),
        ]
        with (self._place / "head.log").open("a") as log:
            self._process = psutil.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        return self

    def submit(self, words: list[str], folder: Path) -> str:
        """Submit a job, as soon as the server takes one; its number."""
        from ray.job_submission import JobSubmissionClient

        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.client = JobSubmissionClient(f"http://127.0.0.1:{self.server}")
                return self.client.submit_job(
                    entrypoint=shlex.join(words), runtime_env={"working_dir": str(folder)}
                )
            except (ConnectionError, RuntimeError):
                if self._process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def lose(self) -> int:
        """SIGKILL for every process of it, the job's driver and workers among them; how many there were."""
        if not self._process.is_running():
            return 0
        family = [*self._process.children(recursive=True), self._process]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family)
        return len(family)

    def __exit__(self, *exc: object) -> None:
        self.lose()


def epochs(sweep: Path) -> int:
    """Epochs that the trials have reported so far."""
    return sum(len(spool.rows(folder)) for folder in sweep.glob("trials/t*"))


def one_job(place: Path, sweep: Path, words: list[str], lost: bool) -> dict[str, Any]:
    """Submit the sweep to a new cluster; with ``lost``, end it once a trial has trained further."""
    before, begun = epochs(sweep), time.monotonic()
    with Head(place) as head:
        number = head.submit(words, place / "submitted")
        while not (lost and epochs(sweep) > before + 1):
            state = str(head.client.get_job_status(number))
            if state in ("SUCCEEDED", "FAILED", "STOPPED"):
                break
            if time.monotonic() - begun > _PATIENCE_S:
                raise TimeoutError(f"{state}: {head.client.get_job_logs(number)[-2000:]}")
            time.sleep(0.1)
        else:
            return {"lost_after": epochs(sweep), "processes_killed": head.lose()}
        if state != "SUCCEEDED":
            raise RuntimeError(head.client.get_job_logs(number)[-3000:])
    return {"job": state}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_out(parser)
    arguments = parser.parse_args()
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }  # before Ray is imported
    with tempfile.TemporaryDirectory(prefix="hr-") as text:
        place = Path(text)
        storage, submitted = place / "storage", place / "submitted"
        submitted.mkdir()
        (submitted / "sweep.yaml").write_text(json.dumps({**TREE, "storage": str(storage)}))
        program = [sys.executable, "-c", "from sweeps.cli import main; main()"]
        words = [*program, "run", "sweep.yaml", "--address", "auto"]
        sweep = storage / TREE["name"]
        jobs = [one_job(place, sweep, words, lost=number < LOSSES) for number in range(LOSSES + 1)]
        objectives = load_config(json.loads((submitted / "sweep.yaml").read_text())).search.objectives
        trials, _ = read_records(sweep, TREE["name"], objectives)
        same = []
        for record in trials:
            outcome = read_outcome(record.job.folder)
            alone = run_trial(record.job.config, latency=False)
            same.append(outcome is not None and outcome.weights_sha256 == alone.weights_sha256)
        reported = [[int(row["epoch"]) for row in spool.rows(Path(one.job.folder))] for one in trials]
    write(
        arguments.out,
        {
            "ray": importlib.metadata.version("ray"),
            "jobs": jobs,
            "trials": {record.job.trial_id: record.status for record in trials},
            "epochs_reported": reported,
            "weights_as_undisturbed": same,
        },
    )


if __name__ == "__main__":
    main()
