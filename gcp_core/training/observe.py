"""What is seen of a trial after an epoch: evaluation, checks, the report."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gcp_core.errors import Diverged
from gcp_core.plan import Plan
from gcp_core.records.results import EpochReport, Snapshot
from gcp_core.training.evaluation import Evaluation, evaluate
from gcp_core.training.state import State
from gcp_core.training.team.team import Team

log = logging.getLogger(__name__)

#: Called after every epoch; returning True stops the trial.
Report = Callable[[EpochReport], bool | None]
#: Called with every snapshot; returning True pauses the path there.
SnapshotSink = Callable[[Snapshot], bool | None]


@dataclass(frozen=True)
class Hooks:
    """Who is told what, and what is measured; the fields are arguments of :func:`gcp_core.training.run_trial`.

    ``team``: the processes that train the trial together; None = this one alone.
    """

    report: Report | None = None
    snapshot: SnapshotSink | None = None
    saved: Callable[[Path], None] | None = None
    devices: float = 1.0
    latency: bool = True
    team: Team | None = None


def measure(state: State, model: nn.Module | None = None) -> Evaluation:
    """Loss and accuracy on the images looked at after each epoch, of the model as it is now (None = the plain one)."""
    setup, channels_last = state.setup, state.setup.config.train.channels_last
    return evaluate(
        model or state.plain(), setup.epoch_val_images, setup.splits.normalise, channels_last=channels_last
    )


def check_finite(state: State, measured: Evaluation, epoch: int) -> None:
    """Raise Diverged unless weights and validation loss are finite: the mean training loss of an epoch is finite also
    when its last step has ruined the weights.
    """
    tensors = [t for t in state.model.state_dict().values() if t.is_floating_point()]
    # One look at the device, not one per tensor.
    sound = bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
    if not sound or not math.isfinite(measured.loss):
        what = f"the validation loss is {measured.loss}" if sound else "a weight is not finite"
        raise Diverged(f"{what} after epoch {epoch}", "train", "try a smaller train.lr")


def report_of(
    state: State, epoch: int, loss: float, measured: Evaluation, plan: Plan | None, seconds: float
) -> EpochReport:
    """The report of an epoch, from what was measured after it."""
    metrics = {
        "train/loss": loss,
        "val/loss": measured.loss,
        "val/accuracy": measured.accuracy,
        "cost/macs": float(state.cost.macs),
        "cost/params": float(state.cost.params),
        "prune/channels_left": state.channels_left,
        "time/epoch_s": seconds,
    }
    log.info(
        "epoch %d/%s  loss %.3f  val %.2f %%  MACs %.3g  params %.3g%s  %.1f s",
        epoch,
        state.setup.config.train.epochs or "?",
        loss,
        measured.accuracy,
        state.cost.macs,
        state.cost.params,
        f"  removed {plan.num_units} units" if plan else "",
        seconds,
    )
    return EpochReport(epoch, metrics, plan)


def tell(report: Report | None, rows: list[EpochReport]) -> bool:
    """Report these epochs in order; whether one answer asked the trial to stop."""
    answers = [report(row) for row in rows] if report is not None else []
    return any(answers)
