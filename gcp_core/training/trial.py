"""One trial: train, and every few epochs remove what matters least, until the target is met.

    for every epoch:
        train
        if an event is due: criterion -> selection -> plan -> surgery, statistics of the norms for what follows
        evaluate, measure cost, report, checkpoint
    final evaluation (float32) on validation and test; weights, plans and configuration on disk

All randomness is derived from (seed, purpose, epoch), so a resumed trial is bit-equal to an uninterrupted one on the
same CPU with the same thread count.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gcp_core.config import TrialConfig
from gcp_core.cost.latency import threads
from gcp_core.errors import Diverged
from gcp_core.plan import Plan
from gcp_core.training.checkpoint import EpochCheckpoints
from gcp_core.training.epoch import train_epoch
from gcp_core.training.evaluation import Evaluation, evaluate
from gcp_core.training.event import prune_event
from gcp_core.training.finals import finish
from gcp_core.training.results import EpochReport, TrialResult, read_result, write_result
from gcp_core.training.schedule import prune_clock
from gcp_core.training.setup import Setup, build_setup
from gcp_core.training.sharing import Sharing
from gcp_core.training.stages import StageStore
from gcp_core.training.state import State
from gcp_core.training.statistics import recomputed

log = logging.getLogger(__name__)


Report = Callable[[EpochReport], bool | None]


def run_trial(
    config: TrialConfig,
    *,
    report: Report | None = None,
    checkpoint_dir: str | Path | None = None,
    stages: StageStore | None = None,
    saved: Callable[[Path], None] | None = None,
    devices: float | None = None,
) -> TrialResult:
    """Run one trial from start to end, or go on from where ``checkpoint_dir`` says it was.

    Args:
        report: called after every epoch; returning True stops the trial.
        checkpoint_dir: where epochs, the final model and ``result.json`` are kept. A finished trial found there is
            returned as it is; an unfinished one continues from its newest whole epoch.
        stages: training shared with other trials: states found there are not trained again, states reached are left
            there. The result is bit-equal to one without (CPU, same thread count).
        saved: called with the folder of every epoch's checkpoint once that is whole, to copy it elsewhere, say.
        devices: what the trial has of the machine, for ``device_hours``: GPUs where it has any (0.25 = a quarter of
            one), else CPU cores. None = one GPU, or ``config.threads`` cores.

    Raises:
        ConfigError, DataError, ModelError: the configuration cannot be run (``InfeasibleTarget`` among them).
        CheckpointError: ``checkpoint_dir`` holds another configuration's trial.

    >>> from gcp_core.config import *
    >>> small = TrialConfig(train=TrainConfig(epochs=2), model=ModelConfig("vgg_tiny", 0.125),
    ...                     prune=PruneConfig(criterion="l1", interval=1, ratio=0.3, target=0.3, until=1.0))
    >>> run_trial(small).finals["macs_removed"] >= 0.3
    True
    """
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    finished = None if folder is None else read_result(folder, config)
    if finished is not None:
        return finished
    with threads(config.threads):
        setup = build_setup(config)
        with torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []):
            share = devices or (1.0 if setup.device.type == "cuda" else float(config.threads))
            return _run(setup, report, folder, stages, saved, share)


def _run(
    setup: Setup,
    report: Report | None,
    folder: Path | None,
    stages: StageStore | None,
    saved: Callable[[Path], None] | None,
    devices: float,
) -> TrialResult:
    config, last = setup.config, setup.config.train.epochs
    checkpoints = None if folder is None else EpochCheckpoints(folder / "epochs")
    state = State.fresh(setup)
    if checkpoints is not None:
        state.resume(checkpoints)
    sharing, due = Sharing(state, stages), prune_clock(config.prune, last)
    status, error = "complete", ""
    while state.epoch < last and status == "complete":
        known = state.epoch
        try:
            _one_epoch(state, sharing, due)
        except Diverged as exc:
            status, error = "diverged", str(exc)
            _tell(report, state.history[known:])
            break
        if _tell(report, state.history[known:]) and state.epoch < last:
            status = "stopped"
        elif checkpoints is not None and state.epoch < last:
            whole = checkpoints.save(state.epoch, state.tensors(), state.manifest())
            if saved is not None:
                saved(whole)
    result = finish(state, status, error, folder, devices)
    if checkpoints is not None:
        write_result(folder, config, result)
        checkpoints.clear()
    return result


def _one_epoch(state: State, sharing: Sharing, due: Callable[[int], bool]) -> None:
    """Train an epoch, or take over as many as others have trained; then its event and its report.

    Raises:
        Diverged: loss or weights are not finite. The epoch is then not reported.
    """
    setup = state.setup
    found = sharing.skip_ahead(due)
    if found is None:
        started = time.perf_counter()
        loss = train_epoch(state.model, state.optimizer, setup, state.epoch + 1)
        seconds = time.perf_counter() - started
        state.trained += 1
        sharing.leave(loss, seconds)
    else:
        loss, seconds = found
    started = time.perf_counter()
    epoch = state.epoch + 1
    plan = prune_event(state, epoch) if due(epoch) else None
    if plan is None:
        measured = _evaluate(state)
    else:
        # Right after a cut the statistics of the norms are those of the larger model.
        last = epoch == setup.config.train.epochs
        with recomputed(state.model, setup.statistics_batches(), keep=last):
            measured = _evaluate(state)
    _check_finite(state, measured, epoch)
    seconds += time.perf_counter() - started
    state.history.append(_report(state, epoch, loss, measured, plan, seconds))


def _evaluate(state: State) -> Evaluation:
    setup, channels_last = state.setup, state.setup.config.train.channels_last
    return evaluate(state.model, setup.epoch_val_images, setup.splits.normalise, channels_last=channels_last)


def _check_finite(state: State, measured: Evaluation, epoch: int) -> None:
    """The mean training loss of an epoch is finite also when its last step has ruined the weights."""
    tensors = [t for t in state.model.state_dict().values() if t.is_floating_point()]
    # One look at the device, not one per tensor.
    sound = bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
    if not sound or not math.isfinite(measured.loss):
        what = f"the validation loss is {measured.loss}" if sound else "a weight is not finite"
        raise Diverged(f"{what} after epoch {epoch}", "train", "try a smaller train.lr")


def _tell(report: Report | None, rows: list[EpochReport]) -> bool:
    """Report these epochs in order; whether one answer asked the trial to stop."""
    answers = [report(row) for row in rows] if report is not None else []
    return any(answers)


def _report(
    state: State, epoch: int, loss: float, measured: Evaluation, plan: Plan | None, seconds: float
) -> EpochReport:
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
        "epoch %d/%d  loss %.3f  val %.2f %%  MACs %.3g  params %.3g%s  %.1f s",
        epoch,
        state.setup.config.train.epochs,
        loss,
        measured.accuracy,
        state.cost.macs,
        state.cost.params,
        f"  removed {plan.num_units} units" if plan else "",
        seconds,
    )
    return EpochReport(epoch, metrics, plan)
