"""ResNet-56 and ResNet-110 on CIFAR-10: paths, and the paper's schedule; last-epoch values. Goes on from call to call."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Kit, OutOfTime
from gcp_core.config import PruneConfig, TrialConfig
from gcp_core.records.stages import StageStore
from gcp_core.training import run_trial

LEVELS = (0.3, 0.5, 0.65, 0.8, 0.9)
#: Units an event removes: the paper's table for ResNets, and worked back from its abstract for ResNet-110.
PAPER = {"resnet56": 120, "resnet110": 264}
#: In this order, so that what there is time for says something: paths of both networks, then the paper's schedule.
SEEDS = (0, 1, 2)


def trainings(kit: Kit) -> dict[str, TrialConfig]:
    """Name -> training, in the order in which they run."""
    made: dict[str, TrialConfig] = {}
    start, interval, epochs = (1, 1, 3) if kit.smoke else (30, 15, 200)
    path = PruneConfig(
        criterion="frs", start=start, interval=interval, levels=LEVELS, residual="scatter", min_share=0.03
    )
    fast = {"batch_size": 128, "precision": "bf16", "lr": 0.1, "compile": "auto"}
    step = {"batch_size": 256, "lr": 0.1, "epochs": epochs, "schedule": "step", "compile": "auto"}
    for seed in SEEDS[: 1 if kit.smoke else None]:
        for name, count in PAPER.items():
            if kit.smoke and name != "resnet56":
                continue
            single = PruneConfig(
                criterion="frs", interval=21, count=count, target=None, until=150, residual="scatter",
                min_channels=1, min_share=0.0,
            )  # fmt: skip
            if kit.smoke:
                single = dataclasses.replace(single, interval=1, count=20, until=1.0)
            milestones = (100, 150) if epochs > 150 else (1, 2)
            runs = {
                f"{name}, path, seed {seed}": kit.trial(name, {**fast, "schedule": "cycles"}, path),
                f"{name}, unpruned, seed {seed}": kit.trial(
                    name, {**fast, "epochs": 2 if kit.smoke else start + interval * len(LEVELS)}
                ),
                f"{name}, the paper's schedule, seed {seed}": kit.trial(
                    name, {**step, "milestones": milestones}, single
                ),
            }
            made |= {title: dataclasses.replace(run, seed=seed) for title, run in runs.items()}
    return made


def evidence(kit: Kit) -> dict[str, Any]:
    """What has ended, with last-epoch values; what has not begun or not ended is named."""
    if kit.data is None and not kit.smoke:
        return {"skipped": "no CIFAR-10: --data FOLDER (python -m benchmarks.gpu.images makes it)"}
    models: dict[str, Any] = {}
    left: list[str] = []
    for title, config in trainings(kit).items():
        if kit.left_s < 0:
            left.append(title)
            continue
        try:
            models[title] = _train(kit, title, config)
            print(f"  {title}: {json.dumps(models[title][-1])}", flush=True)
        except OutOfTime:
            left.append(title)
    return {"models": models, "left": left}


def _train(kit: Kit, title: str, config: TrialConfig) -> list[dict[str, Any]]:
    folder = kit.work / ("smoke" if kit.smoke else "evidence") / title.replace(", ", "-").replace(" ", "_")

    def saved(whole: Path) -> None:
        kit.check()  # the epoch is kept: the next call goes on from there

    stages = StageStore(kit.work / "stages")
    result = run_trial(config, checkpoint_dir=folder, stages=stages, saved=saved, latency=False)
    finals = [one.finals for one in result.snapshots] if config.is_path else [result.finals]
    names = ("val_accuracy", "test_accuracy", "macs_removed", "params_removed", "train_cost", "device_hours")
    rows = [
        {name: round(values[name], 4) for name in names if name in values} | {"status": result.status}
        for values in finals
    ]
    return rows or [{"status": result.status}]  # a path that diverged before its first snapshot
