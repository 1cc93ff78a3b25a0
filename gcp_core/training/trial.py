"""One trial: train, and every few epochs remove what matters least, until the target is met.

    for every epoch:
        train
        if an event is due: criterion -> selection -> plan -> surgery
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core import schema
from gcp_core.config import TrainConfig, TrialConfig
from gcp_core.cost import Cost, measure_cost
from gcp_core.cost.latency import measure_latency, threads
from gcp_core.criteria import is_comparable
from gcp_core.data.pipeline import num_steps
from gcp_core.errors import CheckpointError, Diverged, PlanError
from gcp_core.groups import Groups
from gcp_core.plan import Plan
from gcp_core.pruning.selection import select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.seeds import derive_seed, generator
from gcp_core.training.checkpoint import (
    EpochCheckpoints,
    load_weights,
    plans_from,
    plans_to_json,
    save_model,
    weights_digest,
)
from gcp_core.training.evaluation import EVALUATION_BATCH, evaluate
from gcp_core.training.results import (
    EpochReport,
    TrialResult,
    check_same_trial,
    history_from,
    read_result,
    rows_of,
    write_result,
)
from gcp_core.training.schedule import learning_pace, prune_clock
from gcp_core.training.setup import Setup, budget_for, build_setup
from gcp_core.training.stages import StageStore, stage_key, trunk_key

log = logging.getLogger(__name__)

#: Weight of the auxiliary heads' losses (GoogLeNet and Inception return several outputs in training mode).
AUXILIARY_WEIGHT = 0.3


Report = Callable[[EpochReport], bool | None]


def run_trial(
    config: TrialConfig,
    *,
    report: Report | None = None,
    checkpoint_dir: str | Path | None = None,
    stages: StageStore | None = None,
    saved: Callable[[Path], None] | None = None,
) -> TrialResult:
    """Run one trial from start to end, or go on from where ``checkpoint_dir`` says it was.

    Args:
        report: called after every epoch; returning True stops the trial.
        checkpoint_dir: where epochs, the final model and ``result.json`` are kept. A finished trial found there is
            returned as it is; an unfinished one continues from its newest whole epoch.
        stages: training shared with other trials: states found there are not trained again, states reached are left
            there. The result is bit-equal to one without (CPU, same thread count).
        saved: called with the folder of every epoch's checkpoint once that is whole, to copy it elsewhere, say.

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
            return _run(setup, report, folder, stages, saved)


