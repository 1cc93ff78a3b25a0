"""A choice between paths, and what it is told of them."""

from __future__ import annotations

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from sweeps.config.limits import parse_limit
from sweeps.strategy.paths.choice import Choice

OBJECTIVES = {"val_accuracy": "max", "macs": "min"}
LEVELS = (0.3, 0.5, 0.65, 0.8, 0.9, 0.95)
WORST, BEST = {"val_accuracy": 65.0, "macs": 100.0}, {"val_accuracy": 75.0, "macs": 0.0}

#: As measured: a long dense phase with short cycles, and a short one with long cycles.
LONG = (12, 3, (73.7, 74.1, 74.1, 73.1, 71.2, 68.8, 60.9))
SHORT = (4, 6, (62.2, 70.1, 73.0, 73.8, 73.7, 69.4, 65.6))
POOR = (6, 2, (65.7, 67.0, 67.4, 68.0, 66.0, 62.0, 55.0))


def config(start=4, interval=6, levels=LEVELS):
    return TrialConfig(
        train=TrainConfig(schedule="cycles"), prune=PruneConfig(start=start, interval=interval, levels=levels)
    )


def make(min_gain=0.01, limits=(), objectives=OBJECTIVES):
    parsed = [parse_limit(text, "here") for text in limits]
    choice = Choice(objectives, min_gain, parsed)
    choice.scale(WORST, BEST)
    choice.limits_of_test = parsed
    return choice


def finals(accuracy, removed):
    return {"val_accuracy": accuracy, "macs": 100 * (1 - removed), "macs_removed": removed, "train_cost": 1.0}


def tell(choice, name, accuracies, levels=LEVELS, first=0, start=4, interval=6):
    for level, accuracy in enumerate(accuracies):
        removed = 0.0 if level == 0 else levels[level - 1]
        values = finals(accuracy, removed)
        violations = {limit.text: limit.excess(values, None) for limit in choice.limits_of_test}
        if level >= first:
            standing = all(excess <= 0 for excess in violations.values())
            choice.snapshot(name, level, start + interval * level, values, standing, violations)


def enter(choice, name, kind, models=7, state="ended"):
    start, interval, accuracies = kind
    choice.started(name, config(start, interval))
    tell(choice, name, accuracies[:models], start=start, interval=interval)
    if state != "running":
        getattr(choice, state)(name)
