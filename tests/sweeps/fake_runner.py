"""Trials without training: accuracy and cost are known functions of the config, so the front is known too.

The signature is that of ``gcp_core.training.run_trial``. Removing a share ``r`` of the MACs costs ``20 r^3`` points;
a short interval costs a little more. ``data.name`` picks what goes wrong (see :func:`run`).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from gcp_core.config import TrialConfig

DENSE_MACS, DENSE_PARAMS = 1_000_000.0, 50_000.0


@dataclass(frozen=True)
class Report:
    epoch: int
    metrics: dict[str, float]
    plan: None = None


@dataclass(frozen=True)
class Result:
    status: str
    finals: dict[str, float]
    history: tuple[Report, ...] = ()
    plans: tuple[object, ...] = ()
    error: str = ""
    folder: Path | None = None
    weights_sha256: str = field(default="0" * 64)


def accuracy(config: TrialConfig) -> float:
    """Final validation accuracy in per cent."""
    if config.prune is None:
        return 95.0
    return 95.0 - 20 * config.prune.target**3 - 0.1 / config.prune.interval


def run(config: TrialConfig, *, report=None, checkpoint_dir=None) -> Result:
    """``train.label_smoothing`` is the seconds per epoch; ``model.name`` = broken | third-broken | nan | dies."""
    removed = 0.0 if config.prune is None else config.prune.target
    name = config.model.name
    if name == "broken" or (
        name == "third-broken" and config.prune is not None and config.prune.interval == 3
    ):
        raise ValueError(f"no such thing at target {removed}")
    if name == "dies" and config.prune is not None and config.prune.interval == 3:
        os._exit(1)
    history = []
    start = _resume_epoch(checkpoint_dir)
    for epoch in range(1, config.train.epochs + 1):
        share = removed * epoch / config.train.epochs
        metrics = {
            "train/loss": 1.0 / epoch,
            "val/loss": 1.1 / epoch,
            "val/accuracy": accuracy(config) * epoch / config.train.epochs,
            "cost/macs": DENSE_MACS * (1 - share),
            "cost/params": DENSE_PARAMS * (1 - share),
            "prune/channels_left": 100.0 * (1 - share),
            "time/epoch_s": config.train.label_smoothing,
        }
        history.append(Report(epoch, metrics))
        if epoch <= start:
            continue
        time.sleep(config.train.label_smoothing)
        _note_epoch(checkpoint_dir, epoch)
        if report is not None and report(history[-1]) and epoch < config.train.epochs:
            return Result("stopped", {"val_accuracy": metrics["val/accuracy"]}, tuple(history))
    print(f"fake trial done in process {os.getpid()}")
    return Result("complete", _finals(config, removed), tuple(history))


def _finals(config: TrialConfig, removed: float) -> dict[str, float]:
    final = float("nan") if config.model.name == "nan" and config.prune is not None else accuracy(config)
    return {
        "val_accuracy": final,
        "test_accuracy": accuracy(config) - 0.5,
        "macs": DENSE_MACS * (1 - removed),
        "params": DENSE_PARAMS * (1 - removed),
        "macs_removed": removed,
        "params_removed": removed,
        "compression": 1 / (1 - removed),
        "latency_ms": 1.0 - removed / 2,
        "epochs": float(config.train.epochs),
        "device_hours": config.train.epochs * config.train.label_smoothing / 3600,
        "target_reached": 1.0,
    }


def _resume_epoch(folder: str | None) -> int:
    """Every epoch trained is a line in ``epochs.jsonl``: it says what a resumed trial need not train again."""
    if folder is None or not (Path(folder) / "epochs.jsonl").exists():
        return 0
    lines = (Path(folder) / "epochs.jsonl").read_text().splitlines()
    return max((json.loads(line)["epoch"] for line in lines), default=0)


def _note_epoch(folder: str | None, epoch: int) -> None:
    if folder is not None:
        with (Path(folder) / "epochs.jsonl").open("a") as file:
            file.write(json.dumps({"epoch": epoch}) + "\n")
