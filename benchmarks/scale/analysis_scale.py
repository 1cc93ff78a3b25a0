"""How long it takes to read 10,000 runs of a sweep, first and cached, beside ``mlflow.search_runs``; and the mathematics.

    python -m benchmarks.scale.analysis_scale [--runs 10000] [--out benchmarks/results/analysis_scale.json]

The runs are real MLflow runs in SQLite with the whole configuration as params and all final values; they are inserted
through MLflow's own tables, because logging them one by one takes an hour. That the result is what MLflow itself reads
is checked: every run id and every accuracy of ``mlflow.search_runs`` must be in our table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import analysis
from analysis.front.anchors import anchors_for
from benchmarks import record
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.schema import FINALS, SCHEMA_VERSION, Tag
from sweeps.config.reading import flatten

GOALS = {"val_accuracy": "max", "macs": "min"}
BASE_MACS, BASE_PARAMS, BASE_ACCURACY = 40_000_000.0, 270_000.0, 92.0


def a_trial(i: int, rng: np.random.Generator) -> tuple[TrialConfig, dict[str, float], str]:
    """Configuration, finals and kind of run ``i``; the first is the baseline."""
    kept = 1.0 if i == 0 else float(np.round(rng.uniform(0.05, 0.7), 4))
    prune = PruneConfig(
        criterion=str(rng.choice(["frs", "l1", "random"])),
        interval=int(rng.integers(1, 5)),
        ratio=float(np.round(rng.uniform(0.1, 0.4), 2)),
        target=round(1 - kept, 4) if i else 0.5,
    )
    config = TrialConfig(
        seed=0,
        data=DataConfig("digits"),
        model=ModelConfig("resnet20"),
        train=TrainConfig(epochs=20),
        prune=prune,
    )
    accuracy = BASE_ACCURACY - (0 if i == 0 else 0.5 * (1 / kept - 1) ** 1.1 + rng.exponential(0.5))
    macs, params = round(kept * BASE_MACS), round(kept**1.2 * BASE_PARAMS)
    finals = {
        "val_accuracy": accuracy, "test_accuracy": accuracy - 0.4, "macs": macs, "params": params,
        "macs_removed": 1 - macs / BASE_MACS, "params_removed": 1 - params / BASE_PARAMS,
        "compression": BASE_PARAMS / params, "accuracy_drop": BASE_ACCURACY - accuracy, "latency_ms": 0.4 + 1.1 * kept,
        "epochs": 20.0, "device_hours": 0.1, "target_reached": 1.0,
    }  # fmt: skip
    return (config, finals, "trial") if i else (config.baseline(), finals, "baseline")


def make_sweep(folder: Path, n: int) -> str:
    """A sweep's folder with ``n`` children in its SQLite store; returns the store's URI."""
    from mlflow.store.tracking.dbmodels import models as db
    from mlflow.tracking import MlflowClient
    from sqlalchemy import create_engine, insert

    folder.mkdir(parents=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("scale", (folder / "mlartifacts").as_uri())
    tags = {Tag.KIND: "sweep", Tag.SWEEP_NAME: "scale", Tag.SWEEP_ID: "scale-0", Tag.SCHEMA: SCHEMA_VERSION}
    parent = client.create_run(experiment, run_name="scale", tags=tags).info.run_id
    client.set_terminated(parent)
    rng = np.random.default_rng(0)
    tables: dict[Any, list[dict[str, Any]]] = {
        table: [] for table in (db.SqlRun, db.SqlMetric, db.SqlLatestMetric, db.SqlParam, db.SqlTag)
    }
    for i in range(n):
        _add_rows(tables, i, int(experiment), parent, tags, a_trial(i, rng), db)
    engine = create_engine(uri)
    with engine.begin() as connection:
        for table, rows in tables.items():
            connection.execute(insert(table.__table__), rows)
    engine.dispose()
    entry = {
        "id": "scale-0", "name": "scale", "tracking_uri": uri, "experiment": "scale", "parent_run_id": parent,
        "config_digest": "0" * 12,
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(entry))
    return uri


def _add_rows(
    tables: dict[Any, list[dict[str, Any]]],
    i: int,
    experiment: int,
    parent: str,
    common: dict[str, str],
    trial: tuple[TrialConfig, dict[str, float], str],
    db: Any,
) -> None:
    config, finals, kind = trial
    run, start = uuid.UUID(int=i + 1).hex, 1_700_000_000_000 + 1000 * i
    name = f"t{i:05d}" if kind == "trial" else "b0000"
    tables[db.SqlRun].append(
        {
            "run_uuid": run, "name": name, "source_type": "LOCAL", "source_name": "", "entry_point_name": "",
            "user_id": "", "status": "FINISHED", "start_time": start, "end_time": start + 900, "deleted_time": None,
            "source_version": "", "lifecycle_stage": "active", "artifact_uri": "", "experiment_id": experiment,
        }
    )  # fmt: skip
    for short, value in finals.items():
        row = {"run_uuid": run, "key": FINALS[short].key, "value": float(value), "timestamp": start, "step": 20,
               "is_nan": False}  # fmt: skip
        tables[db.SqlMetric].append(row)
        tables[db.SqlLatestMetric].append(row)
    params = {path: str(value) for path, value in flatten(config.to_dict()).items()}
    tables[db.SqlParam] += [{"run_uuid": run, "key": k, "value": v} for k, v in params.items()]
    tags = {
        **common, Tag.PARENT: parent, Tag.KIND: kind, Tag.STATUS: "complete", Tag.CONFIG_ID: config.config_id(),
        Tag.SEED: "0", Tag.TRIAL_ID: name, Tag.RUN_NAME: name,
    }  # fmt: skip
    tables[db.SqlTag] += [{"run_uuid": run, "key": k, "value": v} for k, v in tags.items()]


def timed(what: Callable[[], Any], repeats: int) -> tuple[dict[str, float], Any]:
    """Median CPU and wall seconds of ``what``, and its last result."""
    cpu, wall, result = [], [], None
    for _ in range(repeats):
        c, w = time.process_time(), time.perf_counter()
        result = what()
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - w)
    return {"cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall)}, result


def main() -> None:
    """Make the store, read it in all ways, compare, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    record.add_out(parser)
    options = parser.parse_args()
    import mlflow

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "scale"
        made, uri = timed(lambda: make_sweep(folder, options.runs), 1)
        mlflow.set_tracking_uri(uri)
        parent = json.loads((folder / "sweep.json").read_text())["parent_run_id"]
        query = f"tags.`{Tag.PARENT}` = '{parent}'"
        searched, theirs = timed(lambda: mlflow.search_runs(["1"], query, max_results=options.runs), 1)
        first, _ = timed(lambda: analysis.load(folder), 1)
        cached, ours = timed(lambda: analysis.load(folder), 3)
        check(ours, theirs)
        scales = anchors_for(ours, GOALS)
        steps = {
            "front": lambda: analysis.pareto.front(ours, GOALS),
            "ranks": lambda: analysis.pareto.ranks(ours, GOALS),
            "hypervolume": lambda: analysis.pareto.hypervolume(ours, GOALS, scales),
        }
        mathematics = {name: timed(step, 3)[0] for name, step in steps.items()}
    results = {
        "runs": options.runs,
        "params_per_run": sum(c.startswith("params.") for c in theirs.columns),
        "metrics_per_run": len(FINALS),
        "load_average": os.getloadavg()[0],
        "make": made,
        "mlflow.search_runs": searched,
        "analysis.load, first": first,
        "analysis.load, cached": cached,
        "cached_times_faster_cpu": searched["cpu_s"] / cached["cpu_s"],
        "cached_times_faster_wall": searched["wall_s"] / cached["wall_s"],
        "mathematics": mathematics,
        "mathematics_share_of_cached_read_cpu": sum(m["cpu_s"] for m in mathematics.values())
        / cached["cpu_s"],
        "front_points": len(analysis.pareto.front(ours, GOALS)),
    }
    record.write(options.out, results)


def check(ours: Any, theirs: Any) -> None:
    """Both tables hold the same runs with the same accuracy and MACs."""
    a = ours.set_index("run_id")[["val_accuracy", "macs"]].sort_index()
    b = theirs.set_index("run_id")[["metrics.final/val_accuracy", "metrics.final/macs"]].sort_index()
    if not (a.index.equals(b.index) and np.array_equal(a.to_numpy(float), b.to_numpy(float))):
        raise SystemExit("our table is not what mlflow.search_runs reads")


if __name__ == "__main__":
    main()
