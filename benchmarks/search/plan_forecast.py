"""Does ``gcp-sweep plan`` foresee what the sweep will cost? Forecast, then the sweep itself, both recorded.

    python -m benchmarks.search.plan_forecast configs/demo.yaml --out benchmarks/results/plan_forecast_demo.json
    python -m benchmarks.search.plan_forecast configs/demo.yaml --in-process     # no Ray: device time and epochs only
    python -m benchmarks.search.plan_forecast configs/cifar10_quick.yaml data.path=FOLDER --done SWEEP_FOLDER

Device time is compared as CPU time where trials have one thread on a CPU: it does not depend on what else the machine
does. Wall time does; the record says how busy the machine was (wall seconds per CPU second of the trials).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.record import add_out, write
from benchmarks.scale.many_paths import Silent
from sweeps.commands.forecast import forecast
from sweeps.conduct.conductor import Conductor
from sweeps.config.reading import parse_overrides
from sweeps.config.sweep_config import SweepConfig, load_config
from sweeps.driver.launch import run
from sweeps.records.job import Record
from sweeps.records.layout import JOURNAL
from sweeps.records.ledger import Ledger, read_records
from sweeps.strategy.feasibility import Feasibility
from sweeps.strategy.stopping import Rungs
from sweeps.worker.trial import DEFAULT_RUNNER, run_job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--done", type=Path, help="compare with this finished sweep instead of running one")
    parser.add_argument("--in-process", action="store_true", help="trials one after the other, here")
    parser.add_argument("--note", default="", help="what else a reader of the record must know")
    add_out(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        overrides = {**parse_overrides(options.overrides), "storage": place}
        config = load_config(options.config, overrides)
        load = os.getloadavg()[0]
        start = time.perf_counter()
        foreseen = forecast(config)
        plan_s = time.perf_counter() - start
        start = time.perf_counter()
        if options.in_process:
            folder, wall_s = one_after_the_other(config), None
        else:
            folder = options.done or Path(run(config).folder)
            wall_s = None if options.done else time.perf_counter() - start
        kinds = read_records(folder, folder.name, config.search.objectives)
        actual = observed(folder, [record for records in kinds for record in records], wall_s)
    if options.in_process:
        del actual["wall_s"]
    ratios = {
        name: foreseen_value / actual[name]
        for name, foreseen_value in (
            ("epochs_trained", foreseen.epochs_trained),
            ("device_s", 3600 * foreseen.device_hours),
            ("cpu_s", 3600 * foreseen.device_hours),
            ("wall_s", 3600 * foreseen.wall_hours),
        )
        if actual.get(name)
    }
    known = {
        "trials": foreseen.trials,
        "baselines": foreseen.baselines,
        "epochs": foreseen.epochs,
        "epochs_trained": foreseen.epochs_trained,
        "stopped_share": foreseen.stopped_share,
        "device_s": 3600 * foreseen.device_hours,
        "wall_s": 3600 * foreseen.wall_hours,
        "disk_bytes": foreseen.disk_bytes,
    }
    results = {
        "config": Path(options.config).name,
        "seed": config.space.base["seed"],
        "note": options.note,
        "load_average_before": load,
        "plan_s": plan_s,
        "foreseen": known,
        "actual": actual,
        "foreseen_over_actual": ratios,
    }
    write(options.out, results)


def one_after_the_other(config: SweepConfig) -> Path:
    """Run the sweep's trials in this process, with everything but Ray and MLflow; the sweep's folder."""
    folder = Path(config.folder)
    folder.mkdir(parents=True)
    feasibility, silent = Feasibility(), Silent()
    rungs = Rungs(config.search, feasibility.project) if config.search.stopping != "none" else None
    ledger = Ledger(folder, config.name, config.search.objectives)
    conductor = Conductor(config, ledger, silent, silent, feasibility.impossible, rungs=rungs)
    while (job := conductor.next_job()) is not None:
        outcome = run_job(job, DEFAULT_RUNNER, lambda row, name=job.trial_id: conductor.epoch(name, row))
        conductor.finish(job.trial_id, outcome)
        print(job.trial_id, outcome.status, f"{outcome.seconds:.1f} s", flush=True)
    return folder


def observed(folder: Path, records: list[Record], wall_s: float | None) -> dict[str, Any]:
    """What the sweep in ``folder`` took; CPU time and trained epochs as far as its trials recorded them."""
    cpu = [float(record.provenance.get("cpu_seconds", "nan")) for record in records]
    results = [Path(record.job.folder) / "result.json" for record in records]
    trained = [json.loads(f.read_text()).get("trained_epochs") for f in results if f.exists()]
    device_s = sum(record.seconds for record in records)
    actual: dict[str, Any] = {
        "trials": sum(record.job.kind == "trial" for record in records),
        "stopped": sum(record.status == "stopped" for record in records),
        "device_s": device_s,
        "wall_s": wall_s if wall_s is not None else _span_s(folder),
    }
    if trained and None not in trained:
        actual["epochs_trained"] = sum(trained)
    if all(value == value for value in cpu):
        actual |= {"cpu_s": sum(cpu), "wall_per_cpu_s": device_s / sum(cpu)}
    return actual


def _span_s(folder: Path) -> float:
    """From the first line of the ledger to the last; the start of Ray and MLflow is not in it."""
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    times = [line[key] for line in lines for key in ("datetime_start", "datetime_complete") if line.get(key)]
    first, last = (datetime.fromisoformat(end(times)) for end in (min, max))
    return (last - first).total_seconds()


if __name__ == "__main__":
    main()
