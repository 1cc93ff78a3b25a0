"""What each side of the head-to-head has done by when: read from what it left on disk, judged by one yardstick."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.front.anchors import Anchor, Anchors
from analysis.front.pareto import front, hypervolume
from benchmarks import trial_logs
from sweeps.records.job import read_outcome
from sweeps.records.layout import OUTCOME_FILE
from sweeps.records.ledger import read_records

OBJECTIVES = {"val_accuracy": "max", "macs": "min"}


@dataclass(frozen=True)
class Trial:
    """One trial of either side.

    Attributes:
        point: the searched values, rounded, in a fixed order.
        status: ``complete``, ``unfinished``, or what else the sweep calls it.
        end_s: seconds after the side was started, None if it did not come to its end.
        epochs_trained: epochs it trained itself; what it took over from another trial is not among them.
        macs_by_epoch: multiply-adds left at the end of each epoch, in thousands, rounded.
        train_cost: of a trial of ours, what it would have cost alone, scoring included, in epochs of the unpruned net.
    """

    name: str
    kind: str
    point: tuple[Any, ...]
    status: str
    end_s: float | None
    epochs_trained: int
    macs_by_epoch: tuple[int, ...]
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    macs: float | None = None
    train_cost: float | None = None

    @property
    def complete(self) -> bool:
        """Whether it came to its end with values."""
        return self.status == "complete"

    @property
    def of_use(self) -> bool:
        """Whether its epochs told the search something: it came to its end, or was stopped as unpromising."""
        return self.status in ("complete", "stopped", "infeasible")


def read_ours(folder: Path, started: float) -> list[Trial]:
    """Trials and baselines of a sweep's folder."""
    trials = []
    for kind, records in zip(("trial", "baseline"), read_records(folder, folder.name, OBJECTIVES)):
        for record in records:
            job = record.job
            outcome = read_outcome(job.folder)
            done = outcome is not None and record.finished
            at = Path(job.folder, OUTCOME_FILE).stat().st_mtime - started if done else None
            history = sorted(outcome.history, key=lambda row: row["epoch"]) if done else []
            trials.append(
                Trial(
                    job.trial_id,
                    kind,
                    tuple(_rounded(job.point[path]) for path in sorted(job.point)),
                    record.status if done else "unfinished",
                    at,
                    trial_logs.read(Path(job.folder)).epochs_trained,
                    tuple(_thousands(row["cost/macs"]) for row in history),
                    *(record.finals.get(n) for n in ("val_accuracy", "test_accuracy", "macs", "train_cost")),
                )
            )
    return trials


def read_peer(folder: Path, started: float, epochs: int) -> list[Trial]:
    """Trials of a Tune experiment: its own ``result.json`` files have one line per report."""
    trials = []
    for file in sorted(folder.glob("*/result.json")):
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        if not rows:
            continue
        config, last = rows[0]["config"], rows[-1]
        complete = last["training_iteration"] == epochs and "test_accuracy" in last
        trials.append(
            Trial(
                last["trial_id"],
                "trial",
                tuple(_rounded(config[name]) for name in sorted(config)),
                "complete" if complete else "unfinished",
                last["timestamp"] - started if complete else None,
                len(rows),
                tuple(_thousands(row["macs"]) for row in rows),
                *(last.get(name) if complete else None for name in ("val_accuracy", "test_accuracy", "macs")),
            )
        )
    return trials


def until(trials: Sequence[Trial], deadline_s: float) -> list[Trial]:
    """The trials as they stood at the deadline: what ended later did not end."""
    late = {trial.name for trial in trials if trial.end_s is not None and trial.end_s > deadline_s}
    values = ("name", "kind", "point", "epochs_trained", "macs_by_epoch")
    return [
        Trial(**{name: getattr(trial, name) for name in values}, status="unfinished", end_s=None)
        if trial.name in late
        else trial
        for trial in trials
    ]


