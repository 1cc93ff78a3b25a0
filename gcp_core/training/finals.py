"""The end of a trial: what its model is worth, what it has cost, and its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from gcp_core.config import END_CLOCK, INTERVAL_CLOCK
from gcp_core.cost.latency import SideBySide, measure_against
from gcp_core.records.checkpoint import save_model, weights_digest
from gcp_core.records.results import EpochReport, TrialResult
from gcp_core.schedule.clocks import asked_epochs
from gcp_core.slots import passes_of
from gcp_core.training.evaluation import evaluate
from gcp_core.training.observe import Hooks
from gcp_core.training.state import State
from gcp_core.training.statistics import recomputed

#: A training step costs a forward pass and a backward pass of twice that.
FORWARDS_PER_STEP = 3.0


def finish(state: State, status: str, error: str, folder: Path | None, hooks: Hooks) -> TrialResult:
    """Evaluate a single trial's model as it is now and write its ``model`` folder below ``folder`` (None = nowhere)."""
    plans, history = tuple(state.plans), tuple(state.history)
    if status == "diverged":
        return TrialResult(
            status, time_of(history, hooks.devices), plans, history, error, trained_epochs=state.trained
        )
    latency = latency_of(state) if hooks.latency else None
    kept = None if folder is None else folder / "model"
    finals, digest = keep_model(state, kept, {}, latency=latency, devices=hooks.devices, status=status)
    return TrialResult(status, finals, plans, history, error, kept, digest, state.trained)


def keep_model(
    state: State,
    place: Path | None,
    about: Mapping[str, Any],
    *,
    latency: SideBySide | None,
    devices: float,
    status: str = "complete",
) -> tuple[dict[str, float], str]:
    """Evaluate the model as it is and write its folder (None = nowhere); its final values, and what names its weights.

    Every model that is left behind goes this way: of single trials, of paths, and polished ones.

    Args:
        about: what the manifest says besides.
        latency, devices: see :func:`finals_of`.
    """
    model = state.plain(check=True)
    if status == "stopped" and state.just_cut:
        # What was measured after the epoch: its statistics were put back, because training might have gone on.
        with recomputed(model, state.setup.statistics_batches(), keep=True):
            pass
    finals = finals_of(state, model, test=status == "complete", latency=latency, devices=devices)
    if place is not None:
        manifest = {**state.manifest(), "finals": finals, "status": status, **about}
        save_model(place, model, manifest | latency_block(latency))
    return finals, weights_digest(model.state_dict())


def latency_of(state: State) -> SideBySide:
    """How long a forward pass of one image takes, beside the dense model, on the threads of the trial."""
    # Weights do not matter for the time: the dense model need not be a trained one.
    dense, threads = state.setup.new_model(), state.setup.config.threads
    return measure_against(state.shape(), dense, state.setup.example, num_threads=threads)


def latency_block(latency: SideBySide | None) -> dict[str, Any]:
    """What the manifest says about the measurement; nothing where there was none."""
    return {} if latency is None else {"latency": dataclasses.asdict(latency)}


def finals_of(
    state: State, model: nn.Module, *, test: bool, latency: SideBySide | None, devices: float
) -> dict[str, float]:
    """Everything a model can say about itself and its training, by short name.

    Args:
        model: the state's, plain.
        test: look at the test images too; once per finished model, and it steers nothing.
        latency: what :func:`latency_of` measured; None = not timed.
        devices: what ``device_hours`` counts, see :func:`gcp_core.training.run_trial`.
    """
    setup, cost = state.setup, state.cost
    config, splits, dense = setup.config, setup.splits, setup.dense_cost
    look = partial(evaluate, model, channels_last=config.train.channels_last)
    if len(setup.epoch_val_images) == len(splits.val):
        # The last epoch's evaluation was this one: same weights, images, batch size and memory format, no autocast.
        finals = {"val_accuracy": state.history[-1].metrics["val/accuracy"]}
    else:
        finals = {"val_accuracy": look(splits.val, splits.normalise).accuracy}
    if test:
        finals["test_accuracy"] = look(splits.test, splits.normalise).accuracy
    if latency is not None:
        finals["latency_ms"] = latency.median_ms
        finals |= {"latency_share": latency.share, "latency_noise": latency.noise}
    reached = setup.limit == 0 or getattr(cost, config.pruning.of) <= setup.limit
    finals |= {
        "macs": float(cost.macs),
        "params": float(cost.params),
        "macs_removed": 1 - cost.macs / dense.macs,
        "params_removed": 1 - cost.params / dense.params,
        "compression": dense.params / cost.params,
        **time_of(state.history, devices),
        "train_cost": train_cost(state),
        "target_reached": float(reached),
    }
    return finals


