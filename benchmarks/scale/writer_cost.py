"""What it costs to write a sweep to MLflow: CPU time of the writer against the time of the trials, four at once.

The trials sleep instead of training (an epoch every half second by default) and leave a model of realistic size, so the
writer is all that works. Twice: on an SQLite file, and on a real server on the loopback interface.

    python -m benchmarks.scale.writer_cost --out benchmarks/results/writer_cost.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import processes, record
from benchmarks.scale import many_trials

AT_ONCE = 4
GOAL = 0.02
EPOCH_VARIABLE = "WRITER_COST_EPOCH_S"
#: Bytes of a trial's weights: vgg_tiny in float32.
WEIGHTS = 4 * 288_000


def sleeper(config: Any, *, report: Any = None, checkpoint_dir: Any = None) -> many_trials.Result:
    """A trial that sleeps through its epochs and leaves a model behind."""
    pause = float(os.environ[EPOCH_VARIABLE])

    def slowly(row: many_trials.Report) -> None:
        time.sleep(pause)
        report(row)

    result = many_trials.stub(config, report=slowly)
    model = Path(checkpoint_dir) / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "weights.pt").write_bytes(os.urandom(WEIGHTS))
    (model / "manifest.json").write_text("{}")
    return result


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An MLflow server with one worker on a free port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "files")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        family = processes.descendants(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        processes.end(family | {found for found in [processes.find(process.pid)] if found}, patience_s=5.0)


def _wait_for(url: str, process: subprocess.Popen[bytes], timeout_s: float = 240.0) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the MLflow server ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants so far."""
    ticks = 0
    for process in {pid, *(found.pid for found in processes.descendants(pid))}:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(storage: str, uri: str | None, trials: int, epochs: int) -> dict[str, Any]:
    """Run the sweep; the writer's CPU time against the seconds of all trials."""
    from sweeps.driver import launch
    from sweeps.records.ledger import read_records

    writers: list[Any] = []
    original = launch.open_writer

    def remembered(*args: Any) -> Any:
        writers.append(original(*args))
        return writers[-1]

    search = {"trials": trials, "concurrency": AT_ONCE, "sampler": "random", "stopping": "none"}
    tree = {**many_trials.TREE, "name": "writer", "storage": storage, "search": search}
    tree["train"] = {"epochs": epochs}
    tree["tracking"] = {"uri": uri}
    how = launch.Launch(runner="benchmarks.scale.writer_cost:sleeper", check=lambda config: None)
    launch.open_writer = remembered
    start = time.perf_counter()
    try:
        sweep = launch.run(tree, launch=how)
    finally:
        launch.open_writer = original
    wall = time.perf_counter() - start
    records = [
        r
        for part in read_records(sweep.folder, sweep.name, {"val_accuracy": "max", "macs": "min"})
        for r in part
    ]
    seconds = sum(item.seconds for item in records)
    (writer,) = writers
    return {
        "statuses": sweep.statuses,
        "unwritten": sweep.unwritten,
        "trial_s": round(seconds / len(records), 2),
        "trials_s": round(seconds, 1),
        "wall_s": round(wall, 1),
        "writer_cpu_s": round(writer.busy_s, 3),
        "writer_cpu_ms_per_trial": round(1000 * writer.busy_s / len(records), 1),
        "share": round(writer.busy_s / seconds, 5),
        "share_of_the_wall_time_of_four_at_once": round(writer.busy_s / (seconds / AT_ONCE), 5),
    }


def main() -> None:
    """Both stores, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epoch-s", type=float, default=0.5)
    record.add_out(parser)
    options = parser.parse_args()
    os.environ[EPOCH_VARIABLE] = str(options.epoch_s)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    before = processes.load()
    # Sleeping trials need no core each, so four fit on two.
    ray.init(address="local", num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            results: dict[str, Any] = {
                "sqlite": measure(str(place / "file"), None, options.trials, options.epochs)
            }
            with server(place) as (uri, process):
                begun = cpu_s(process.pid)
                results["server"] = measure(str(place / "server"), uri, options.trials, options.epochs)
                results["server"]["server_cpu_s"] = round(cpu_s(process.pid) - begun, 2)
    finally:
        ray.shutdown()
    results |= {"at_once": AT_ONCE, "epochs": options.epochs, "goal": GOAL}
    results["met"] = all(results[name]["share"] <= GOAL for name in ("sqlite", "server"))
    record.write(options.out, results | {"load_before": before, "load_after": processes.load()})


if __name__ == "__main__":
    main()
