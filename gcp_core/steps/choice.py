"""Which kind of step a trial takes, and how long it is kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gcp_core.config import TrainConfig
from gcp_core.penalties import Penalty
from gcp_core.steps.captured import CapturedStep, CudaGraphs
from gcp_core.steps.compiled import CompiledStep
from gcp_core.steps.step import Part, PlainStep, Step

log = logging.getLogger(__name__)


@dataclass
class Steps:
    """The step of a trial: built for its network as it is, built anew once an event has changed that.

    Attributes:
        scaler: of ``train.precision: fp16``, see :func:`scaler_of`; it outlives the steps.
    """

    scaler: GradScaler | None = None
    _step: Step | None = None
    _without: frozenset[str] = frozenset()
    #: What the step was built around is kept alive with it: nothing new can be in its place in memory.
    _around: list[Any] = field(default_factory=list)

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        penalty: Penalty | None = None,
        rewritten: bool = False,
        part: Part | None = None,
    ) -> Step:
        """The step for the next epoch; see :func:`build_step`.

        Args:
            part: of a process that trains with others; such a step is done as it is written.
        """
        if part is not None:
            if train.compile != "off" and not self._without:
                log.warning("train.compile: steps of several processes run as they are written")
                self._without = frozenset({"compile", "record"})
            return PlainStep(model, optimizer, train, penalty, self.scaler, part)
        around = _around(model, optimizer, penalty)
        known = len(around) == len(self._around) and all(
            a is b or (isinstance(a, list) and a == b) for a, b in zip(around, self._around)
        )
        if self._step is None or not known:
            self.drop()
            self._step = build_step(
                model, optimizer, train, penalty, self.scaler, rewritten=rewritten, without=self._without
            )
        return self._step

    def end(self, model: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty | None = None) -> None:
        """After an epoch: what the step stands on now (the first step makes the optimiser's state)."""
        self._around = _around(model, optimizer, penalty)

    def drop(self) -> None:
        """Give back the step's memory; the next epoch builds another, without what has failed with this one."""
        if self._step is not None:
            self._without |= self._step.failed
        self._step, self._around = None, []


def build_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: TrainConfig,
    penalty: Penalty | None = None,
    scaler: GradScaler | None = None,
    *,
    rewritten: bool = False,
    without: frozenset[str] = frozenset(),
) -> Step:
    """The kind of step that ``train.compile`` asks for, where it is possible.

    Args:
        rewritten: the network has modules of a rewrite.
        without: what is not tried again, see :class:`Step`.
    """
    device = next(model.parameters()).device
    if train.compile == "off" or (train.compile == "auto" and device.type != "cuda"):
        return PlainStep(model, optimizer, train, penalty, scaler)
    kind = CompiledStep if train.compile == "inductor" and "compile" not in without else PlainStep
    step = kind(model, optimizer, train, penalty, scaler)
    if device.type != "cuda" or "record" in without:
        return step
    why_not = why_not_recorded(penalty, rewritten)
    if why_not:
        log.info("train.compile: steps are not recorded: %s", why_not)
        return step
    return CapturedStep(step, CudaGraphs(device))


def scaler_of(train: TrainConfig, device: torch.device) -> GradScaler | None:
    """What multiplies the loss of ``train.precision: fp16``, as much as its gradients bear; None for other precisions."""
    return GradScaler(device.type) if train.precision == "fp16" else None


def why_not_recorded(penalty: Penalty | None, rewritten: bool) -> str:
    """Why a step must not be played back; empty if it may. What Python does between two kernels is not recorded."""
    if rewritten:
        return "modules of train.rewrite may do something else in every step"
    if any(hasattr(penalty, name) for name in ("after_step", "state_dict")):
        return "train.penalty keeps something from step to step"
    return ""


def _around(model: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty | None) -> list[Any]:
    """Everything that a step has the addresses of, and the addresses."""
    state = [
        value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)
    ]
    tensors = [*model.parameters(), *model.buffers(), *state]
    return [optimizer, penalty, *model.modules(), *tensors, [tensor.data_ptr() for tensor in tensors]]
