"""What a side of a search has finished, step by step: when, for how much training, and which model it led to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.head_to_head import front_race, measure
from benchmarks.head_to_head.run import Ran
from benchmarks.yardstick import CHANCE, SHARES, USABLE, hypervolume
from gcp_core.cost import measure_cost
from gcp_core.models import build_model

#: The sides that search over paths.
OF_PATHS = ("paths", "polished", "guide")
ANCHORS = {"from chance": CHANCE, "usable": USABLE}
#: Batches whose gradients the peer takes for Taylor importance at an event; it does not count them itself.
TAYLOR_BATCHES = 8


@dataclass(frozen=True)
class Step:
    """What was finished at a moment: training that ended, and the model that it led to (None = it led to none).

    Attributes:
        seconds: since the side was started.
        cost: epochs of the unpruned net that the training took.
        model: ``left`` (share of the MACs), ``val_accuracy`` and ``test_accuracy`` in per cent.
    """

    seconds: float
    cost: float
    model: dict[str, float] | None


def steps_of(side: str, place: Path, seconds: float) -> list[Step]:
    """What a side finished before its deadline, the earliest first."""
    started = Ran(**json.loads((place / "ran.json").read_text())).started
    if side == "peer":
        spec = json.loads((place / "spec.json").read_text())
        epoch = math.ceil(len(spec["train_rows"]) / spec["batch_size"])
        found = list(peer_steps(place / "peer", started, TAYLOR_BATCHES / epoch))
    else:
        found = our_steps(side, place, started)
    return sorted((one for one in found if one.seconds <= seconds), key=lambda one: one.seconds)


def our_steps(side: str, place: Path, started: float) -> list[Step]:
    """What a sweep of ours has finished, in no order."""
    trials = measure.read_ours(place / "ours", started)
    found = list(baseline_steps(trials, from_the_start=side in OF_PATHS))
    if side not in OF_PATHS:
        return [*found, *trial_steps(trials, _dense())]
    models = front_race.models_of_ours(place, started)
    found += path_steps(models)
    if side == "polished":
        found += polish_steps(front_race.models_of_ours(place, started, polished=True), models)
    return found


def baseline_steps(trials: Sequence[measure.Trial], from_the_start: bool) -> Iterator[Step]:
    """The unpruned nets of a sweep of ours lead to no model.

    Args:
        from_the_start: charge them at once, ended or not: the one of paths is trained beside the first of them, and
            what these reach meanwhile has not come without it. Else when they end.
    """
    for trial in trials:
        if trial.kind != "baseline" or not trial.epochs_trained:
            continue
        if from_the_start:
            yield Step(0.0, float(trial.epochs_trained), None)
        elif trial.end_s is not None:
            yield Step(trial.end_s, float(trial.epochs_trained), None)


def peer_steps(folder: Path, started: float, looked: float) -> Iterator[Step]:
    """The trials of a Tune experiment that came to their end: ``result.json`` has one line per report.

    Args:
        looked: what the gradients of one event with Taylor importance cost, in epochs of the net as it is then.
    """
    for file in sorted(folder.glob("*/result.json")):
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        if rows and "test_accuracy" in rows[-1]:
            last = rows[-1]
            model = {name: last[name] for name in ("left", "val_accuracy", "test_accuracy")}
            cost = last["train_cost"] + looked * _left_at_events(rows)
            yield Step(last["timestamp"] - started, cost, model)


def _left_at_events(rows: Sequence[dict[str, Any]]) -> float:
    """The shares of the MACs that a trial had before its events, summed; 0 where no gradients were taken for them."""
    config = rows[0]["config"]
    if config["importance"] != "taylor":
        return 0.0
    # As in ``searcher.py``.
    last = max(int(config["until"] * config["epochs"] + 1e-9), config["interval"])
    costs = {0: 0.0} | {row["epoch"]: row["train_cost"] for row in rows}
    return sum(costs[e] - costs[e - 1] for e in range(config["interval"], last + 1, config["interval"]))


def path_steps(models: Sequence[dict[str, Any]]) -> Iterator[Step]:
    """Each snapshot has cost what its path took since the one before; a shared phase counts for each path again."""
    before: dict[str, float] = {}
    for one in sorted(models, key=lambda one: (one["trial"], one["level"])):
        cost = one["train_cost"] - before.get(one["trial"], 0.0)
        before[one["trial"]] = one["train_cost"]
        model = {name: one[name] for name in ("left", "val_accuracy", "test_accuracy")}
        yield Step(one["seconds"], cost, model)


def polish_steps(polished: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]]) -> Iterator[Step]:
    """A polished model has cost what it has cost more than the snapshot that it was."""
    before = {(one["trial"], one["level"]): one["train_cost"] for one in models}
    for one in polished:
        model = {name: one[name] for name in ("left", "val_accuracy", "test_accuracy")}
        yield Step(one["seconds"], one["train_cost"] - before[one["trial"], one["level"]], model)


def _dense() -> int:
    """Multiply-adds of the unpruned net."""
    return measure_cost(build_model("vgg_tiny", 10), torch.zeros(1, 3, 32, 32)).macs


def trial_steps(trials: Sequence[measure.Trial], dense: int) -> Iterator[Step]:
    """A trial of ours has cost the epochs that it trained itself, and its scores; one that was stopped led to no model.

    Args:
        dense: multiply-adds of the unpruned net.
    """
    for trial in trials:
        if trial.end_s is None or trial.kind != "trial":
            continue
        # Channels go at the end of an epoch: an epoch costs what was left before.
        costs = [1.0, *(1000 * macs / dense for macs in trial.macs_by_epoch[:-1])]
        cost = sum(costs[-trial.epochs_trained :]) if trial.epochs_trained else 0.0
        if trial.train_cost is not None:
            # What its scores looked at, in full also where another trial has looked for it.
            cost += max(0.0, trial.train_cost - sum(costs))
        model = None
        if trial.complete:
            model = {"left": trial.macs / dense, "val_accuracy": trial.val_accuracy}
            model["test_accuracy"] = trial.test_accuracy
        yield Step(trial.end_s, cost, model)


def timeline(steps: Sequence[Step]) -> list[dict[str, float]]:
    """A row for every step: what there was by then."""
    rows: list[dict[str, float]] = []
    models: list[dict[str, float]] = []
    cost = 0.0
    for step in steps:
        cost += step.cost
        if step.model is not None:
            models.append(step.model)
        row = {"seconds": round(step.seconds, 1), "training cost": round(cost, 2), "models": len(models)}
        # On test: of the front that validation chose.
        chosen = [front_race.chosen(models, one["left"]) for one in models]
        for name, bottom in ANCHORS.items():
            on_val = [(one["left"], one["val_accuracy"]) for one in models]
            on_test = [(one["left"], one["test_accuracy"]) for one in chosen if one is not None]
            row[f"hypervolume, {name}"] = round(hypervolume(on_val, bottom), 4) if models else 0.0
            row[f"hypervolume of the test accuracy, {name}"] = (
                round(hypervolume(on_test, bottom), 4) if models else 0.0
            )
        rows.append(row)
    return rows


def summary(steps: Sequence[Step], rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The numbers of one side at its end."""
    models = [step.model for step in steps if step.model is not None]
    found: dict[str, Any] = {"trainings that ended without a model": len(steps) - len(models)}
    found |= rows[-1] if rows else {}
    for share in SHARES:
        best = front_race.chosen(models, share)
        for kind in ("val", "test"):
            value = None if best is None else round(best[f"{kind}_accuracy"], 2)
            found[f"{kind} accuracy at {share:.0%} of the MACs"] = value
    return found


def reached(rows: Sequence[dict[str, float]], column: str, level: float, by: str = "seconds") -> float | None:
    """Seconds (or training cost) until ``column`` was at least ``level``; None = never."""
    return next((row[by] for row in rows if row[column] >= level), None)
