"""What the trainings of a study say (``benchmarks/trainings.py``).

    python benchmarks/study_tables.py STUDY [--out benchmarks/results/study_STUDY.json]

Accuracy is that of the last epoch, in per cent of the 5,000 validation images; a path's value at a share of the MACs is
that of its best model at or below it. The seed is the unit of evidence. Means stand with half the width of their 95 %
Student interval. Criteria are compared with ``frs`` seed by seed (sign-flip test, corrected for all comparisons of the
study); fewer than six seeds decide nothing.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from typing import Any

from record import add_out, write
from studies import STUDIES
from trainings import read
from yardstick import CHANCE, SHARES, TOP, USABLE, Models, best_at, hypervolume, summary

from analysis.evidence.permutation import Question, paired_test

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
    """(share of the MACs left, accuracy) of the models of one training; polished ones are others."""
    return [(1 - row["macs_removed"], row["val_accuracy"]) for row in rows if "polish" not in row]


def epochs(rows: list[Row]) -> dict[str, Any]:
    """Accuracy and cost of every training; of paths at each share, and polished."""
    out: dict[str, Any] = {}
    for name, seeds in by_training(rows).items():
        if next(iter(seeds.values()))[0]["level"] is None:
            out[name] = {
                "accuracy": summary([one[-1]["val_accuracy"] for one in seeds.values()]),
                "left": round(1 - statistics.mean(one[-1]["macs_removed"] for one in seeds.values()), 3),
                "cost": round(statistics.mean(one[-1]["train_cost"] for one in seeds.values()), 2),
            }
            continue
        out[name] = _at_shares(seeds)
        polished: dict[int, list[Row]] = defaultdict(list)
        for one in seeds.values():
            for row in one:
                if "polish" in row:
                    polished[row["level"]].append(row)
        for level, some in polished.items():
            out[f"{name}, snapshot {level} polished for {some[0]['polish']} epochs"] = {
                "accuracy": summary([row["val_accuracy"] for row in some]),
                "left": round(1 - statistics.mean(row["macs_removed"] for row in some), 3),
                "cost": round(statistics.mean(row["train_cost"] for row in some), 2),
            }
    return out


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
                    "interval": [round(test.low, 3), round(test.high, 3)],
                    "p": round(test.p, 4),
                    "adjusted": round(test.adjusted, 4),
                    "decided": test.decided,
                    "verdict": test.verdict,
                    "pairs": [round(value, 2) for value in test.values],
                }
            )
    return {"accuracy": settings(rows), "tests": tests}


def _at_shares(seeds: dict[int, list[Row]]) -> dict[str, Any]:
    every = [models(rows) for rows in seeds.values()]
    out: dict[str, Any] = {
        "cost": round(
            statistics.mean(
                max(r["train_cost"] for r in rows if "polish" not in r) for rows in seeds.values()
            ),
            2,
        )
    }
    for share in sorted({*SHARES, *COMPARED_AT}, reverse=True):
        out[f"at {share:.0%} of the MACs"] = summary([best_at(one, share) for one in every])
    for name, bottom in (("from chance", CHANCE), ("usable", USABLE)):
        out[f"hypervolume, {name}"] = summary([round(hypervolume(one, bottom), 4) for one in every])
    out["top of the hypervolume"] = TOP
    return out


TABLES = {"epochs": epochs, "criteria": criteria, "settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    add_out(parser)
    args = parser.parse_args()
    write(args.out, TABLES[args.study](read(args.study)))


if __name__ == "__main__":
    main()
