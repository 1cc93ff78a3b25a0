"""Tables of models made without MLflow: paths with their files, as the report reads them, and results of bench."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

import analysis
from gcp_core.plan import AttributeChange, Plan

MACS, PARAMS, ACCURACY = 4_000_000, 280_000, 97.0
SHA = "a" * 64
KEPT = (1.0, 0.7, 0.5, 0.35, 0.2)
#: Accuracy of the snapshots of each path, per cent. t0002 collapses at its end.
PATHS = {
    "t0000": (96.6, 96.8, 96.4, 95.4, 93.0),
    "t0001": (96.0, 96.2, 96.1, 96.2, 91.0),
    "t0002": (95.0, 94.0, 93.0, 92.0, 40.0),
}
CRITERIA = {"t0000": "frs", "t0001": "l1", "t0002": "random"}


def rows_of(trial: str, accuracies: tuple[float, ...] = KEPT) -> list[dict]:
    """One row per snapshot."""
    return [
        {
            "sweep": "paths", "model": f"{trial}@{level}", "trial": trial, "level": level, "kind": "trial", "seed": 0,
            "run_id": f"run{trial}{level}", "val_accuracy": accuracy, "test_accuracy": accuracy - 1,
            "macs": round(MACS * kept), "params": round(PARAMS * kept), "macs_removed": 1 - kept,
            "params_removed": 1 - kept, "epochs": 4 + 2 * level, "val_images": 500,
            "prune.criterion": CRITERIA.get(trial, "frs"), "prune.interval": 2 + int(trial[1:]) % 3,
        }
        for level, (kept, accuracy) in enumerate(zip(KEPT, accuracies))
    ]  # fmt: skip


def baseline() -> dict:
    return {
        "sweep": "paths", "model": "b0000", "trial": "b0000", "kind": "baseline", "seed": 0, "val_accuracy": ACCURACY,
        "test_accuracy": 96.0, "macs": MACS, "params": PARAMS, "macs_removed": 0.0, "params_removed": 0.0,
        "run_id": "runb", "epochs": 12, "val_images": 500,
    }  # fmt: skip


def of_rows(folder: Path, rows: list[dict], *, runs: bool = True) -> pd.DataFrame:
    """The table of these rows; ``folder`` counts as the folder of the sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "models.csv", index=False)
    df = analysis.load(folder / "models.csv")
    entry = {"name": "paths", "id": "1", "folder": str(folder), "experiment_id": "1"}
    df.attrs["sweeps"] = [entry | ({"tracking_uri": "http://127.0.0.1:5000"} if runs else {})]
    return df


def paths(folder: Path) -> pd.DataFrame:
    """Three paths of five snapshots and a baseline, with their epochs and layers."""
    for trial, accuracies in PATHS.items():
        write_path(folder / "trials" / trial, accuracies)
    lines = [_epoch(e, 60 + 3 * e, MACS) for e in range(1, 13)]
    _write(folder / "trials" / "b0000" / "reported.jsonl", "\n".join(map(json.dumps, lines)))
    return of_rows(folder, [baseline(), *(row for trial in PATHS for row in rows_of(trial, PATHS[trial]))])


def write_path(folder: Path, accuracies: tuple[float, ...]) -> None:
    """What a path reported after every epoch, and the manifests of its snapshots."""
    lines = []
    for level, (kept, accuracy) in enumerate(zip(KEPT, accuracies)):
        first = 1 if level == 0 else 3 + 2 * level
        last = 4 + 2 * level
        lines += [_epoch(e, accuracy - 5 * (last - e), round(MACS * kept)) for e in range(first, last + 1)]
        plans = [_plan(32 - 6 * i, 26 - 6 * i).to_dict() for i in range(level)]
        _write(folder / "snapshots" / f"{level:02d}" / "manifest.json", json.dumps({"plans": plans}))
    # The last line of a trial that runs may be half a one.
    _write(folder / "reported.jsonl", "\n".join(map(json.dumps, lines)) + '\n{"epoch": 99, "val')


def _epoch(epoch: int, accuracy: float, macs: int) -> dict:
    return {"epoch": epoch, "val/accuracy": accuracy, "cost/macs": float(macs)}


def _plan(before: int, after: int) -> Plan:
    changes = (AttributeChange("features.0", "out_channels", before, after),)
    return Plan(removed={"features.0": tuple(range(before - after))}, attributes=changes, meta={})


def _write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def line(runtime: str = "torch", share: float = 0.7, batch: int = 1, **more) -> dict:
    """A narrow interval about 2 ms of the unpruned network."""
    return {
        "runtime": runtime, "median_ms": 2 * share, "low_ms": 1.98 * share, "high_ms": 2.02 * share,
        "reference_ms": 2.0, "reference_low_ms": 1.98, "reference_high_ms": 2.02, "share": share,
        "share_low": share - 0.01, "share_high": share + 0.01, "batch_size": batch, "threads": 1, "repeats": 40,
        "narrow": True, **more,
    }  # fmt: skip


def result(model: str = "t0001@2", **more) -> dict:
    """What bench writes into a file."""
    accuracies = [
        {"runtime": runtime, "model": accuracy, "dense": 97.0, "images": 500}
        for runtime, accuracy in (("torch", 96.1), ("onnxruntime int8", 95.7))
    ]
    lines = [line(), line("onnxruntime", 0.8), line("onnxruntime int8", 0.995), line(batch=64)]
    return {
        "format": 1, "model": model, "sha256": SHA, "dense": "baseline, trained", "timed": lines,
        "accuracies": accuracies, "skipped": {"openvino": "openvino is not installed: pip install it"},
        "machine": {"processor": "a processor", "load average": "0.1 before, 0.2 after"}, **more,
    }  # fmt: skip


def put(folder: Path, values: object, name: str = "t0001@2.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path
