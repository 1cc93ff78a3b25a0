"""A path that trains in a second, a net for exact levels, and what of two results must be the same."""

from __future__ import annotations

import dataclasses
import hashlib

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig

#: Levels 0.3, 0.51, 0.657: dense epochs 1 and 2, cycles 3 4, 5 6 and 7 8, so snapshots after epochs 2, 4, 6 and 8.
PATH = TrialConfig(
    seed=1,
    data=DataConfig("digits", val_share=0.25, train_images=96),
    model=ModelConfig("vgg_tiny", width=0.125),
    train=TrainConfig(batch_size=32, schedule="cycles", restart=0.8),
    prune=PruneConfig(
        criterion="frs", start=2, interval=2, ratio=0.3, target=0.6, min_channels=1, min_share=0.03
    ),
)


def path(*, data=None, model=None, train=None, seed=None, **prune) -> TrialConfig:
    """:data:`PATH` with other values; ``prune`` by keyword, the other parts as dictionaries."""
    parts = {"data": data, "model": model, "train": train, "prune": prune}
    if prune.get("levels") is not None:
        prune |= {"ratio": None, "ratio_of": None, "target": None}
    changed = {
        name: dataclasses.replace(getattr(PATH, name), **(values or {})) for name, values in parts.items()
    }
    return dataclasses.replace(PATH, **changed, seed=PATH.seed if seed is None else seed)


def ten_channels(num_classes, in_channels, width):
    """One layer that can be pruned; every unit costs a tenth of the net, exactly."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(in_channels, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, num_classes),
    )  # fmt: skip


def finals_that_count(finals) -> dict:
    """All but wall times."""
    return {name: value for name, value in finals.items() if name != "device_hours" and "latency" not in name}


def comparable(result) -> dict:
    """Everything of a path's result that is no wall time and no place on a disk."""
    return {
        "status": (result.status, result.ended, result.error),
        "plans": result.plans,
        "finals": finals_that_count(result.finals),
        "weights": result.weights_sha256,
        "history": [
            (row.epoch, {name: value for name, value in row.metrics.items() if name != "time/epoch_s"})
            for row in result.history
        ],
        "snapshots": [
            (s.level, s.epoch, finals_that_count(s.finals), s.weights_sha256) for s in result.snapshots
        ],
    }


def weights_on_disk(folder) -> dict[str, str]:
    """Name of every snapshot's folder below a trial's -> SHA-256 of its weights file."""
    return {
        place.name: hashlib.sha256((place / "weights.pt").read_bytes()).hexdigest()
        for place in sorted((folder / "snapshots").iterdir())
    }