@dataclass
class _State:
    """What changes while a trial runs, and what a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    groups: Groups | None
    plans: list[Plan] = field(default_factory=list)
    history: list[EpochReport] = field(default_factory=list)
    cost: Cost | None = None
    trained: int = 0

    @property
    def epoch(self) -> int:
        return len(self.history)


def _run(
    setup: Setup,
    report: Report | None,
    folder: Path | None,
    stages: StageStore | None,
    saved: Callable[[Path], None] | None,
) -> TrialResult:
    config = setup.config
    trunk = "" if stages is None else trunk_key(config, setup.splits.digest, setup.device)
    checkpoints = None if folder is None else EpochCheckpoints(folder / "epochs")
    state = _start(setup)
    if checkpoints is not None:
        _resume(state, setup, checkpoints)
    due = prune_clock(config.prune, config.train.epochs)
    status, error = "complete", ""
    while state.epoch < config.train.epochs and status == "complete":
        started = time.perf_counter()
        rows_before = state.epoch
        try:
            loss = None if stages is None else _skip_ahead(state, setup, stages, trunk, due)
            skipped = loss is not None
            if not skipped:
                loss = train_epoch(state.model, state.optimizer, setup, state.epoch + 1)
                state.trained += 1
        except Diverged as exc:
            status, error = "diverged", str(exc)
            break
        epoch = state.epoch + 1
        if stages is not None and not skipped:
            stages.save(stage_key(trunk, state.plans, epoch), _tensors(state), _stage_manifest(state, loss))
        plan = prune_event(state, setup, epoch) if due(epoch) else None
        state.history.append(_report(state, setup, epoch, loss, plan, started))
        if _tell(report, state.history[rows_before:]) and epoch < config.train.epochs:
            status = "stopped"
        elif checkpoints is not None and epoch < config.train.epochs:
            whole = checkpoints.save(epoch, _tensors(state), _manifest(state, setup))
            if saved is not None:
                saved(whole)
    result = _finish(state, setup, status, error, folder)
    if folder is not None:
        write_result(folder, config, result)
        checkpoints.clear()
    return result


def _tell(report: Report | None, rows: list[EpochReport]) -> bool:
    """Report these epochs in order; whether one answer asked the trial to stop."""
    answers = [report(row) for row in rows] if report is not None else []
    return any(answers)


def _skip_ahead(
    state: _State, setup: Setup, stages: StageStore, trunk: str, due: Callable[[int], bool]
) -> float | None:
    """Take over the furthest stage before the next event: state after training that epoch, and its training loss."""
    first, last = state.epoch + 1, setup.config.train.epochs
    next_event = next((epoch for epoch in range(first, last) if due(epoch)), last)
    for epoch in range(next_event, state.epoch, -1):
        found = stages.load(stage_key(trunk, state.plans, epoch))
        if found is not None:
            manifest, tensors = found
            load_weights(state.model, tensors["model"], str(stages.root))
            state.optimizer.load_state_dict(tensors["optimizer"])
            # Which units count as prunable is this trial's own matter (``exclude``, ``residual``), not the other's.
            own = {"prune/channels_left": _channels_left(state, setup)}
            rows = history_from(manifest)[state.epoch : epoch - 1]
            state.history += [EpochReport(row.epoch, {**row.metrics, **own}) for row in rows]
            log.info("epochs %d..%d taken over from another trial", first, epoch)
            return manifest["loss"]
    return None


def _stage_manifest(state: _State, loss: float) -> dict[str, Any]:
    return {"loss": loss, "history": rows_of(state.history)}


def _start(setup: Setup) -> _State:
    model = setup.new_model()
    return _State(model, build_optimizer(model, setup.config.train), setup.groups, cost=setup.dense_cost)


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters, in the fused form (3 % faster on CPU, more on GPU)."""
    if train.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(),
        lr=train.lr,
        momentum=train.momentum,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
        fused=True,
    )


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, setup: Setup, epoch: int) -> float:
    """Train for one epoch (1 = the first); the mean loss in nats.

    Raises:
        Diverged: the loss was not finite.
    """
    train, device = setup.config.train, setup.device
    # Dropout and the like draw from the global generator: reseeded per epoch, nothing is carried over.
    torch.manual_seed(derive_seed(setup.config.seed, "epoch", epoch))
    pace = learning_pace(train, num_steps(setup.train_images, train.batch_size))
    model.train()
    total = torch.zeros((), dtype=torch.float64, device=device)
    seen = 0
    step = (epoch - 1) * num_steps(setup.train_images, train.batch_size)
    for images, labels in setup.epoch_batches(epoch):
        for group in optimizer.param_groups:
            group["lr"] = train.lr * pace(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            loss = loss_of(model(images), labels, train.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach().double() * len(labels)
        seen, step = seen + len(labels), step + 1
    # One look per epoch: a look per step would make a GPU wait for every batch.
    mean = total.item() / seen
    if not math.isfinite(mean):
        raise Diverged(f"the training loss is {mean} in epoch {epoch}", "train", "try a smaller train.lr")
    return mean


def loss_of(outputs: Any, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy; auxiliary heads count :data:`AUXILIARY_WEIGHT` each."""
    if isinstance(outputs, Tensor):
        return nn.functional.cross_entropy(outputs, labels, label_smoothing=label_smoothing)
    heads = [loss_of(head, labels, label_smoothing) for head in outputs if head is not None]
    # torchvision's tuples differ: logits come first in all of them.
    return heads[0] + AUXILIARY_WEIGHT * sum(heads[1:], torch.zeros_like(heads[0]))


def prune_event(state: _State, setup: Setup, epoch: int) -> Plan | None:
    """One event: score, select, remove. None if the target is met already or the floors leave nothing to take."""
    prune = setup.config.prune
    if getattr(state.cost, prune.of) <= setup.limit:
        return None
    with torch.autocast(setup.device.type, enabled=False):
        scores = setup.criterion.score(
            state.model, state.groups, setup.scoring, generator(setup.config.seed, "event", epoch)
        )
    budget = budget_for(prune, setup.limit, is_comparable(setup.criterion))
    plan = select_channels(scores, state.groups, budget)
    if plan.num_units == 0:
        return None
    plan = plan.with_meta(epoch=epoch, criterion=prune.criterion)
    apply_plan(state.model, plan, state.optimizer)
    state.groups = state.groups.after(plan)
    state.plans.append(plan)
    state.cost = measure_cost(state.model, setup.example)
    return plan


def _channels_left(state: _State, setup: Setup) -> float:
    """Prunable units still alive."""
    return float(setup.groups.num_units - sum(plan.num_units for plan in state.plans))


def _report(
    state: _State, setup: Setup, epoch: int, loss: float, plan: Plan | None, started: float
) -> EpochReport:
    train = setup.config.train
    seen = setup.epoch_val_images
    evaluation = evaluate(state.model, seen, setup.splits.normalise, channels_last=train.channels_last)
    metrics = {
        "train/loss": loss,
        "val/loss": evaluation.loss,
        "val/accuracy": evaluation.accuracy,
        "cost/macs": float(state.cost.macs),
        "cost/params": float(state.cost.params),
        "prune/channels_left": _channels_left(state, setup),
        "time/epoch_s": time.perf_counter() - started,
    }
    log.info(
        "epoch %d/%d  loss %.3f  val %.2f %%  MACs %.3g  params %.3g%s  %.1f s",
        epoch,
        train.epochs,
        loss,
        evaluation.accuracy,
        state.cost.macs,
        state.cost.params,
        f"  removed {plan.num_units} units" if plan else "",
        metrics["time/epoch_s"],
    )
    return EpochReport(epoch, metrics, plan)


def _finish(state: _State, setup: Setup, status: str, error: str, folder: Path | None) -> TrialResult:
    plans, history = tuple(state.plans), tuple(state.history)
    if status == "diverged":
        finals = {"epochs": float(len(history)), "device_hours": _hours(history)}
        return TrialResult(status, finals, plans, history, error, trained_epochs=state.trained)
    finals = _finals(state, setup, status)
    manifest = _manifest(state, setup) | {"finals": finals, "status": status}
    digest = weights_digest(state.model.state_dict())
    if folder is None:
        return TrialResult(status, finals, plans, history, error, None, digest, state.trained)
    save_model(folder / "model", state.model, manifest)
    return TrialResult(status, finals, plans, history, error, folder / "model", digest, state.trained)


def _finals(state: _State, setup: Setup, status: str) -> dict[str, float]:
    """Everything a trial can say about itself, by short name."""
    config, splits, cost, dense = setup.config, setup.splits, state.cost, setup.dense_cost
    options = {"batch_size": EVALUATION_BATCH, "channels_last": config.train.channels_last}
    if len(setup.epoch_val_images) == len(splits.val):
        # The last epoch's evaluation was this one: same weights, images, batch size and memory format, no autocast.
        finals = {"val_accuracy": state.history[-1].metrics["val/accuracy"]}
    else:
        finals = {"val_accuracy": evaluate(state.model, splits.val, splits.normalise, **options).accuracy}
    if status == "complete":
        # Test images are looked at once, at the end, and steer nothing.
        finals["test_accuracy"] = evaluate(state.model, splits.test, splits.normalise, **options).accuracy
    latency = measure_latency(state.model, setup.example, num_threads=config.threads)
    reached = setup.limit == 0 or getattr(cost, config.prune.of) <= setup.limit
    finals |= {
        "macs": float(cost.macs),
        "params": float(cost.params),
        "macs_removed": 1 - cost.macs / dense.macs,
        "params_removed": 1 - cost.params / dense.params,
        "compression": dense.params / cost.params,
        "latency_ms": latency.median_ms,
        "epochs": float(len(state.history)),
        "device_hours": _hours(state.history),
        "target_reached": float(reached),
    }
    return finals


def _hours(history: Any) -> float:
    return sum(r.metrics["time/epoch_s"] for r in history) / 3600


def _tensors(state: _State) -> dict[str, Any]:
    return {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}


def _manifest(state: _State, setup: Setup) -> dict[str, Any]:
    splits = setup.splits
    return {
        "schema": schema.SCHEMA_VERSION,
        "config": setup.config.to_dict(),
        "config_key": setup.config.key(),
        "num_classes": splits.num_classes,
        "in_channels": splits.in_channels,
        "image_size": list(splits.image_size),
        "class_names": list(splits.class_names),
        "mean": list(splits.mean),
        "std": list(splits.std),
        "data_digest": splits.digest,
        "evaluation_batch": EVALUATION_BATCH,
        "threads": setup.config.threads,
        "device": str(setup.device),
        "torch": torch.__version__,
        "dense": {"macs": setup.dense_cost.macs, "params": setup.dense_cost.params},
        "plans": plans_to_json(state.plans),
        "history": rows_of(state.history),
    }


def _resume(state: _State, setup: Setup, checkpoints: EpochCheckpoints) -> None:
    """Bring ``state`` to the newest whole epoch checkpoint; nothing happens if there is none."""
    found = checkpoints.newest()
    if found is None:
        return
    manifest, tensors = found
    where = str(checkpoints.root)
    check_same_trial(manifest, setup.config, where)
    if manifest.get("data_digest") != setup.splits.digest:
        raise CheckpointError("the data changed since the checkpoint was written", where)
    try:
        for plan in plans_from(manifest):
            apply_plan(state.model, plan, state.optimizer)
            state.groups = state.groups.after(plan)
            state.plans.append(plan)
        load_weights(state.model, tensors["model"], where)
        state.optimizer.load_state_dict(tensors["optimizer"])
        state.history = history_from(manifest)
    except (KeyError, TypeError, ValueError, PlanError) as exc:
        hint = "delete it to train from the start"
        raise CheckpointError(f"the checkpoint does not describe this trial: {exc}", where, hint) from exc
    state.cost = measure_cost(state.model, setup.example)
    log.info("resumed after epoch %d", state.epoch)