def yardstick(accuracy: float, macs: float) -> Anchors:
    """Chance to the unpruned model's accuracy, the unpruned model's MACs to nothing; the same for both sides."""
    return Anchors(
        {
            "val_accuracy": Anchor(10.0, accuracy, "chance to the unpruned model"),
            "macs": Anchor(macs, 0.0, "unpruned model to nothing"),
        }
    )


def series(trials: Sequence[Trial], anchors: Anchors, seconds: float) -> list[dict[str, float]]:
    """One row per trial that ended: when, how many had ended by then, and the hypervolume of their front."""
    ended = sorted((t for t in trials if t.complete and t.kind == "trial"), key=lambda t: t.end_s)
    rows = [{"seconds": 0.0, "trials": 0, "hypervolume": 0.0}]
    for number, trial in enumerate(ended, start=1):
        value = hypervolume(_frame(ended[:number]), OBJECTIVES, anchors).value
        rows.append({"seconds": round(trial.end_s, 1), "trials": number, "hypervolume": round(value, 5)})
    return [*rows, {**rows[-1], "seconds": seconds}]


def front_of(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The non-dominated complete trials, cheapest first."""
    ended = [trial for trial in trials if trial.complete and trial.kind == "trial"]
    if not ended:
        return []
    best = front(_frame(ended), OBJECTIVES).sort_values("macs")
    return [{name: _plain(value) for name, value in row.items()} for row in best.to_dict("records")]


def summary(
    trials: Sequence[Trial], rows: Sequence[dict[str, float]], anchors: Anchors, seconds: float
) -> dict[str, Any]:
    """The numbers of one side.

    ``epochs_needed`` are the distinct training states (epoch and what was removed before it) that the trials consist
    of which ended or were stopped as unpromising; what was trained beyond them was for trials that the deadline cut
    off, or was trained more than once.
    """
    complete = [trial for trial in trials if trial.complete]
    searched = [trial for trial in complete if trial.kind == "trial"]
    trained = sum(trial.epochs_trained for trial in trials)
    dense = _thousands(anchors.of["macs"].worst)
    needed = len({state for trial in trials if trial.of_use for state in _states(trial, dense)})
    points = Counter(trial.point for trial in searched)
    return {
        "seconds": seconds,
        "trials_complete": len(searched),
        "trials_by_status": dict(Counter(trial.status for trial in trials if trial.kind == "trial")),
        "configurations_trained_twice": sum(points.values()) - len(points),
        "epochs_of_complete_trials": sum(len(trial.macs_by_epoch) for trial in complete),
        "epochs_trained": trained,
        "epochs_needed": needed,
        "epochs_wasted": trained - needed,
        "epochs_of_stopped_trials": sum(t.epochs_trained for t in trials if t.status == "stopped"),
        "epochs_of_trials_cut_off": sum(t.epochs_trained for t in trials if not t.of_use),
        "first_trial_after_s": rows[1]["seconds"] if searched else None,
        "hypervolume": rows[-1]["hypervolume"],
        "front": front_of(trials),
    }


def reached(rows: Sequence[dict[str, float]], level: float) -> float | None:
    """Seconds until the hypervolume is at least ``level``."""
    return next((row["seconds"] for row in rows if row["hypervolume"] >= level), None)


def _states(trial: Trial, dense: int) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """(epoch, the removals before it) of every epoch; a removal shows as the MACs left after its epoch.

    Both sides train every trial with one seed, so equal removals mean equal weights.
    """
    states: list[tuple[int, tuple[tuple[int, int], ...]]] = []
    before: tuple[tuple[int, int], ...] = ()
    last = dense
    for epoch, left in enumerate(trial.macs_by_epoch, start=1):
        states.append((epoch, before))
        if left != last:
            before = (*before, (epoch, left))
        last = left
    return states


def _frame(trials: Sequence[Trial]) -> pd.DataFrame:
    columns = ("name", "point", "val_accuracy", "test_accuracy", "macs")
    return pd.DataFrame([{name: getattr(trial, name) for name in columns} for trial in trials])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _rounded(value: Any) -> Any:
    return round(float(value), 6) if isinstance(value, (int, float)) else value


def _thousands(macs: float) -> int:
    return round(macs / 1000)
