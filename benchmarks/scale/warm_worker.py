"""How soon a trial trains on a worker that has run trials before, against a fresh one; its weights and its memory.

Counted from the moment the driver hands the trial out to the start of its first epoch, on a private Ray with one trial
at a time. The first job of each sweep pays for a new process (Python, Ray, torch, our code, the data); the next ones
reuse it. Nothing is shared between trials, so every one trains from its first epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import add_out, write
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress
from sweeps.records import spool
from sweeps.records.job import Job, read_outcome

TREE: dict[str, Any] = {
    "name": "warm-worker",
    "data": {"name": "digits", "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.5},
    "train": {"epochs": 2, "batch_size": 64},
    "prune": {
        "criterion": {"choice": ["frs", "l1"]},
        "interval": 1,
        "ratio": {"low": 0.1, "high": 0.4, "step": 0.1},
        "target": {"low": 0.3, "high": 0.6, "step": 0.1},
        "until": 1.0,
    },
    "search": {"concurrency": 1, "sampler": "random", "share": False},
}
FRESH = """
import json, sys
from gcp_core.config import TrialConfig
from gcp_core.training import run_trial
print(run_trial(TrialConfig.from_dict(json.loads(sys.argv[1]))).weights_sha256)
"""


class Starts(LineProgress):
    """When each job was handed out and began to train, and how large its process was then."""

    def __init__(self) -> None:
        super().__init__(lambda text: None)
        self._handed_out: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.resident_mib: dict[str, float] = {}
        self.processes: dict[str, int] = {}

    def started(self, job: Job) -> None:
        self._handed_out[job.trial_id] = time.time()

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        name = job.trial_id
        if row["epoch"] == 1:
            began = row[spool.AT] / 1000 - row["time/epoch_s"]
            self.seconds[name] = began - self._handed_out[name]
        log = (Path(job.folder) / "trial.log").read_text()
        self.processes[name] = int(log.split("starts in process ")[1].split(":")[0])
        self.resident_mib[name] = _resident_mib(self.processes[name])


def _resident_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def one_sweep(storage: Path, trials: int) -> tuple[Starts, list[Job]]:
    """Run a sweep of that many trials; the starts, and the jobs in the order in which they ran."""
    starts = Starts()
    jobs: list[Job] = []
    hand_out = starts.started
    starts.started = lambda job: (jobs.append(job), hand_out(job))  # type: ignore[method-assign]
    tree = {**TREE, "storage": str(storage), "search": {**TREE["search"], "trials": trials}}
    sweep = run(tree, launch=Launch(progress=starts))
    assert sweep.state == "complete", sweep
    return starts, jobs


def fresh_weights(job: Job) -> str:
    """The same trial in a process that has run nothing before."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps(job.config.to_dict())],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--cold", type=int, default=3, help="how many cold starts")
    add_out(parser)
    arguments = parser.parse_args()
    cold: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        starts, jobs = one_sweep(Path(place) / "long", arguments.trials)
        names = [job.trial_id for job in jobs]
        cold.append(starts.seconds[names[0]])
        for number in range(1, arguments.cold):
            short, first = one_sweep(Path(place) / f"short{number}", 1)
            cold.append(short.seconds[first[0].trial_id])
        warm = [starts.seconds[name] for name in names[1:]]
        reused = read_outcome(jobs[-1].folder).weights_sha256
        memory = [starts.resident_mib[name] for name in names]
        results = {
            "cold_start_s": round(statistics.median(cold), 3),
            "warm_start_s": round(statistics.median(warm), 3),
            "warm_to_cold": round(statistics.median(warm) / statistics.median(cold), 4),
            "processes": len(set(starts.processes.values())),
            "weights_as_in_a_fresh_process": reused == fresh_weights(jobs[-1]),
            "resident_mib_third_trial": round(memory[3], 1),
            "resident_mib_last_trial": round(memory[-1], 1),
            "load_average": round(os.getloadavg()[0], 1),
            "cold_s": [round(value, 3) for value in cold],
            "warm_s": [round(value, 3) for value in warm],
            "resident_mib": [round(value, 1) for value in memory],
        }
    write(arguments.out, results)


if __name__ == "__main__":
    main()
