"""What early stopping saves and what it costs, replayed on recorded trials of ``configs/cifar10_single.yaml``.

    python -m benchmarks.search.early_stopping --record SWEEP_FOLDER                 # a finished sweep -> the table
    python -m benchmarks.search.early_stopping --out benchmarks/results/early_stopping.json

The table (``benchmarks/data/cifar10_quick_trials.jsonl``) holds the course of every trial: validation accuracy, MACs and
params after each epoch, how it ended, and what it was foreseen to cost. A replay draws the trials in the order in which
the sampler (TPE, seeded; every suggestion is moved to the nearest trial left) asks for them, runs two at a time and lets
the rule of ``sweeps.strategy.stopping`` decide, as the driver does. Hypervolume: ``analysis.pareto``, accuracy from ten
points below the baseline's (usable) and from 10 % (chance) to it, MACs from the baseline's to 0; that of the trials
which were not stopped, as a share of that of all.

The rule and its defaults were chosen on the first 32 of these trials with other seeds than the ones reported, and with
an eye on the demo; so the table is not unseen, the orders are. Stopped trials never stand on the reported front (their
status forbids it); how many would have, had they been trained to the end, is counted as ``front_members_stopped``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState, create_trial

from analysis.front.anchors import USABLE, anchors_for
from analysis.front.pareto import front, hypervolume
from benchmarks.record import DATA, ROOT, add_out, write
from sweeps.config.space import Point
from sweeps.config.sweep_config import SweepConfig, load_config
from sweeps.records.folder import read_config
from sweeps.records.job import Job, Outcome
from sweeps.records.ledger import encode_point, read_records
from sweeps.records.studies import quiet_optuna
from sweeps.strategy.feasibility import Feasibility, Projection
from sweeps.strategy.mirror import build_sampler
from sweeps.strategy.sampling import distributions
from sweeps.strategy.stopping import Rungs, Standing

TABLE = DATA / "cifar10_quick_trials.jsonl"
CONFIG = ROOT / "configs" / "cifar10_single.yaml"
SEEDS = (0, 1, 2, 3, 4)
AT_ONCE = 2
OBJECTIVES = {"val_accuracy": "max", "macs": "min"}


@dataclass(frozen=True)
class Course:
    """One recorded trial. ``rows``: per epoch what the driver receives; ``final``: accuracy in per cent, MACs, params."""

    trial_id: str
    kind: str
    point: Point
    rows: tuple[dict[str, float], ...]
    final: dict[str, float]
    projection: Projection | None


# --- recording ----------------------------------------------------------------------------------------------------------


def record(folder: Path) -> None:
    """Write the table from a finished sweep that was run with ``search.stopping=none``."""
    config = read_config(folder)
    trials, baselines = read_records(folder, config.name, config.search.objectives)
    feasibility = Feasibility()
    lines = []
    for entry in [*baselines, *trials]:
        outcome = json.loads((folder / "trials" / entry.job.trial_id / "outcome.json").read_text())
        if not outcome["history"]:
            continue  # refused before it was trained: nothing to save
        if outcome["status"] != "complete":
            raise SystemExit(
                f"{entry.job.trial_id} is {outcome['status']}: only trained trials can be replayed"
            )
        history, finals = outcome["history"], outcome["finals"]
        projection = feasibility.project(entry.job.config) if entry.job.kind == "trial" else None
        lines.append(
            {
                "trial": entry.job.trial_id,
                "kind": entry.job.kind,
                "point": entry.job.point,
                "accuracy": [round(row["val/accuracy"], 2) for row in history],
                "macs": [int(row["cost/macs"]) for row in history],
                "params": [int(row["cost/params"]) for row in history],
                "final": {name: finals[name] for name in ("val_accuracy", "macs", "params")},
                "foreseen": None if projection is None else dataclasses.asdict(projection),
            }
        )
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} of {len(trials)} trials and {len(baselines)} baselines -> {TABLE.name}")


def read_table() -> list[Course]:
    """The recorded courses, baselines first."""
    courses = []
    for line in TABLE.read_text().splitlines():
        entry = json.loads(line)
        per_epoch = zip(entry["accuracy"], entry["macs"], entry["params"], strict=True)
        rows = tuple(
            {"epoch": e, "val/accuracy": a, "cost/macs": float(m), "cost/params": float(p)}
            for e, (a, m, p) in enumerate(per_epoch, start=1)
        )
        projection = Projection(**entry["foreseen"]) if entry["foreseen"] else None
        courses.append(
            Course(entry["trial"], entry["kind"], entry["point"], rows, entry["final"], projection)
        )
    return courses


# --- rules --------------------------------------------------------------------------------------------------------------


class RawAccuracy(Rungs):
    """The rule without its learning: accuracy so far in place of the final accuracy to be expected."""

    def outlook(self, at: Standing) -> np.ndarray:
        return np.column_stack([-at.reading, at.end["macs"]])


class CostNow(Rungs):
    """Without foresight of any kind: accuracy so far and the cost at the rung."""

    def outlook(self, at: Standing) -> np.ndarray:
        return np.column_stack([-at.reading, at.now["macs"]])


class AccuracyOnly(Rungs):
    """Asynchronous successive halving on accuracy: what single-objective schedulers do."""

    def outlook(self, at: Standing) -> np.ndarray:
        return -at.accuracy[:, None]


class Chance(Rungs):
    """Lots are drawn at every rung; the share that goes on is that of the rule it is compared with."""

    def outlook(self, at: Standing) -> np.ndarray:
        return np.random.default_rng([at.epoch, *at.rows]).random((len(at.rows), 1))


# --- replay -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """What one replay trained: ``epochs`` in all, which trials were ``stopped`` after which epoch."""

    epochs: int
    stopped: dict[str, int]


class Order:
    """The trials of the table in the order in which TPE asks for their like; it learns from how they end."""

    def __init__(self, config: SweepConfig, courses: list[Course], seed: int) -> None:
        self._space = config.space
        self._distributions = distributions(config.space)
        self._left = {course.trial_id: course for course in courses}
        self._numbers: dict[str, int] = {}
        with quiet_optuna():
            sampler = build_sampler("tpe", len(courses), seed)
            self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def next(self) -> Course | None:
        """The trial left that is nearest to the next suggestion."""
        if not self._left:
            return None
        with quiet_optuna():
            asked = self._study.ask(self._distributions)
            self._study.tell(asked, state=TrialState.FAIL)
        nearest = min(self._left.values(), key=lambda course: self._distance(course.point, asked.params))
        self._numbers[nearest.trial_id] = len(self._study.get_trials(deepcopy=False))
        params = encode_point(nearest.point, self._distributions)
        self._study.add_trial(
            create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
        )
        return self._left.pop(nearest.trial_id)

    def tell(self, course: Course, stopped: bool) -> None:
        """How it ended."""
        number = self._numbers[course.trial_id]
        with quiet_optuna():
            if stopped:
                self._study.tell(number, state=TrialState.PRUNED)
            else:
                self._study.tell(number, values=[course.final[name] for name in OBJECTIVES])

    def _distance(self, point: Point, params: dict[str, Any]) -> float:
        """Steps on the scale 0..1 of every number, 1 for another choice of criterion."""
        total = 0.0
        for dimension in self._space.dimensions:
            here, there = point[dimension.path], params[dimension.path]
            if dimension.choices is not None:
                numbers = [c for c in dimension.choices if isinstance(c, int | float)]
                if len(numbers) < len(dimension.choices):
                    total += float(here != there)
                    continue
                extent = max(numbers) - min(numbers)
            else:
                extent = dimension.high - dimension.low
            total += abs(here - there) / extent
        return total


def replay(config: SweepConfig, courses: list[Course], rule: type[Rungs] | None, seed: int) -> Replay:
    """Two trials at a time, an epoch each in turn; the baseline goes first and is never stopped."""
    projections = {}
    jobs = {course.trial_id: _job(config, course) for course in courses}
    for course in courses:
        projections[jobs[course.trial_id].config.key()] = course.projection
    rungs = None if rule is None else rule(config.search, lambda trial: projections[trial.key()])
    baselines = [course for course in courses if course.kind == "baseline"]
    order = Order(config, [course for course in courses if course.kind == "trial"], seed)
    slots: list[tuple[Course, int] | None] = [None] * AT_ONCE
    epochs, stopped = 0, {}
    while True:
        for i, slot in enumerate(slots):
            if slot is None:
                course = baselines.pop(0) if baselines else order.next()
                if course is None:
                    continue
                slot = (course, 0)
            course, done = slot
            row, job = course.rows[done], jobs[course.trial_id]
            epochs, done = epochs + 1, done + 1
            slots[i] = (course, done)
            stop = None if rungs is None else rungs.epoch(job, row)
            if stop is not None:
                stopped[course.trial_id] = done
            if stop is not None or done == len(course.rows):
                slots[i] = None
                if rungs is not None:
                    finals = course.final if stop is None else {}
                    rungs.ended(job, Outcome("complete" if stop is None else "stopped", finals))
                if course.kind == "trial":
                    order.tell(course, stop is not None)
        if slots == [None] * AT_ONCE and not order._left:
            return Replay(epochs, stopped)


def _job(config: SweepConfig, course: Course) -> Job:
    trial = config.space.resolve(course.point or config.space.first())
    if course.kind == "baseline":
        trial = trial.baseline()
    number = int(course.trial_id[1:])
    return Job(course.trial_id, course.kind, number, trial, course.point, folder="")  # type: ignore[arg-type]


# --- what came of it ----------------------------------------------------------------------------------------------------


def frame(courses: list[Course]) -> pd.DataFrame:
    """One row per recorded trial, as ``analysis`` likes it."""
    rows = [{"trial": c.trial_id, "kind": c.kind, "candidate": c.kind == "trial", **c.final} for c in courses]
    df = pd.DataFrame(rows).set_index("trial")
    df.attrs["chance"] = 10.0
    return df


def measure(df: pd.DataFrame, result: Replay) -> dict[str, Any]:
    """Epochs, hypervolume, the full front's members that were stopped, and what the front lost for that."""
    left = df[~df.index.isin(result.stopped)]
    full = front(df, OBJECTIVES)
    kept = front(left, OBJECTIVES)
    lost = [row.val_accuracy - _best_at(kept, row.macs) for row in full.itertuples()]
    return {
        "epochs": result.epochs,
        "stopped": len(result.stopped),
        "hypervolume_kept": _kept(df, left, USABLE),
        "hypervolume_kept_from_chance": _kept(df, left, None),
        "front_members_stopped": sum(name in result.stopped for name in full.index),
        # Mean over the full front's members, against what is kept for at most 5 % more MACs, in points.
        "accuracy_lost_at_equal_cost": statistics.mean(lost),
        "best_accuracy_lost": float(full.val_accuracy.max() - kept.val_accuracy.max()),
    }


