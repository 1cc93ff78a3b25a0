"""Paths without training: every phase leaves a model whose accuracy and cost are known functions of its level."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gcp_core.config import TrialConfig
from gcp_core.schema import snapshot_artifact
from tests.sweeps import fake_runner
from tests.sweeps.fake_runner import DENSE_MACS, DENSE_PARAMS, Report, Result


@dataclass(frozen=True)
class Taken:
    level: int
    epoch: int
    finals: dict[str, float]
    weights_sha256: str


@dataclass(frozen=True)
class PathResult(Result):
    snapshots: tuple[Taken, ...] = ()


def finals_at(config: TrialConfig, removed: float, epoch: int) -> dict[str, float]:
    """A longer cycle is better, and the last tenth of the MACs is dear."""
    accuracy = 90.0 + 0.5 * config.prune.interval - 20 * removed**6
    return {
        "val_accuracy": accuracy,
        "test_accuracy": accuracy - 0.5,
        "macs": DENSE_MACS * (1 - removed),
        "params": DENSE_PARAMS * (1 - removed),
        "macs_removed": removed,
        "params_removed": removed,
        "compression": 1 / (1 - removed),
        "epochs": float(epoch),
        "device_hours": epoch / 3600,
        "train_cost": float(epoch),
        "target_reached": float(removed >= config.prune.target - 1e-9),
    }


def run(config: TrialConfig, *, report=None, checkpoint_dir=None, snapshot=None):
    """``model.name`` = breaks: fails after its second snapshot."""
    if not config.is_path:
        return fake_runner.run(config, report=report, checkpoint_dir=checkpoint_dir)
    removed, epoch, history, taken = 0.0, 0, [], []
    while True:
        for _ in range(config.prune.interval if taken else config.prune.start):
            epoch += 1
            metrics = {"train/loss": 1.0, "val/loss": 1.0, "val/accuracy": 50.0, "cost/macs": DENSE_MACS * (1 - removed),
                       "cost/params": DENSE_PARAMS, "prune/channels_left": 1.0, "time/epoch_s": 1.0}  # fmt: skip
            history.append(Report(epoch, metrics))
            if report is not None:
                report(history[-1])
        finals = finals_at(config, removed, epoch)
        one = Taken(len(taken), epoch, finals, f"{len(taken):064d}")
        folder = Path(checkpoint_dir) / snapshot_artifact(one.level, "model/manifest.json")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text(
            json.dumps({"finals": finals, "dense": {"macs": DENSE_MACS, "params": DENSE_PARAMS}})
        )
        (folder.parent / "weights.pt").write_bytes(b"weights")
        taken.append(one)
        if snapshot is not None:
            snapshot(one)
        if config.model.name == "breaks" and len(taken) == 2:
            raise ValueError("no such thing")
        if removed >= config.prune.target - 1e-9:
            return PathResult(
                "complete", finals, tuple(history), snapshots=tuple(taken), weights_sha256="1" * 64
            )
        removed = config.prune.next_level(removed)
