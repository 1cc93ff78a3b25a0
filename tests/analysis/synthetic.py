"""A sweep that never ran: a known accuracy-cost curve plus noise, logged to a real MLflow store as a real
one is.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.plan import AttributeChange, Plan
from gcp_core.schema import (
    ARTIFACT_MANIFEST,
    FINALS,
    SCHEMA_VERSION,
    SNAPSHOT,
    STATUSES,
    Tag,
    model_id,
    snapshot_artifact,
)
from sweeps.config.reading import flatten
from tests.prepared import empty_store

BASE_MACS, BASE_PARAMS, BASE_ACCURACY = 4_000_000.0, 280_000.0, 97.0


@dataclass
class FakeTrial:
    """One run to log; ``finals`` by short name."""

    trial: str
    config: TrialConfig
    finals: dict[str, float]
    kind: str = "trial"
    status: str = "complete"
    error: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class FakePath:
    """A path to log: its own run, and nested below it one per snapshot.

    ``finals``: of each snapshot; ``infeasible``: numbers of those that violate a constraint. ``ended``: whether the run
    of an unfinished path has an end. The files of snapshots lie in the sweep's folder unless ``files`` is False.
    ``polished``: (level, epochs) -> points of accuracy that the polish brought.
    """

    trial: str
    config: TrialConfig
    finals: list[dict[str, float]]
    kind: str = "trial"
    status: str = "complete"
    error: str = ""
    infeasible: tuple[int, ...] = ()
    files: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    polished: dict[tuple[int, int], float] = field(default_factory=dict)

    def own_run(self) -> FakeTrial:
        """The path's own run: its values are those of its last snapshot."""
        last = self.finals[-1] if self.finals else {}
        return FakeTrial(self.trial, self.config, last, self.kind, self.status, self.error, self.tags)

    def snapshot(self, level: int) -> FakeTrial:
        """The run of one snapshot."""
        prune = self.config.prune
        tags = {
            Tag.MODEL_ID: model_id(self.trial, level),
            Tag.TRIAL_ID: self.trial,
            Tag.LEVEL: str(level),
            Tag.EPOCH: str(prune.start + level * prune.interval),
        }
        status = "infeasible" if level in self.infeasible else "complete"
        return FakeTrial(tags[Tag.MODEL_ID], self.config, self.finals[level], SNAPSHOT, status, tags=tags)

    def polish(self, level: int, epochs: int) -> FakeTrial:
        """The run of a polished snapshot."""
        run, share = self.snapshot(level), 1.0 - self.finals[level]["macs_removed"]
        tags = run.tags | {Tag.MODEL_ID: model_id(self.trial, level, epochs), Tag.POLISH: str(epochs)}
        finals = dict(run.finals)
        for name, more in (
            ("val_accuracy", self.polished[level, epochs]), ("epochs", epochs), ("train_cost", epochs * share),
            ("device_hours", 0.001 * epochs),
        ):  # fmt: skip
            finals[name] += more
        return dataclasses.replace(run, trial=tags[Tag.MODEL_ID], finals=finals, tags=tags)


#: Shares removed after each event of :func:`path_of`, the dense phase first.
LEVELS = (0.0, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95)


def path_of(
    trial: str, seed: int = 0, *, levels: int = 7, shift: float = 0.0, kind: str = "trial", **prune: Any
) -> FakePath:
    """A finished path of so many snapshots; its accuracy follows :func:`curve`, moved by ``shift`` points."""
    settings = {"start": 4, "interval": 6, "levels": LEVELS[1:], **prune}
    config = TrialConfig(
        seed=seed,
        data=DataConfig("digits", val_share=0.25),
        model=ModelConfig("vgg_tiny", 0.5),
        train=TrainConfig(batch_size=64, schedule="cycles"),
        prune=PruneConfig(**settings),
        baseline_epochs=16,
    )
    finals, cost = [], 0.0
    for level, removed in enumerate(LEVELS[:levels]):
        kept = 1.0 - removed
        epochs = settings["start"] + level * settings["interval"]
        cost += (settings["interval"] if level else settings["start"]) * kept
        values = finals_of(kept, curve(kept) + shift - 0.2 * (level == 0))
        del values["accuracy_drop"]  # not known before the baseline
        values |= {"epochs": float(epochs), "train_cost": cost, "device_hours": 0.001 * epochs}
        finals.append(values)
    return FakePath(trial, config, finals, kind)


