"""What the trainings of a study say (``benchmarks/evidence/trainings.py``).

    python -m benchmarks.evidence.study_tables STUDY [--out benchmarks/results/study_STUDY.json]

Accuracy is that of the last epoch, in per cent of the 5,000 validation images; a path's value at a share of the MACs is
that of its best model at or below it. The seed is the unit of evidence. Means stand with half the width of their 95 %
Student interval. Criteria are compared with ``frs`` seed by seed (sign-flip test, corrected for all comparisons of the
study); fewer than six seeds decide nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from typing import Any

from analysis.evidence.permutation import Question, paired_test
from benchmarks.evidence.additions import FORWARD
from benchmarks.evidence.studies import STUDIES
from benchmarks.evidence.trainings import read
from benchmarks.record import add_out, write
from benchmarks.yardstick import CHANCE, SHARES, TOP, USABLE, Models, best_at, hypervolume, summary

#: Where criteria are compared (shares of the MACs that are left).
COMPARED_AT = (0.5, 0.3, 0.2, 0.1)
REFERENCE = "path, frs"

Row = dict[str, Any]


def by_training(rows: list[Row]) -> dict[str, dict[int, list[Row]]]:
    """Training -> seed -> its models, in the order of the table."""
    found: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["training"]][row["seed"]].append(row)
    return {name: dict(seeds) for name, seeds in found.items()}


def models(rows: list[Row]) -> Models:
    """(share of the MACs left, accuracy) of the models of one training; not of those that followed from them."""
    return [(1 - row["macs_removed"], row["val_accuracy"]) for row in rows if own(row)]


def own(row: Row) -> bool:
    """Whether the training itself left the model: not polished, not its widths trained anew, no average."""
    return not row.keys() & {"polish", "anew", "averaged"}


def epochs(rows: list[Row]) -> dict[str, Any]:
    """Accuracy and cost of every training; of paths at each share, and polished.

    A polish costs what its path has cost up to the snapshot, too. Widths trained anew stand at what they cost alone, and
    with the path that has found them.
    """
    out: dict[str, Any] = {}
    for name, seeds in by_training(rows).items():
        if next(iter(seeds.values()))[0]["level"] is None:
            out[name] = _models_of([one[-1] for one in seeds.values()])
            continue
        out[name] = _at_shares(seeds)
        for level, some in _followed(seeds, "polish").items():
            out[f"{name}, snapshot {level} polished for {some[0]['polish']} epochs"] = _models_of(some)
        for level, some in _followed(seeds, "anew").items():
            title = f"{name}, widths of snapshot {level} trained anew for {some[0]['epoch']} epochs"
            out[title] = _models_of(some) | _with_the_path(some, seeds)
    out["single trials as good as the path's model, dense epochs"] = crossings(rows)
    return out


def crossings(rows: list[Row]) -> dict[str, Any]:
    """Path -> share -> what a single trial of that size costs that is as good as the path's model: the mean over the
    seeds, between the trials of two lengths (accuracy linear in the logarithm of the cost); None beyond the longer one.
    """
    grouped = by_training(rows)
    out: dict[str, Any] = {}
    for name, seeds in grouped.items():
        if next(iter(seeds.values()))[0]["level"] is None:
            continue
        out[name] = {}
        for share in SHARES:
            short, long = (
                grouped[f"single to {share:.0%}, {n}"] for n in ("a quarter of a path", "30 epochs")
            )
            costs = [
                _cost_at(best_at(models(path), share), short[seed][0], long[seed][0])
                for seed, path in seeds.items()
            ]
            known = [cost for cost in costs if cost is not None]
            out[name][f"at {share:.0%} of the MACs"] = (
                round(statistics.mean(known), 2) if len(known) == len(costs) else None
            )
    return out


def _cost_at(accuracy: float, short: Row, long: Row) -> float | None:
    if accuracy > long["val_accuracy"]:
        return None
    way = (accuracy - short["val_accuracy"]) / (long["val_accuracy"] - short["val_accuracy"])
    return math.exp((1 - way) * math.log(short["train_cost"]) + way * math.log(long["train_cost"]))


def _followed(seeds: dict[int, list[Row]], how: str) -> dict[int, list[Row]]:
    """Level -> what followed from that snapshot, one row a seed."""
    found: dict[int, list[Row]] = defaultdict(list)
    for rows in seeds.values():
        for row in rows:
            if how in row:
                found[row["level"]].append(row)
    return found


def _models_of(rows: list[Row]) -> dict[str, Any]:
    return {
        "accuracy": summary([row["val_accuracy"] for row in rows]),
        "left": round(1 - statistics.mean(row["macs_removed"] for row in rows), 3),
        "cost": round(statistics.mean(row["train_cost"] for row in rows), 2),
    }


def _with_the_path(anew: list[Row], seeds: dict[int, list[Row]]) -> dict[str, float]:
    """What the widths of a snapshot have cost with the path up to it; the mean over the seeds."""
    costs = [
        row["train_cost"]
        + next(one["train_cost"] for one in seeds[row["seed"]] if own(one) and one["level"] == row["level"])
        for row in anew
    ]
    return {"cost with the path": round(statistics.mean(costs), 2)}


def settings(rows: list[Row]) -> dict[str, Any]:
    """Accuracy at each share and hypervolumes of every setting."""
    return {name: _at_shares(seeds) for name, seeds in by_training(rows).items()}


def criteria(rows: list[Row]) -> dict[str, Any]:
    """Settings, and every criterion against ``frs``, seed by seed."""
    grouped = by_training(rows)
    others = [name for name in grouped if name != REFERENCE]
    tests = []
    for share in COMPARED_AT:
        for name in others:
            pairs = sorted(grouped[name].keys() & grouped[REFERENCE].keys())
            apart = [
                best_at(models(grouped[name][seed]), share) - best_at(models(grouped[REFERENCE][seed]), share)
                for seed in pairs
            ]
            what = f"accuracy at {share:.0%} of the MACs"
            ask = Question(name, REFERENCE, what, comparisons=len(COMPARED_AT) * len(others))
            test = paired_test(apart, ask)
            tests.append(
                {
                    "what": what,
                    "first": name,
                    "minus": REFERENCE,
                    "difference": round(test.difference, 3),
                    "interval": _known(test.low, test.high),
                    "p": round(test.p, 4),
                    "adjusted": round(test.adjusted, 4),
                    "decided": test.decided,
                    "verdict": test.verdict,
                    "pairs": [round(value, 2) for value in test.values],
                }
            )
    return {"accuracy": settings(rows), "tests": tests}


def _known(low: float, high: float) -> list[float] | None:
    """An interval; None where so few seeds have none."""
    return [round(low, 3), round(high, 3)] if math.isfinite(low) and math.isfinite(high) else None


def methods(rows: list[Row]) -> dict[str, Any]:
    """Every method against ``frs`` and its controls, whose paths are those of the criteria study.

    A path's widths trained anew stand below it, at what they cost alone, and with the path that has found them.
    """
    here = {row["seed"] for row in rows}
    taken = [row for row in read("criteria") if row["seed"] in here]
    out = criteria([*taken, *(row for row in rows if row["training"] != REFERENCE)])
    reference = by_training(rows)[REFERENCE]
    for level, some in _followed(reference, "anew").items():
        title = f"{REFERENCE}, widths of snapshot {level} trained anew"
        out["accuracy"][title] = _models_of(some) | _with_the_path(some, reference)
    return out


def additions(rows: list[Row]) -> dict[str, Any]:
    """Accuracy at each share with and without; a teacher's forward passes are in its path's cost.

    Averages stand as if the path had ended with them: their cost is the path's.
    """
    out: dict[str, Any] = {}
    for name, seeds in by_training(rows).items():
        out[name] = _at_shares(seeds)
        if "distilled" in name:
            after = statistics.mean(one[-1]["epoch"] - one[0]["epoch"] for one in seeds.values())
            out[name]["cost"] = round(out[name]["cost"] + FORWARD * after, 2)
        for decay in sorted({row["averaged"] for one in seeds.values() for row in one if "averaged" in row}):
            some = {
                seed: [
                    {k: v for k, v in row.items() if k != "averaged"}
                    for row in one
                    if row.get("averaged") == decay
                ]
                for seed, one in seeds.items()
            }
            out[f"{name}, {decay:g}"] = _at_shares(some)
    return out


def _at_shares(seeds: dict[int, list[Row]]) -> dict[str, Any]:
    every = [models(rows) for rows in seeds.values()]
    out: dict[str, Any] = {
        "cost": round(
            statistics.mean(max(row["train_cost"] for row in rows if own(row)) for rows in seeds.values()),
            2,
        )
    }
    for share in sorted({*SHARES, *COMPARED_AT}, reverse=True):
        out[f"at {share:.0%} of the MACs"] = summary([best_at(one, share) for one in every])
    for name, bottom in (("from chance", CHANCE), ("usable", USABLE)):
        out[f"hypervolume, {name}"] = summary([round(hypervolume(one, bottom), 4) for one in every])
    out["top of the hypervolume"] = TOP
    return out


TABLES = {
    "epochs": epochs,
    "criteria": criteria,
    "criteria_resnet": criteria,
    "methods": methods,
    "repair": criteria,
    **dict.fromkeys(("settings_12", "settings_18", "settings_30"), settings),
    "additions": additions,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    add_out(parser)
    args = parser.parse_args()
    write(args.out, TABLES[args.study](read(args.study)))


if __name__ == "__main__":
    main()