def time_of(history: Sequence[EpochReport], devices: float) -> dict[str, float]:
    """Epochs and device-hours of a trial when it is alone: also those that another trial trained for it."""
    seconds = sum(report.metrics["time/epoch_s"] for report in history)
    return {"epochs": float(len(history)), "device_hours": devices * seconds / 3600}


def train_cost(state: State) -> float:
    """Training multiply-adds so far, in epochs of the unpruned model; as if trained alone. Looks are included.

    Epoch e counts the MACs of the model it trained, with those of its rewrite, an event the images it looked at times the
    forwards of criterion and allocator (and of the repair, where it removed something), and every time a clock was asked
    its forwards.
    """
    setup, prune = state.setup, state.setup.config.prune
    macs = [row.metrics["cost/macs"] for row in state.history]
    if not setup.config.is_path:
        # A single trial reports an epoch after its event: what the next epoch trained.
        macs = [_first_macs(state), *macs[:-1]] if macs else []
    total = sum(macs) + _rewrite_macs(state)
    if prune is not None:
        criterion, scoring = setup.scorer
        images = len(scoring.images)
        scored, spread, repaired, asking = (
            passes_of(slot, images) for slot in (criterion, setup.allocator, setup.repair, state.clock)
        )
        events = [plan.meta for plan in state.plans]
        looks = [(repaired, event["epoch"]) for event in events]
        for event in [*events, *state.in_vain]:
            looked = event["looked"] * images if "looked" in event else spread
            looks.append((scored + looked, event["epoch"]))
        if state.clock is not None and prune.clock not in (INTERVAL_CLOCK, END_CLOCK):
            of = [row.metrics[f"cost/{prune.of}"] for row in state.history]
            costs = [float(getattr(setup.dense_cost, prune.of)), *of[:-1]]
            after = [event["epoch"] for event in events]
            asked = asked_epochs(prune, setup.config.train.num_epochs, after, costs, setup.limit)
            looks += [(asking, epoch) for epoch in asked]
        for passes, epoch in looks:
            # At initialisation it is the dense model that is looked at.
            seen = macs[epoch - 1] if epoch else float(setup.dense_cost.macs)
            total += passes / FORWARDS_PER_STEP / len(setup.train_images) * seen
    return total / setup.dense_cost.macs


def _rewrite_macs(state: State) -> float:
    """What the rewrite has added to a forward pass, summed over the epochs that were trained with it; 0 without one."""
    total, added, trained = 0.0, state.setup.rewrite_macs, 0
    for plan in state.plans:
        until = int(plan.meta["epoch"])
        total += added * (until - trained)
        added, trained = float(plan.meta.get("rewrite_macs", 0.0)), until
    last = len(state.history) if state.folded_from is None else state.folded_from
    return total + added * (last - trained)


def _first_macs(state: State) -> float:
    """MACs of the model that a single trial's first epoch trains: those after its event at initialisation."""
    for plan in state.plans:
        if plan.meta["epoch"] == 0 and state.setup.groups is not None:
            return float(state.setup.groups.cost(plan.removed)[0])
    return float(state.setup.dense_cost.macs)
