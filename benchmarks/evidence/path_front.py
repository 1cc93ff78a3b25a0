"""What one path is worth: accuracy at shares of the MACs and hypervolume, over seeds, beside the recorded 48 trials.

    python -m benchmarks.evidence.path_front [--table FILE] [--out benchmarks/results/path_front.json]

Reads recorded courses (``benchmarks/evidence/path_curves.py``; in another file with ``--table``) of the setting that
``benchmarks/head_to_head/paths.yaml`` tries first, one a seed, and the 48 single trials of
``benchmarks/data/cifar10_quick_trials.jsonl``. Accuracy is that of the best model at or below a share of the MACs of the
unpruned net; validation says which it is, also where test accuracy is shown. Hypervolumes are those of the goals: MACs
from all to none, accuracy to 73.24 % (the unpruned net of the single trials) from chance, and from ten points below it;
more counts in full.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.evidence.path_curves import TABLE, Curve, read_curves
from benchmarks.record import DATA, RESULTS, add_out, write
from benchmarks.yardstick import CHANCE, SHARES, SLACK, USABLE, Models, best_at, hypervolume, summary

SETTING = {"start": 4, "interval": 6, "restart": 1.0, "criterion": "frs"}
LEVELS = [0.3, 0.5, 0.65, 0.8, 0.9, 0.95]
#: Of the mean over three seeds, in per cent of the validation images; and of the training, in dense epochs.
GOALS, MOST_COST = dict(zip(SHARES, (72.0, 72.5, 72.5, 68.5), strict=True)), 16.0


def models_of(path: Curve) -> Models:
    return [(1 - taken["macs_removed"], taken["val_accuracy"]) for taken in path.snapshots]


def tested_at(path: Curve, share: float) -> float:
    """Test accuracy of the model at or below a share of the MACs that validation calls the best; NaN if there is none."""
    small = [taken for taken in path.snapshots if 1 - taken["macs_removed"] <= share + SLACK]
    best = max(small, key=lambda taken: taken["val_accuracy"], default={"test_accuracy": math.nan})
    return best["test_accuracy"]


def recorded_trials() -> tuple[float, list[dict[str, Any]]]:
    """(MACs of the unpruned net, the 48 single trials)."""
    lines = (DATA / "cifar10_quick_trials.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    dense = next(row["final"]["macs"] for row in rows if row["kind"] == "baseline")
    return dense, [row for row in rows if row["kind"] == "trial"]


def singles() -> Models:
    dense, trials = recorded_trials()
    return [(one["final"]["macs"] / dense, one["final"]["val_accuracy"]) for one in trials]


def about_the_singles() -> dict[str, Any]:
    """How many are how small, and what they have cost; channels go at the end of an epoch."""
    dense, trials = recorded_trials()
    alone = sum(sum([dense, *one["macs"][:-1]]) for one in trials) / dense
    saved = json.loads((RESULTS / "trunk_saving.json").read_text())["results"]["measured"]
    shared = saved["training_time_saved"]
    return {
        "at or below": {
            f"{share:.0%} of the MACs": sum(left <= share + SLACK for left, _ in singles())
            for share in SHARES
        },
        "by criterion": Counter(one["point"]["prune.criterion"] for one in trials),
        "dense epochs, one by one": round(alone, 1),
        "share of the training time that sharing saved": round(shared, 3),
        "dense epochs, with shared training": round(alone * (1 - shared), 1),
    }


def results(table: Path = TABLE) -> dict[str, Any]:
    paths = [
        path
        for path in read_curves(table)[0]
        if {name: path.point[name] for name in SETTING} == SETTING and path.point["levels"] == LEVELS
    ]
    counted = Counter(path.point["seed"] for path in paths)
    if twice := [seed for seed, number in counted.items() if number > 1]:
        raise SystemExit(
            f"{table}: more than one path of seed {', '.join(map(str, twice))}: seeds count once"
        )
    recorded = singles()
    rows = {}
    for share in SHARES:
        name = f"at {share:.0%} of the MACs"
        rows[name] = summary([best_at(models_of(path), share) for path in paths])
        rows[name]["test"] = round(statistics.mean(tested_at(path, share) for path in paths), 3)
        rows[name] |= {"goal": GOALS[share], "reached": rows[name]["mean"] >= GOALS[share]}
        rows[name]["best of the single trials"] = best_at(recorded, share)
    for name, bottom, goal in (("from chance", CHANCE, 0.93), ("usable", USABLE, 0.85)):
        name = f"hypervolume, {name}"
        rows[name] = summary([round(hypervolume(models_of(path), bottom), 4) for path in paths])
        rows[name] |= {"goal": goal, "reached": rows[name]["mean"] >= goal}
        rows[name]["single trials"] = round(hypervolume(recorded, bottom), 4)
    cost = summary([path.cost for path in paths])
    return {
        "setting": {**SETTING, "levels": LEVELS},
        "seeds": [path.point["seed"] for path in paths],
        "the single trials": about_the_singles(),
        "cost in dense epochs": {**cost, "goal": MOST_COST, "reached": max(cost["seeds"]) <= MOST_COST},
        **rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    add_out(parser)
    args = parser.parse_args()
    write(args.out, results(args.table))


if __name__ == "__main__":
    main()