def _kept(df: pd.DataFrame, left: pd.DataFrame, usable: float | None) -> float:
    anchors = anchors_for(df, OBJECTIVES, usable=usable)
    return hypervolume(left, OBJECTIVES, anchors).value / hypervolume(df, OBJECTIVES, anchors).value


def _best_at(kept: pd.DataFrame, macs: float) -> float:
    """The best accuracy kept for at most a twentieth more MACs; chance if there is none."""
    affordable = kept[kept.macs <= 1.05 * macs]
    return 10.0 if affordable.empty else float(affordable.val_accuracy.max())


RULES: dict[str, tuple[type[Rungs], str]] = {
    "rungs": (Rungs, "the rule as it is"),
    "accuracy_so_far": (RawAccuracy, "accuracy so far in place of the expected final accuracy"),
    "cost_now": (CostNow, "accuracy so far, and cost at the rung in place of the projected final cost"),
    "accuracy_only": (AccuracyOnly, "asynchronous successive halving on accuracy at the rung alone"),
    "chance": (Chance, "lots, the same share at the same rungs"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, metavar="SWEEP_FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--rungs", type=float, nargs="+")
    parser.add_argument("--rung-share", type=float)
    add_out(parser)
    args = parser.parse_args()
    if args.record is not None:
        record(args.record)
        return
    overrides: dict[str, Any] = {"data.path": "."}
    if args.rungs:
        overrides["search.rungs"] = args.rungs
    if args.rung_share:
        overrides["search.rung_share"] = args.rung_share
    config = load_config(CONFIG, overrides)
    courses = read_table()
    write(args.out, compare(config, courses, args.seeds))


def compare(config: SweepConfig, courses: list[Course], seeds: list[int]) -> dict[str, Any]:
    """Every rule over every seed, beside no stopping."""
    df = frame(courses)
    full = replay(config, courses, None, seeds[0]).epochs
    results: dict[str, Any] = {
        "table": TABLE.name,
        "trials": int(df.candidate.sum()),
        "front_members": len(front(df, OBJECTIVES)),
        "rungs": list(config.search.rungs),
        "rung_share": config.search.rung_share,
        "seeds": seeds,
        "epochs_without_stopping": full,
        "anchors": anchors_for(df, OBJECTIVES).describe(),
        "anchors_from_chance": anchors_for(df, OBJECTIVES, usable=None).describe(),
        "rules": {},
    }
    for name, (rule, text) in RULES.items():
        runs = [measure(df, replay(config, courses, rule, seed)) for seed in seeds]
        for run in runs:
            run["epochs_saved_share"] = 1 - run["epochs"] / full
        summary = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        for name_of in ("hypervolume_kept", "hypervolume_kept_from_chance"):
            summary[f"{name_of}_worst"] = min(run[name_of] for run in runs)
        results["rules"][name] = {
            "what": text,
            "mean": _rounded(summary),
            "by_seed": list(map(_rounded, runs)),
        }
    return results


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}


if __name__ == "__main__":
    main()