def path_baseline(seed: int = 0, accuracy: float = BASE_ACCURACY, path: FakePath | None = None) -> FakeTrial:
    """The baseline of :func:`path_of`: one-cycle, of about equal compute."""
    config = dataclasses.replace((path or path_of("t0000")).config, seed=seed).baseline()
    finals = finals_of(1.0, accuracy) | {"epochs": 16.0, "train_cost": 16.0, "device_hours": 0.016}
    return FakeTrial(f"b{seed:04d}", config, finals, kind="baseline")


def curve(kept: float, noise: float = 0.0) -> float:
    """True accuracy (per cent) at a share of MACs kept: flat first, then falling."""
    return BASE_ACCURACY - 0.5 * (1.0 / max(kept, 0.02) - 1.0) ** 1.1 + noise


def finals_of(kept: float, accuracy: float, latency: float | None = None) -> dict[str, float]:
    macs, params = round(kept * BASE_MACS), round(kept**1.2 * BASE_PARAMS)
    values = {
        "val_accuracy": accuracy,
        "test_accuracy": accuracy - 0.4,
        "macs": macs,
        "params": params,
        "macs_removed": 1 - macs / BASE_MACS,
        "params_removed": 1 - params / BASE_PARAMS,
        "compression": BASE_PARAMS / params,
        "accuracy_drop": BASE_ACCURACY - accuracy,
        "latency_ms": latency if latency is not None else 0.4 + 1.1 * kept,
        "latency_noise": 0.0,
        "epochs": 20,
        "device_hours": 0.002,
        "target_reached": 1.0,
        "train_cost": 10.0 + 8 * kept,
    }
    values["latency_share"] = values["latency_ms"] / (0.4 + 1.1)
    return {name: float(values[name]) for name in FINALS}


def config_for(seed: int = 0, **prune: Any) -> TrialConfig:
    return TrialConfig(
        seed=seed,
        data=DataConfig("digits", val_share=0.25),
        model=ModelConfig("vgg_tiny", 0.5),
        train=TrainConfig(epochs=20, batch_size=64),
        prune=PruneConfig(**prune),
    )


def baseline_trial(seed: int = 0, accuracy: float = BASE_ACCURACY) -> FakeTrial:
    return FakeTrial(f"b{seed:04d}", config_for(seed).baseline(), finals_of(1.0, accuracy), kind="baseline")


def some_trials(n: int, seed: int = 0, noise: float = 0.3, first: int = 0) -> list[FakeTrial]:
    """``n`` finished trials with searched interval, ratio, target and criterion."""
    rng = np.random.default_rng(seed)
    trials = []
    for i in range(first, first + n):
        target = float(np.round(rng.uniform(0.3, 0.95), 2))
        interval, ratio = int(rng.integers(1, 5)), float(np.round(rng.choice([0.1, 0.2, 0.3, 0.4]), 1))
        criterion = str(rng.choice(["frs", "l1", "random"]))
        loss = {"frs": 0.0, "l1": 0.3, "random": 1.2}[criterion] + 0.4 * ratio
        accuracy = curve(1 - target) - loss - noise * float(rng.exponential())
        config = config_for(criterion=criterion, interval=interval, ratio=ratio, target=target)
        trials.append(FakeTrial(f"t{i:04d}", config, finals_of(1 - target, accuracy)))
    return trials


def broken_trials(first: int) -> list[FakeTrial]:
    """One of each end that must not stand on a front, with tempting values where it has any."""
    tempting = finals_of(0.01, 99.9)
    nan = {**tempting, "val_accuracy": math.nan}
    infinite = {**tempting, "macs": -math.inf}
    config = config_for(target=0.9)
    return [
        FakeTrial(f"t{first:04d}", config, {}, status="failed", error="ModelError: bn1 has no channels"),
        FakeTrial(
            f"t{first + 1:04d}", config, {}, status="diverged", error="Diverged: loss is nan in epoch 3"
        ),
        FakeTrial(f"t{first + 2:04d}", config, tempting, status="stopped"),
        FakeTrial(f"t{first + 3:04d}", config, nan),
        FakeTrial(f"t{first + 4:04d}", config, infinite),
        FakeTrial(f"t{first + 5:04d}", config, tempting, status="infeasible"),
    ]


