"""What a sweep of paths is expected to spend: its rule is played on the paths' foreseen levels and imagined accuracies.

Accuracies are those of the sweep's own recorded paths where its folder has some. Else they are imagined, and that is
said: 90 % less 20 points times the cube of the share removed, paths one point apart (standard deviation). The rule, the
number of workers, ``search.min_gain`` and the constraints are the sweep's own.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from analysis.front.anchors import USABLE
from sweeps.commands.rehearsal import Played
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import read_entry
from sweeps.records.job import Outcome
from sweeps.records.ledger import reading
from sweeps.strategy.judging import judge
from sweeps.strategy.paths.choice import Choice

#: The imagined course, in per cent and points, and how far paths lie apart.
TOP, FALL, APART = 90.0, 20.0, 1.0
#: More paths than these are not played: a decision takes milliseconds, and there is one per model.
MOST = 60
_SEEDS = 3


@dataclass(frozen=True)
class Pauses:
    """What the rule is expected to do with the paths of a sweep.

    Attributes:
        paths: how many were played (at most :data:`MOST`); ``started``: how many of them the rule begins.
        cost_to_ends: training of all of them to their ends, in epochs of the unpruned model, what they share once.
        cost: what the rule spends of it; ``epochs`` the same in epochs.
        dense_cost: the part of ``cost_to_ends`` that is dense phases.
        recorded: of how many recorded paths the accuracies are; 0 = imagined.
    """

    paths: int
    started: float
    cost_to_ends: float
    cost: float
    epochs: float
    dense_cost: float
    recorded: int

    def lines(self) -> list[tuple[str, str]]:
        """For people: label and value."""
        saved = 1 - self.cost / self.cost_to_ends if self.cost_to_ends else 0.0
        source = (
            f"as the {self.recorded} recorded paths went"
            if self.recorded
            else f"imagined: {TOP:g} % falling by {FALL:g} points x (share removed)^3, paths {APART:g} point apart"
        )
        return [
            (
                "paths to the end",
                f"{self.paths} cost {self.cost_to_ends:.1f} dense epochs together"
                f" ({self.dense_cost:.1f} of them dense phases), what they share once",
            ),
            (
                "with pauses",
                f"about {self.cost:.1f} of these ({100 * saved:.0f} % less);"
                f" {self.started:.0f} of {self.paths} paths begun",
            ),
            ("", f"accuracies {source}"),
        ]


def pauses(config: SweepConfig, played: Sequence[Played]) -> Pauses | None:
    """Play the rule on foreseen paths, in the order in which they would be begun; None for single trials."""
    paths = [trial for trial in played if trial.config.is_path][:MOST]
    if not paths:
        return None
    recorded, top = _recorded(config)
    ends = [_play(config, paths, recorded, top, seed) for seed in range(_SEEDS)]
    dense = [trial.until(trial.config.pruning.dense_epochs) for trial in paths]
    share = config.search.share
    return Pauses(
        paths=len(paths),
        started=fmean(len(cut) for cut in ends),
        cost_to_ends=round(training_cost(paths, share), 2),
        cost=round(fmean(training_cost(cut, share) for cut in ends), 2),
        epochs=fmean(sum(len(trial.states) for trial in cut) for cut in ends),
        dense_cost=round(training_cost(dense, share), 2),
        recorded=len(recorded),
    )


def training_cost(played: Sequence[Played], share: bool) -> float:
    """Epochs of the unpruned model; with ``share`` what trials have in common counts once."""
    if not share:
        return sum(sum(trial.macs) / trial.macs[0] for trial in played)
    costs = {
        state: macs / trial.macs[0]
        for trial in played
        for state, macs in zip(trial.states, trial.macs, strict=True)
    }
    return sum(costs.values())


def _recorded(config: SweepConfig) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """(share removed, accuracy) of the snapshots of every recorded path, and the unpruned model's accuracy."""
    folder = Path(config.folder)
    if read_entry(folder) is None:
        return [], TOP
    with reading(folder, config.name, config.search.objectives, config.database) as ledger:
        trials, baselines, taken = ledger.records("trial"), ledger.records("baseline"), ledger.snapshots()
    of = f"{config.space.resolve(config.space.first()).pruning.of}_removed"
    courses = []
    for record in trials:
        finals = [one.snap.finals for one in taken.get(record.job.trial_id, ())]
        rows = [(f[of], f["val_accuracy"]) for f in finals if {of, "val_accuracy"} <= set(f)]
        if len(rows) > 1:
            removed, accuracy = np.array(sorted(rows)).T
            courses.append((removed, accuracy))
    dense = [r.finals["val_accuracy"] for r in baselines if r.status == "complete"]
    unpruned = dense or [accuracy[0] for _, accuracy in courses]
    return courses, float(np.mean(unpruned)) if unpruned else TOP


