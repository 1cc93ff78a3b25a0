"""Are the statements about noise true? Simulated sweeps whose true front is known, with noise as it was measured.

    python benchmarks/analysis_calibration.py [--sweeps 200] [--out benchmarks/results/analysis_calibration.json]

A sweep has 32 configurations: accuracy falls with compression, other parameters cost an exponential amount (mean 0.5
points), a seed moves accuracy by 0.25 points and MACs by 0.3 %. Two questions:

1. Does the 80 % interval of the confirmed accuracy hold the true accuracy of a configuration that was chosen because
   it looked good? Finalists are those on the observed front; they are run again on 1, 2, 3 or 5 fresh seeds.
2. Of the configurations that are given a chance of 0.7 to be on the front, are 70 % on the true front? Asked of
   searches with three seeds each, and of searches with one seed whose finalists were confirmed.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import record

from analysis.evidence import noise
from analysis.front import pareto
from gcp_core.schema import Direction

GOALS: dict[str, Direction] = {"val_accuracy": "max", "macs": "min"}
CONFIGS, SIGMA, MACS_SIGMA, LEVEL = 32, 0.25, 0.003, 0.8
BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0001)


@dataclass(frozen=True)
class Truth:
    """True accuracy and MACs of every configuration, and which are on the true front."""

    accuracy: np.ndarray
    macs: np.ndarray

    @property
    def front(self) -> np.ndarray:
        return pareto.nondominated(np.column_stack([-self.accuracy, self.macs]))


def truth(rng: np.random.Generator) -> Truth:
    kept = np.round(rng.uniform(0.08, 0.7, CONFIGS), 2)
    accuracy = 92 - 0.5 * (1 / kept - 1) ** 1.1 - rng.exponential(0.5, CONFIGS)
    return Truth(accuracy, 40e6 * kept)


def runs(true: Truth, rng: np.random.Generator, which: np.ndarray, seeds: int, kind: str) -> pd.DataFrame:
    """What ``seeds`` runs of each of the configurations ``which`` would log."""
    config = np.repeat(which, seeds)
    n = len(config)
    return pd.DataFrame(
        {
            "sweep": "simulated",
            "trial": [f"{kind}{i}" for i in range(n)],
            "kind": kind,
            "left_out": "",
            "candidate": kind == "trial",
            "config_id": config.astype(str),
            "val_accuracy": true.accuracy[config] + rng.normal(0, SIGMA, n),
            "macs": true.macs[config] * (1 + rng.normal(0, MACS_SIGMA, n)),
        }
    )


def finalists(df: pd.DataFrame) -> np.ndarray:
    """Configurations on the observed front of the means."""
    best = pareto.front(noise.by_config(df, list(GOALS)), GOALS)
    return best["config_id"].astype(int).to_numpy()


def coverage(sweeps: int, fresh: int) -> dict[str, float]:
    """Share of the intervals of finalists that hold the truth, and how lucky the search was."""
    rng = np.random.default_rng(fresh)
    held, naive, drops, widths = [], [], [], []
    for _ in range(sweeps):
        true = truth(rng)
        search = runs(true, rng, np.arange(CONFIGS), 1 if fresh > 1 else 2, "trial")
        chosen = finalists(search)
        df = pd.concat([search, runs(true, rng, chosen, fresh, "confirm")], ignore_index=True)
        for found in noise.confirmations(df, level=LEVEL):
            accuracy = true.accuracy[int(found.config_id)]
            half = (found.high - found.low) / 2
            held.append(found.low <= accuracy <= found.high)
            naive.append(abs(found.selected - accuracy) <= half)
            drops.append(found.drop)
            widths.append(2 * half)
    return {
        "intervals": len(held),
        "coverage": float(np.mean(held)),
        "coverage_around_the_selected_value": float(np.mean(naive)),
        "selected_minus_confirmed": float(np.mean(drops)),
        "mean_width": float(np.mean(widths)),
    }


def reliability(sweeps: int, draws: int, seeds: int, fresh: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Chance of being on the front against the truth, in bins, with Brier score and expected calibration error."""
    rng = np.random.default_rng(100 + 10 * seeds + fresh)
    said, observed, was = [], [], []
    for i in range(sweeps):
        true = truth(rng)
        df = runs(true, rng, np.arange(CONFIGS), seeds, "trial")
        chosen = finalists(df)
        if fresh:
            df = pd.concat([df, runs(true, rng, chosen, fresh, "confirm")], ignore_index=True)
        found = noise.front_probability(df, GOALS, kinds=kinds, draws=draws, seed=i)
        ids = found["config_id"].astype(int).to_numpy()
        said.append(found["probability"].to_numpy())
        observed.append(np.isin(ids, chosen))
        was.append(true.front[ids])
    p, seen, y = np.concatenate(said), np.concatenate(observed), np.concatenate(was).astype(float)
    bins = []
    for low, high in itertools.pairwise(BINS):
        inside = (p >= low) & (p < high)
        if inside.any():
            bins.append({"from": low, "to": min(high, 1.0), "n": int(inside.sum()),
                         "said": float(p[inside].mean()), "was": float(y[inside].mean())})  # fmt: skip
    return {
        "bins": bins,
        "brier": float(np.mean((p - y) ** 2)),
        "brier_of_the_observed_front": float(np.mean((seen - y) ** 2)),
        "calibration_error": float(sum(b["n"] * abs(b["said"] - b["was"]) for b in bins) / len(p)),
        "observed_front_truly_on_it": float(y[seen].mean()),
    }


def main() -> None:
    """Both questions, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1, help="parts at the same time")
    record.add_out(parser)
    options = parser.parse_args()
    n, draws = options.sweeps, options.draws
    questions = {
        "three seeds each": (3, 0, noise.REPLICATES),
        "one seed, finalists confirmed on three; all runs count": (1, 3, noise.REPLICATES),
        "one seed, finalists confirmed on three; search runs only": (1, 3, noise.SEARCH),
    }
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        held = {f"{fresh} fresh seeds": pool.submit(coverage, n, fresh) for fresh in (1, 2, 3, 5)}
        chances = {name: pool.submit(reliability, n, draws, *how) for name, how in questions.items()}
        results = {
            "sweeps": n,
            "noise": {"configurations": CONFIGS, "accuracy_std_points": SIGMA, "macs_std_share": MACS_SIGMA},
            "level": LEVEL,
            "confirmed_accuracy": {name: part.result() for name, part in held.items()},
            "on_the_front": {name: part.result() for name, part in chances.items()},
        }
    record.write(options.out, results)


if __name__ == "__main__":
    main()
