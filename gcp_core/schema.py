"""Every name that is logged, tagged or reported, with its unit and its direction (stdlib only).

A metric, tag or status that is not in this file is not written anywhere. Writers (``sweeps.tracking.writer``) and
readers (``analysis.load``) both take their names from here, so they cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SCHEMA_VERSION = "1"

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Quantity:
    """A measured number: its short name (objectives, constraints, columns), its MLflow key, unit and direction.

    ``better`` is None where neither direction is better in itself (for instance ``epochs``).
    """

    name: str
    key: str
    unit: str
    better: Direction | None
    text: str


def _final(name: str, unit: str, better: Direction | None, text: str) -> Quantity:
    return Quantity(name, f"final/{name}", unit, better, text)


#: Final values of a trial, by short name. Written once, at the trial's last epoch.
FINALS: dict[str, Quantity] = {
    q.name: q
    for q in (
        _final("val_accuracy", "%", "max", "accuracy on the validation split"),
        _final(
            "test_accuracy", "%", "max", "accuracy on the test split; measured once, never used by the search"
        ),
        _final("macs", "MACs", "min", "multiply-adds of conv and linear layers, one image"),
        _final("params", "parameters", "min", "trainable parameters, batch norm included"),
        _final("macs_removed", "share", "max", "1 - macs / macs of the unpruned model"),
        _final("params_removed", "share", "max", "1 - params / params of the unpruned model"),
        _final("compression", "x", "max", "original params / left params"),
        _final("accuracy_drop", "points", "min", "baseline minus pruned validation accuracy"),
        _final(
            "latency_ms",
            "ms",
            "min",
            "median forward time, batch 1, eager torch, on the threads of the trial",
        ),
        _final("latency_share", "share", "min", "forward time / that of the unpruned model beside it"),
        _final(
            "latency_noise",
            "share",
            None,
            "half width of the latency's interval; smaller differences mean nothing",
        ),
        _final("epochs", "epochs", None, "epochs trained"),
        _final("device_hours", "h", "min", "wall time of the trial, trained alone, times its devices"),
        _final("target_reached", "0 or 1", "max", "1 if the compression target was reached"),
        _final(
            "train_cost",
            "dense epochs",
            "min",
            "training multiply-adds, scoring included, in epochs of the unpruned model; as if trained alone",
        ),
    )
}

#: Final values that a clock measured: a difference within ``latency_noise`` decides nothing.
LATENCIES = ("latency_ms", "latency_share")
#: Final values that are shares, and the largest one that a limit may name: what is above it was meant in per cent. A
#: latency may be a little more than the unpruned model's.
LARGEST_SHARES = {"macs_removed": 1, "params_removed": 1, "latency_share": 2}

#: Values logged after every epoch, by MLflow key.
PER_EPOCH: dict[str, Quantity] = {
    q.key: q
    for q in (
        Quantity("train_loss", "train/loss", "nats", "min", "mean training loss of the epoch"),
        Quantity("val_loss", "val/loss", "nats", "min", "mean validation loss"),
        Quantity("val_accuracy", "val/accuracy", "%", "max", "validation accuracy after the epoch"),
        Quantity("macs", "cost/macs", "MACs", "min", "multiply-adds of the model as it is now"),
        Quantity("params", "cost/params", "parameters", "min", "parameters of the model as it is now"),
        Quantity("channels_left", "prune/channels_left", "units", None, "prunable units still alive"),
        Quantity(
            "epoch_s", "time/epoch_s", "s", "min", "wall time of the epoch, scoring and surgery included"
        ),
    )
}

#: Metric on the sweep's parent run.
FRONT_HYPERVOLUME = "front/hypervolume"

#: ``snapshot`` is the kind of MLflow runs alone: a snapshot is a model of a trial, a baseline or a confirm run.
Kind = Literal["sweep", "trial", "baseline", "confirm"]
SNAPSHOT = "snapshot"


class Tag:
    """Tag names on MLflow runs."""

    SWEEP_ID = "sweep.id"
    SWEEP_NAME = "sweep.name"
    TRIAL_ID = "trial.id"
    #: ``t0007@3``, of a snapshot.
    MODEL_ID = "model.id"
    #: Number of a snapshot in its path, the epoch that it ends, and for how many epochs it was polished.
    LEVEL = "snapshot.level"
    EPOCH = "snapshot.epoch"
    POLISH = "snapshot.polish"
    CONFIG_ID = "config_id"
    SEED = "seed"
    KIND = "kind"
    STATUS = "status"
    ERROR = "error"
    FRONT = "pareto.front"
    RANK = "pareto.rank"
    #: Of a sweep: what ``front/hypervolume`` is measured against, a baseline or what stands for it.
    ANCHORS = "front.anchors"
    GIT_SHA = "git_sha"
    #: Names the final weights bit by bit; ``gcp-sweep replay`` reproduces it.
    WEIGHTS = "weights_sha256"
    #: Of a snapshot whose weights were dropped while the sweep ran (``search.keep``): why, and how to have them again.
    DROPPED = "weights.dropped"
    #: Of a path: why it ended or rests, in a word and in a sentence.
    ENDED = "path.ended"
    DECISION = "path.decision"
    #: What the trial ran with: names the data, "torch=2.15.0 ...", the processor or GPU, threads.
    DATA_DIGEST = "data_digest"
    VERSIONS = "versions"
    DEVICE = "device"
    THREADS = "threads"
    SCHEMA = "schema"
    #: MLflow's own
    PARENT = "mlflow.parentRunId"
    RUN_NAME = "mlflow.runName"
    NOTE = "mlflow.note.content"


@dataclass(frozen=True)
class Status:
    """One end (or non-end) of a trial and what Optuna and MLflow call it.

    ``on_front`` says whether a trial with this status may be on the front.
    """

    name: str
    optuna: Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    mlflow: Literal["FINISHED", "FAILED", "RUNNING"]
    on_front: bool
    text: str


STATUSES: dict[str, Status] = {
    s.name: s
    for s in (
        Status("complete", "COMPLETE", "FINISHED", True, "trained to the end"),
        Status(
            "paused", "RUNNING", "FINISHED", False, "a path that is paused after a cycle; its snapshots count"
        ),
        Status("stopped", "PRUNED", "FINISHED", False, "stopped early; its values have a lower fidelity"),
        Status("infeasible", "COMPLETE", "FINISHED", False, "trained or refused, violates a constraint"),
        Status("diverged", "FAIL", "FAILED", False, "the loss was not finite"),
        Status("failed", "FAIL", "FAILED", False, "raised an error"),
        Status("lost", "FAIL", "FAILED", False, "its process or node is gone and it was not retried"),
        Status("running", "RUNNING", "RUNNING", False, "not finished"),
    )
}

#: Artifact names inside a trial's MLflow run (and inside its folder).
ARTIFACT_WEIGHTS = "model/weights.pt"
ARTIFACT_MANIFEST = "model/manifest.json"
#: Below it a path keeps a model folder for each of its snapshots: ``snapshots/03/weights.pt``.
SNAPSHOTS = "snapshots"
#: Beside it: the epochs of the snapshots that are polished, or were.
POLISH = "polish"
ARTIFACT_CONFIG = "config.yaml"
ARTIFACT_LOG = "trial.log"
ARTIFACT_TRACEBACK = "traceback.txt"
#: What a trial reports after every epoch, one JSON object a line.
ARTIFACT_EPOCHS = "reported.jsonl"
#: Where ``mlflow ui`` listens unless told otherwise; links of an SQLite store lead there.
LOCAL_UI = "http://127.0.0.1:5000"
#: Folder in the sweep's own where MLflow keeps the files of all runs, unless a tracking server has them.
LOCAL_ARTIFACTS = "mlartifacts"


_MODEL = re.compile(r"([^@]+)(?:@(0|[1-9]\d*)(?:\+([1-9]\d*))?)?")


@dataclass(frozen=True)
class ModelName:
    """What a model is called everywhere: the parts of ``t0008``, ``t0007@3`` or ``t0007@3+30``.

    Attributes:
        trial: the trial that it belongs to.
        level: number of the snapshot; None = the final model of a single trial.
        polish: epochs that the snapshot was polished for; 0 = it is the snapshot itself.

    >>> ModelName.parse("t0007@3+30")
    ModelName(trial='t0007', level=3, polish=30)
    >>> str(ModelName("t0007", 3))
    't0007@3'
    """

    trial: str
    level: int | None = None
    polish: int = 0

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """The parts of a name; anything else counts as the name of a trial."""
        found = _MODEL.fullmatch(text)
        if found is None:
            return cls(text)
        trial, level, polish = found.groups()
        return cls(trial, None if level is None else int(level), int(polish or 0))

    def __str__(self) -> str:
        if self.level is None:
            return self.trial
        return f"{self.trial}@{self.level}" + (f"+{self.polish}" if self.polish else "")


def model_id(trial_id: str, level: int, polish: int = 0) -> str:
    """``t0007@3``, or ``t0007@3+30`` polished: the name of a snapshot everywhere."""
    return str(ModelName(trial_id, level, polish))


def snapshot_place(level: int, polish: int = 0) -> str:
    """The model folder of a snapshot below its path's: ``snapshots/03``, or ``snapshots/03+30`` polished."""
    return f"{SNAPSHOTS}/{level:02d}" + (f"+{polish}" if polish else "")


def polish_place(level: int, polish: int) -> str:
    """Where a path's folder has what a polish leaves while it trains: ``polish/03+30``."""
    return f"{POLISH}/{level:02d}+{polish}"


def snapshot_artifact(level: int, artifact: str, polish: int = 0) -> str:
    """Where a path's folder has an artifact of a snapshot: ``snapshots/03/weights.pt`` for ``model/weights.pt``."""
    return f"{snapshot_place(level, polish)}/{artifact.rpartition('/')[2]}"


def by_number(folders: Iterable[Path], prefix: str = "") -> list[Path]:
    """Those that are called ``prefix`` and a number, lowest first; as text, 100 would come before 99."""
    numbers = {folder: folder.name.removeprefix(prefix) for folder in folders}
    return sorted(
        (folder for folder in numbers if numbers[folder].isdigit()), key=lambda folder: int(numbers[folder])
    )