class _Course:
    """The accuracy of one path over the share removed."""

    def __init__(self, recorded: Sequence[tuple[np.ndarray, np.ndarray]], rng: random.Random) -> None:
        self._known = rng.choice(recorded) if recorded else None
        self._offset = rng.gauss(0.0, APART)

    def at(self, removed: float) -> float:
        if self._known is None:
            return TOP - FALL * removed**3 + self._offset
        shares, accuracy = self._known
        beyond = FALL * max(0.0, removed**3 - shares[-1] ** 3)
        return float(np.interp(removed, shares, accuracy)) - beyond


def _play(
    config: SweepConfig,
    paths: Sequence[Played],
    recorded: Sequence[tuple[np.ndarray, np.ndarray]],
    top: float,
    seed: int,
) -> list[Played]:
    """The paths that were begun, each up to where it came; ``concurrency`` at a time, a step takes what it costs."""
    rng = random.Random(seed)
    search = config.search
    choice = Choice(search.objectives, search.least_gain, search.limits())
    dense = {"macs": paths[0].macs[0], "params": paths[0].params[0]}
    worst, best = _scale(dense, top)
    choice.scale(worst, best)
    names = {f"t{number:04d}": trial for number, trial in enumerate(paths)}
    courses = {name: _Course(recorded, rng) for name in names}
    reached = dict.fromkeys(names, -1)
    running: list[tuple[float, str]] = []
    begun, now = 0, 0.0
    while True:
        while len(running) < search.concurrency:
            verdict = choice.next(begun < len(paths))
            if verdict.action not in ("start", "resume"):
                break
            name = verdict.trial_id or f"t{begun:04d}"
            begun += verdict.action == "start"
            choice.started(name, names[name].config)
            heapq.heappush(running, (now + _step(names[name], reached[name] + 1), name))
        if not running:
            return [names[name].until(_ends(names[name])[at]) for name, at in reached.items() if at >= 0]
        now, name = heapq.heappop(running)
        reached[name] += 1
        trial, at = names[name], reached[name]
        finals = _finals(trial, at, courses[name], top)
        standing, violations = _judged(config, finals, worst, dense, top)
        choice.snapshot(name, at, _ends(trial)[at], finals, standing, violations)
        if at + 1 == len(_ends(trial)):
            choice.ended(name)
            continue
        action = choice.goes_on(name, begun < len(paths)).action
        if action == "go_on":
            heapq.heappush(running, (now + _step(trial, at + 1), name))
        elif action == "pause":
            choice.paused(name)
        else:
            choice.ended(name)


def _ends(trial: Played) -> tuple[int, ...]:
    """The epochs that end in a snapshot."""
    return (*trial.events, trial.epochs)


def _step(trial: Played, at: int) -> float:
    """Training cost between two snapshots, in dense epochs."""
    ends = (0, *_ends(trial))
    return sum(trial.macs[ends[at] : ends[at + 1]]) / trial.macs[0]


def _finals(trial: Played, at: int, course: _Course, top: float) -> dict[str, float]:
    end = _ends(trial)[at]
    macs, params = trial.macs[end - 1], trial.params[end - 1]
    removed = {"macs_removed": 1 - macs / trial.macs[0], "params_removed": 1 - params / trial.params[0]}
    accuracy = course.at(removed[f"{trial.config.pruning.of}_removed"])
    cost = sum(trial.macs[:end]) / trial.macs[0]
    return {
        "val_accuracy": accuracy,
        "accuracy_drop": top - accuracy,
        "macs": macs,
        "params": params,
        **removed,
        "compression": trial.params[0] / params,
        "latency_ms": macs / trial.macs[0],
        "latency_share": macs / trial.macs[0],
        "epochs": float(end),
        "train_cost": cost,
        "device_hours": cost,
        "target_reached": float(trial.reached and end == trial.epochs),
    }


def _scale(dense: dict[str, float], top: float) -> tuple[dict[str, float], dict[str, float]]:
    """(worst, best) value of what is imagined; objectives without a scale are not compared, and no path is paused."""
    worst = {
        "val_accuracy": top - USABLE, "accuracy_drop": USABLE, **dense, "macs_removed": 0.0, "params_removed": 0.0,
        "latency_ms": 1.0, "latency_share": 1.0,
    }  # fmt: skip
    best = {"val_accuracy": top, "accuracy_drop": 0.0, "macs_removed": 1.0, "params_removed": 1.0}
    return worst, {**dict.fromkeys(worst, 0.0), **best}


def _judged(
    config: SweepConfig,
    finals: dict[str, float],
    worst: dict[str, float],
    dense: dict[str, float],
    top: float,
) -> tuple[bool, dict[str, float]]:
    """(whether a model may be on the front, how far it breaks each limit)."""
    unpruned = {**worst, "val_accuracy": top, "accuracy_drop": 0.0}
    outcome, _, violations = judge(config, Outcome("complete", finals), Outcome("complete", unpruned), dense)
    return outcome.status == "complete", violations