def write_sweep(
    folder: Path,
    trials: list[FakeTrial | FakePath],
    *,
    name: str | None = None,
    running: bool = False,
    schema: str = SCHEMA_VERSION,
    uri: str | None = None,
) -> str:
    """Log ``trials`` under one parent and write the sweep's folder; returns the tracking URI."""
    folder.mkdir(parents=True, exist_ok=True)
    name = name or folder.name
    if uri is None:
        shutil.copyfile(empty_store(), folder / "mlflow.db")
        uri = f"sqlite:///{folder.resolve()}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    artifacts = (folder.resolve() / "mlartifacts").as_uri()
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name, artifacts)
    sweep_id = f"{name}-{client.search_runs([experiment_id], max_results=1).__len__()}"
    tags = {Tag.KIND: "sweep", Tag.SWEEP_NAME: name, Tag.SWEEP_ID: sweep_id, Tag.SCHEMA: schema}
    parent = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    for i, trial in enumerate(trials):
        log_run(client, experiment_id, parent, trial, tags, start=1_700_000_000_000 + 60_000 * i)
    if not running:
        client.set_terminated(parent, "FINISHED")
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"name": name, "search": {"objectives": {"val_accuracy": "max", "macs": "min"}}})
    )
    for trial in trials:
        _write_manifests(folder / "trials" / trial.trial, trial)
    entry = {
        "id": sweep_id, "name": name, "tracking_uri": uri, "experiment": name, "parent_run_id": parent,
        "config_digest": "0" * 12,
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(entry))
    return uri


def _write_manifests(folder: Path, trial: FakeTrial | FakePath) -> None:
    """What a trial's folder says about its models, unless a real model is there."""
    task = {"num_classes": 10}
    about = {ARTIFACT_MANIFEST: {"plans": [a_plan().to_dict()]}}
    if isinstance(trial, FakePath):
        levels = range(len(trial.finals) if trial.files else 0)
        about = {
            snapshot_artifact(level, ARTIFACT_MANIFEST): {
                "plans": [a_plan(32 - 4 * i, 28 - 4 * i).to_dict() for i in range(level)],
                "config": trial.config.to_dict(),
                "snapshot": {"level": level, "epoch": int(trial.finals[level]["epochs"])},
            }
            for level in levels
        }
    for name, content in about.items():
        file = folder / name
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(task | content))


def log_run(
    client: MlflowClient,
    experiment_id: str,
    parent: str,
    trial: FakeTrial | FakePath,
    common: dict[str, str],
    start: int,
) -> str:
    """Log a trial; of a path also its snapshots, each as it is finished."""
    if isinstance(trial, FakeTrial):
        return log_trial(client, experiment_id, parent, trial, common, start)
    run_id = log_trial(client, experiment_id, parent, trial.own_run(), common, start)
    for level in range(len(trial.finals)):
        # A snapshot ends before its path does, which takes 30 seconds.
        begun = start - 28_000 + 1000 * level
        log_trial(client, experiment_id, run_id, trial.snapshot(level), common, begun)
    for number, (level, epochs) in enumerate(trial.polished):
        # Long after its path, and after all trials of the sweep.
        begun = start + 86_400_000 + 60_000 * number
        log_trial(client, experiment_id, run_id, trial.polish(level, epochs), common, begun)
    return run_id


def log_trial(
    client: MlflowClient,
    experiment_id: str,
    parent: str,
    trial: FakeTrial,
    common: dict[str, str],
    start: int,
) -> str:
    status = STATUSES[trial.status]
    tags = {
        **common,
        Tag.PARENT: parent,
        Tag.KIND: trial.kind,
        Tag.STATUS: trial.status,
        Tag.CONFIG_ID: trial.config.config_id(),
        Tag.SEED: str(trial.config.seed),
        **({Tag.ERROR: trial.error} if trial.error else {}),
        **trial.tags,
    }
    run = client.create_run(experiment_id, start_time=start, run_name=trial.trial)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(FINALS[k].key, v, start, 20) for k, v in trial.finals.items()],
        params=[Param(k, str(v)) for k, v in flatten(trial.config.to_dict()).items()],
        tags=[RunTag(k, v) for k, v in tags.items()],
    )
    if status.mlflow != "RUNNING":
        client.set_terminated(run.info.run_id, status.mlflow, end_time=start + 30_000)
    return run.info.run_id


def a_plan(before: int = 32, after: int = 20) -> Plan:
    """One event that narrows two convolutions, the first one as asked."""
    changes = (
        AttributeChange("features.0", "out_channels", before, after),
        AttributeChange("features.10", "out_channels", 64, 16),
        AttributeChange("features.3", "in_channels", before, after),
    )
    return Plan(removed={"features.0": tuple(range(before - after))}, attributes=changes, meta={"epoch": 3})


def reseeded(trial: FakeTrial, name: str, seed: int, accuracy: float, kind: str = "trial") -> FakeTrial:
    """The same configuration with another seed and another accuracy."""
    config = dataclasses.replace(trial.config, seed=seed)
    kept = trial.finals["macs"] / BASE_MACS
    return FakeTrial(name, config, finals_of(kept, accuracy), kind=kind)
