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
    ended: str = ""


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
    """``model.name`` = breaks: fails after its second snapshot. Goes on from the last snapshot in ``checkpoint_dir``, as
    long as its ``epochs`` folder is there.
    """
    if not config.is_path:
        return fake_runner.run(config, report=report, checkpoint_dir=checkpoint_dir)
    place, levels = Path(checkpoint_dir), _levels(config)
    taken = _known(place) if (place / "epochs").exists() else []
    history = [_row(epoch + 1, 0.0) for epoch in range(taken[-1].epoch if taken else 0)]
    again = taken.pop() if taken else None
    for level, removed in enumerate(levels):
        if level < len(taken):
            continue
        if again is None:
            for _ in range(config.prune.interval if level else config.prune.start):
                history.append(_row(len(history) + 1, removed))
                if report is not None:
                    report(history[-1])
        (place / "epochs").mkdir(parents=True, exist_ok=True)
        again = None
        finals = finals_at(config, removed, len(history))
        taken.append(_keep(place, level, len(history), finals, config.data.val_images))
        rest = snapshot is not None and snapshot(taken[-1])
        if config.model.name == "breaks" and len(taken) == 2:
            raise ValueError("no such thing")
        cap = config.train.epochs
        capped = cap is not None and len(history) + config.prune.interval > cap
        over = removed == levels[-1] or capped
        if over or rest:
            status, ended = ("complete", "cap" if capped else "target") if over else ("paused", "paused")
            return PathResult(
                status,
                taken[-1].finals,
                tuple(history),
                snapshots=tuple(taken),
                weights_sha256=taken[-1].weights_sha256,
                ended=ended,
            )


def _levels(config: TrialConfig) -> list[float]:
    levels = [0.0]
    while levels[-1] < config.prune.target - 1e-9:
        levels.append(config.prune.next_level(levels[-1]))
    return levels


def _row(epoch: int, removed: float) -> Report:
    metrics = {"train/loss": 1.0, "val/loss": 1.0, "val/accuracy": 50.0, "cost/macs": DENSE_MACS * (1 - removed),
               "cost/params": DENSE_PARAMS, "prune/channels_left": 1.0, "time/epoch_s": 1.0}  # fmt: skip
    return Report(epoch, metrics)


def _keep(place: Path, level: int, epoch: int, finals: dict[str, float], images: int | None) -> Taken:
    file = place / snapshot_artifact(level, "model/manifest.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    dense = {"macs": DENSE_MACS, "params": DENSE_PARAMS}
    file.write_text(
        json.dumps({"finals": finals, "dense": dense, "level": level, "epoch": epoch, "val_images": images})
    )
    (file.parent / "weights.pt").write_bytes(b"weights")
    return Taken(level, epoch, finals, f"{level:064d}")


def _known(place: Path) -> list[Taken]:
    found = []
    for file in sorted(place.glob("snapshots/*/manifest.json")):
        about = json.loads(file.read_text())
        found.append(Taken(about["level"], about["epoch"], about["finals"], f"{about['level']:064d}"))
    return found
