"""How a network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gcp_core.config.checks import LATER, integer, milestone, number, one_of, plugin
from gcp_core.errors import ConfigError, required

OPTIMIZERS = ("sgd", "adamw")
CYCLES = "cycles"
LR_SCHEDULES = ("one_cycle", "step", "cosine", "constant", CYCLES)
PRECISIONS = ("fp32", "bf16", "fp16")
COMPILED = ("off", "auto", "inductor")
#: What fills the slot of a penalty where nothing else does.
NO_PENALTY = "none"
#: And of a rewrite.
NO_REWRITE = "none"


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained.

    Attributes:
        lr: the peak learning rate.
        epochs: None = 20; with ``cycles`` None = as many as the path takes, a number = no cycle that would end later.
        schedule: ``one_cycle`` (linear up over ``warmup``, linear down to zero), ``step`` (times ``gamma`` at each
            of ``milestones``), ``cosine``, ``constant``: none of them depends on the pruning. ``cycles``: the trial is a
            path, one-cycle until ``prune.start``, then one cycle after every event.
        restart: ``cycles``: the share of ``lr`` at which a cycle starts.
        pace: ``cycles``: the shape of a cycle, ``linear`` (down to zero), ``slow_start``, or ``package.module:pace``.
        milestones: epochs (whole numbers) or shares of all epochs (below 1).
        precision: ``bf16`` and (on a GPU) ``fp16`` train under autocast; evaluation and scores are always float32.
        eval_images: validation images looked at after each epoch (None = all); the final evaluation uses all.
        device: ``auto`` takes a GPU if the process sees one.
        penalty: adds a term to the loss of every step; see :mod:`gcp_core.penalties`.
        rewrite: puts modules into the network for its training, which are folded away before it leaves; see
            :mod:`gcp_core.rewrites`.
        penalty_options, rewrite_options: their arguments.
        processes: so many train a trial together, each on its part of every batch and, where there are GPUs, on one of
            its own. ``batch_size`` is the whole batch's.
        sync_norms: several processes: batch norms take their statistics over the whole batch, not over each process's
            part of it.
        compile: ``off`` = a step is done as it is written. ``auto`` = on a GPU it is recorded and played back between
            events (a CUDA graph of the same kernels), on a CPU nothing. ``inductor`` = ``torch.compile`` too, anew after
            every event: for networks that are trained for many minutes between them.
        tf32: on a GPU products of float32 matrices keep 10 bits of 23 in training; never in evaluation and scores.
        deterministic: on a GPU only kernels that repeat themselves bit by bit; a CPU has no others.
    """

    epochs: int | None = None
    batch_size: int = 128
    lr: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5.0e-4
    schedule: str = "one_cycle"
    warmup: float = 0.25
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    label_smoothing: float = 0.0
    precision: str = "fp32"
    channels_last: bool = True
    eval_images: int | None = None
    device: str = "auto"
    restart: float = field(default=1.0, metadata=LATER)
    pace: str = field(default="linear", metadata=LATER)
    penalty: str = field(default=NO_PENALTY, metadata=LATER)
    penalty_options: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    rewrite: str = field(default=NO_REWRITE, metadata=LATER)
    rewrite_options: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    processes: int = field(default=1, metadata=LATER)
    sync_norms: bool = field(default=False, metadata=LATER)
    compile: str = field(default="off", metadata=LATER)
    tf32: bool = field(default=False, metadata=LATER)
    deterministic: bool = field(default=False, metadata=LATER)

    @property
    def num_epochs(self) -> int:
        """``epochs`` of a training that has a fixed length; ValueError for a path without a cap."""
        return required(self.epochs, "train.epochs")

    def __post_init__(self) -> None:
        one_of("train.schedule", self.schedule, LR_SCHEDULES)
        if self.epochs is None and self.schedule != CYCLES:
            object.__setattr__(self, "epochs", 20)
        if self.epochs is not None:
            integer("train.epochs", self.epochs, 1)
        number("train.restart", self.restart, 0.0, 1.0, open_low=True)
        if not self.pace or not isinstance(self.pace, str):
            raise ConfigError(f"{self.pace!r} is not a pace's name", "train.pace")
        plugin("train.penalty", self.penalty, self.penalty_options)
        plugin("train.rewrite", self.rewrite, self.rewrite_options)
        if self.schedule != CYCLES:
            for name, default in (("restart", 1.0), ("pace", "linear")):
                value = getattr(self, name)
                if value != default:
                    hint = "train.schedule: cycles"
                    raise ConfigError(f"{value!r}: only cycles have it", f"train.{name}", hint)
        integer("train.batch_size", self.batch_size, 2)
        number("train.lr", self.lr, 0.0, math.inf, open_low=True)
        one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        number("train.momentum", self.momentum, 0.0, 1.0)
        number("train.weight_decay", self.weight_decay, 0.0, math.inf)
        number("train.warmup", self.warmup, 0.0, 1.0)
        object.__setattr__(
            self,
            "milestones",
            tuple(milestone(f"train.milestones.{i}", m) for i, m in enumerate(self.milestones)),
        )
        number("train.gamma", self.gamma, 0.0, 1.0, open_low=True)
        number("train.label_smoothing", self.label_smoothing, 0.0, 1.0)
        one_of("train.precision", self.precision, PRECISIONS)
        one_of("train.compile", self.compile, COMPILED)
        for switch in ("tf32", "deterministic"):
            if not isinstance(getattr(self, switch), bool):
                raise ConfigError(f"{getattr(self, switch)!r} is not true or false", f"train.{switch}")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov needs a momentum above 0", "train.nesterov")
        if self.eval_images is not None:
            integer("train.eval_images", self.eval_images, 1)
        _check_processes(self)


def _check_processes(train: TrainConfig) -> None:
    number, batch = train.processes, train.batch_size
    integer("train.processes", number, 1)
    if not isinstance(train.sync_norms, bool):
        raise ConfigError(f"{train.sync_norms!r} is neither true nor false", "train.sync_norms")
    if number == 1:
        # There is nothing to synchronise: said or not, it is the same trial.
        object.__setattr__(train, "sync_norms", False)
        return
    if batch % number or batch < 2 * number:
        fitting = max(2, round(batch / number)) * number
        raise ConfigError(
            f"{number} processes cannot share batches of {batch} images evenly, two or more each",
            "train.processes",
            f"train.batch_size: {fitting}, for instance",
        )
    if ":" in train.device:
        raise ConfigError(
            f"{train.device!r} is one GPU, but there are {number} processes",
            "train.device",
            "auto: every process takes a GPU of its own",
        )
