"""How soon a trial goes on after its node has died: three Ray nodes on loopback, one of them lost mid-trial.

``killed``: the node's processes get SIGKILL (its connections close at once). ``frozen``: they get SIGSTOP, as if the
machine were unplugged: nothing answers any more, and files that it locked stay locked. The trial has been pruned
before its node is lost, so it goes on from a reshaped checkpoint; its weights are compared with an undisturbed twin's.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import add_out, write
from sweeps.driver.launch import Launch, run
from sweeps.driver.progress import LineProgress
from sweeps.records.job import Job, read_outcome

#: A trial whose events come after epochs 1, 2 and 3.
TREE: dict[str, Any] = {
    "name": "node-death",
    "data": {"name": "digits", "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 1.0},
    "train": {"epochs": 10, "batch_size": 16},
    "prune": {
        "criterion": "l1",
        "interval": 1,
        "ratio": {"choice": [0.3]},
        "target": 0.8,
        "until": 3,
    },
    "search": {"trials": 1, "concurrency": 1, "sampler": "random"},
}
LOST_AFTER = 4  # epochs


class Saboteur(LineProgress):
    """Loses the trial's node after its fourth epoch, and notes when its epochs arrive at the driver."""

    def __init__(self, lose: Callable[[int], None] | None) -> None:
        super().__init__(lambda text: None)
        self._lose = lose
        self.lost_at = 0.0
        self.arrivals: list[tuple[int, float]] = []
        self.cpu_s = 0.0

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        if job.kind != "trial":
            return
        self.arrivals.append((int(row["epoch"]), time.monotonic()))
        if self.lost_at and not self.cpu_s:
            self.cpu_s = _cpu_seconds(_process(job))
        if self._lose is not None and not self.lost_at and row["epoch"] >= LOST_AFTER:
            self.lost_at = time.monotonic()
            self._lose(_process(job))


def _process(job: Job) -> int:
    """Process id of the worker that runs the job, from its log."""
    line = [line for line in (Path(job.folder) / "trial.log").read_text().splitlines() if "starts in" in line]
    return int(line[-1].split("process ")[1].split(":")[0])


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def _cpu_seconds(process: int) -> float:
    """CPU time of a process so far; what recovery would take if nothing else ran on the machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _descendants(process: int) -> list[int]:
    """The process and everything it started."""
    children = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    family = [process]
    for candidate in sorted(children):
        try:
            if _parent(candidate) in family:
                family.append(candidate)
        except (OSError, IndexError):
            continue
    return family


def lose_node(cluster: Any, worker: int, number: int) -> None:
    """Send a signal to every process of the Ray node on which ``worker`` runs."""
    raylet = _parent(worker)
    node = next(n for n in cluster.worker_nodes if n.all_processes["raylet"][0].process.pid == raylet)
    processes = {info.process.pid for infos in node.all_processes.values() for info in infos}
    for process in {member for first in processes for member in _descendants(first)}:
        os.kill(process, number)


def one_case(storage: Path, lose: str | None) -> dict[str, Any]:
    """Run the sweep once; with a loss, the seconds from loss to detection to the next report."""
    import ray
    from ray.cluster_utils import Cluster
    from ray.tune.experiment.trial import Trial

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    number = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}.get(lose or "")
    saboteur = Saboteur(None if number is None else lambda worker: lose_node(cluster, worker, number))
    noticed: list[float] = []
    handle = Trial.handle_error

    def handle_error(self: Any, exc: Any = None) -> None:
        noticed.append(time.monotonic())
        handle(self, exc)

    Trial.handle_error = handle_error
    try:
        sweep = run({**TREE, "storage": str(storage)}, launch=Launch(cluster.address, progress=saboteur))
    finally:
        Trial.handle_error = handle
        ray.shutdown()
        if lose == "frozen":
            for node in cluster.worker_nodes:  # they could not be stopped otherwise
                for infos in node.all_processes.values():
                    for process in {p for info in infos for p in _descendants(info.process.pid)}:
                        os.kill(process, signal.SIGKILL)
        cluster.shutdown()
    outcome = read_outcome(sweep.folder / "trials" / "t0000")
    found = {"state": sweep.state, "statuses": sweep.statuses, "weights": outcome.weights_sha256[:16]}
    if number is None:
        return found
    before = max(epoch for epoch, at in saboteur.arrivals if at <= saboteur.lost_at)
    after, at = next((epoch, at) for epoch, at in saboteur.arrivals if at > saboteur.lost_at)
    return found | {
        "last_epoch_before": before,
        "first_epoch_after": after,
        "loss_to_detection_s": round(noticed[0] - saboteur.lost_at, 2),
        "detection_to_report_s": round(at - noticed[0], 2),
        "new_process_cpu_s": round(saboteur.cpu_s, 2),
        "load_average": round(os.getloadavg()[0], 1),
        "retries": len(noticed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=["killed", "frozen"])
    add_out(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        twin = one_case(Path(place) / "twin", None)
        results: dict[str, Any] = {}
        for case in arguments.cases:
            runs = [one_case(Path(place) / f"{case}{i}", case) for i in range(arguments.repeats)]
            times = ("loss_to_detection_s", "detection_to_report_s", "new_process_cpu_s")
            results[case] = {
                "weights_as_undisturbed": all(found["weights"] == twin["weights"] for found in runs),
                "lost": sum(found["statuses"].get("lost", 0) for found in runs),
                **{name: statistics.median(found[name] for found in runs) for name in times},
                "runs": runs,
            }
    write(arguments.out, results)


if __name__ == "__main__":
    main()
