"""Are the statements about noise true? Simulated sweeps whose truth is known, with noise as it was measured.

    python -m benchmarks.search.analysis_calibration [--sweeps 50] [--out benchmarks/results/analysis_calibration.json]

1. Confirmed accuracy: does the 80 % interval hold the true accuracy of a configuration that was chosen because it
   looked good? Finalists are those on the observed front; they are run again on 1, 2, 3 or 5 fresh seeds.
2. Ruled out: how often is a configuration that is on the true front ruled out (at most 5 %), and how many others are?
3. Withheld: what a bootstrap over seeds, and a posterior with a smooth trend and an estimated spread about it, would say
   about the chance of being on the front, beside how often it was true.
4. Compare: two methods that differ only by their luck with each seed (1 point, shared by all configurations of a seed).
   How often is one called better, by the seed as the unit and, as a contrast, with every pair by itself? And how often
   is a real difference found?
5. Importance: how often does pure noise show evidence, how often is a real effect found?

The sweeps of 1 to 3 have 32 configurations: accuracy falls with compression, other parameters cost an exponential amount
(mean 0.5 points; ``flat``: 0.1), a seed moves accuracy by 0.25 points and MACs by 0.3 %.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.evidence import compare, importance, noise
from analysis.evidence.permutation import Question, paired_test
from analysis.front import pareto
from benchmarks import record
from gcp_core.schema import Direction

GOALS: dict[str, Direction] = {"val_accuracy": "max", "macs": "min"}
CONFIGS, SIGMA, MACS_SIGMA, LEVEL = 32, 0.25, 0.003, 0.8
BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0001)
DRAWS = 100


@dataclass(frozen=True)
class Truth:
    """True accuracy and MACs of every configuration, and which are on the true front."""

    accuracy: np.ndarray
    macs: np.ndarray

    @property
    def front(self) -> np.ndarray:
        return pareto.nondominated(np.column_stack([-self.accuracy, self.macs]))


def truth(rng: np.random.Generator, loss: float = 0.5) -> Truth:
    kept = np.round(rng.uniform(0.08, 0.7, CONFIGS), 2)
    accuracy = 92 - 0.5 * (1 / kept - 1) ** 1.1 - rng.exponential(loss, CONFIGS)
    return Truth(accuracy, 40e6 * kept)


def runs(true: Truth, rng: np.random.Generator, which: np.ndarray, seeds: int, kind: str) -> pd.DataFrame:
    """What ``seeds`` runs of each of the configurations ``which`` would log."""
    config = np.repeat(which, seeds)
    n = len(config)
    return pd.DataFrame(
        {
            "sweep": "simulated",
            "trial": [f"{kind}{i}" for i in range(n)],
            "model": [f"{kind}{i}" for i in range(n)],
            "level": pd.array([None] * n, dtype="Int64"),
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


def searched(true: Truth, rng: np.random.Generator, seeds: int, fresh: int) -> pd.DataFrame:
    """A search with ``seeds`` seeds each, its finalists confirmed on ``fresh`` more."""
    df = runs(true, rng, np.arange(CONFIGS), seeds, "trial")
    if not fresh:
        return df
    return pd.concat([df, runs(true, rng, finalists(df), fresh, "confirm")], ignore_index=True)


def coverage(sweeps: int, fresh: int) -> dict[str, float]:
    """Share of the intervals of finalists that hold the truth, and how lucky the search was."""
    rng = np.random.default_rng(fresh)
    held, naive, drops, widths = [], [], [], []
    for _ in range(sweeps):
        true = truth(rng)
        for found in noise.confirmations(searched(true, rng, 1 if fresh > 1 else 2, fresh), level=LEVEL):
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


def ruled_out(sweeps: int, seeds: int, fresh: int, loss: float) -> dict[str, float]:
    """Share of the configurations on the true front that are ruled out, and of the others."""
    rng = np.random.default_rng(100 + 10 * seeds + fresh)
    out, on_it = [], []
    for _ in range(sweeps):
        true = truth(rng, loss)
        found = noise.ruled_out(searched(true, rng, seeds, fresh), GOALS)
        out.append(found["ruled_out"].to_numpy())
        on_it.append(true.front[found["config_id"].astype(int).to_numpy()])
    gone, good = np.concatenate(out), np.concatenate(on_it)
    return {"of_the_true_front": float(gone[good].mean()), "of_the_others": float(gone[~good].mean())}


def withheld(sweeps: int, seeds: int, fresh: int, loss: float, posterior: bool) -> dict[str, Any]:
    """The chance of being on the front that is not shown, in bins, beside how often it was true."""
    rng = np.random.default_rng(200 + 10 * seeds + fresh)
    said, was = [], []
    for _ in range(sweeps):
        true = truth(rng, loss)
        df = searched(true, rng, seeds, fresh)
        groups = noise.by_config(df, list(GOALS), noise.REPLICATES)
        apart = noise.replicates(df, list(GOALS))
        mean, n = groups["val_accuracy"].to_numpy(), groups["n"].to_numpy()
        macs, error = groups["macs"].to_numpy(), noise.pooled_std(apart, "val_accuracy") / np.sqrt(n)
        if posterior:
            mean, error = shrunk(mean, error, macs)
        moved = noise.pooled_std(apart, "macs") / np.sqrt(n)
        hits = np.zeros(CONFIGS)
        for _ in range(DRAWS):
            accuracy, cost = mean + error * rng.normal(size=CONFIGS), macs + moved * rng.normal(size=CONFIGS)
            hits += pareto.nondominated(np.column_stack([-accuracy, cost]))
        said.append(hits / DRAWS)
        was.append(true.front[groups["config_id"].astype(int).to_numpy()])
    p, y = np.concatenate(said), np.concatenate(was).astype(float)
    bins = []
    for low, high in itertools.pairwise(BINS):
        inside = (p >= low) & (p < high)
        if inside.any():
            bins.append(
                {"n": int(inside.sum()), "said": float(p[inside].mean()), "was": float(y[inside].mean())}
            )
    return {
        "bins": bins,
        "largest_error": max(abs(b["said"] - b["was"]) for b in bins if b["n"] >= 50 or sweeps < 50),
        "brier": float(np.mean((p - y) ** 2)),
    }


def shrunk(mean: np.ndarray, error: np.ndarray, macs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and spread about a cubic trend over log MACs, the spread about it estimated (Paule and Mandel)."""
    x = np.log(macs)
    basis = np.vander((x - x.mean()) / x.std(), 4)
    spread = mean.var()
    for _ in range(30):
        weight = 1 / (spread + error**2)
        trend = basis @ np.linalg.solve((basis.T * weight) @ basis, basis.T @ (weight * mean))
        left = (weight * (mean - trend) ** 2).sum() - (len(mean) - basis.shape[1])
        spread = max(0.0, spread + left / (weight**2 * (mean - trend) ** 2).sum())
    share = spread / (spread + error**2)
    return trend + share * (mean - trend), error * np.sqrt(share)


def methods(rng: np.random.Generator, seeds: int, gap: float, configurations: int = 6) -> pd.DataFrame:
    """Two methods with luck per seed (1 point each), ``good`` better by ``gap``, a baseline per seed."""
    luck = rng.normal(0, 1, (2, seeds))
    rows = [
        ("trial", m, str(c), s, 80 + gap * (m == "good") + luck[i, s] + rng.normal(0, SIGMA), 10.0 * (c + 1))
        for s in range(seeds)
        for c in range(configurations)
        for i, m in enumerate(("good", "poor"))
    ]
    rows += [("baseline", None, None, s, 84.0, 100.0) for s in range(seeds)]
    df = pd.DataFrame(
        rows, columns=["kind", "prune.criterion", "prune.target", "seed", "val_accuracy", "macs"]
    )
    df["trial"], df["sweep"], df["status"] = [f"t{i}" for i in range(len(df))], "s", "complete"
    df["model"], df["level"] = df["trial"], pd.array([None] * len(df), dtype="Int64")
    df["candidate"], df["epochs"] = df["kind"] == "trial", 10.0
    df["ended"] = pd.Timestamp(0, tz="UTC")
    df.attrs.update(objectives=GOALS, chance=10.0)
    return df


def decisions(sweeps: int, seeds: int, gap: float) -> dict[str, float]:
    """How often one of two methods is called better."""
    rng = np.random.default_rng([seeds, int(10 * gap)])
    by = "prune.criterion"
    accuracy, every, volume, held = [], [], [], []
    for _ in range(sweeps):
        df = methods(rng, seeds, gap)
        found = compare.paired_tests(df, by)[0]
        pairs = compare.paired_differences(df, by, "good", "poor", "val_accuracy")
        accuracy.append(found.decided)
        held.append(found.low <= gap <= found.high if np.isfinite(found.low) else np.nan)
        every.append(paired_test(pairs["difference"], Question("good", "poor")).decided)
        volume.append(compare.compare(df, by, equal="epochs").tests[0].decided)
    answer = {
        "accuracy_decided": float(np.mean(accuracy)),
        "hypervolume_decided": float(np.mean(volume)),
        "accuracy_decided_if_every_pair_counted": float(np.mean(every)),
    }
    return answer if np.isnan(held).all() else {**answer, "interval_holds_the_truth": float(np.mean(held))}


def mattered(sweeps: int, trials: int, effect: float) -> dict[str, float]:
    """How often importance finds an effect of the target of ``effect`` points beside a noise of 1, and anything else."""
    rng = np.random.default_rng([trials, int(effect)])
    target, other, r2 = [], [], []
    for i in range(sweeps):
        df = pd.DataFrame(
            {
                "prune.target": np.round(rng.uniform(0.3, 0.95, trials), 2),
                "prune.interval": rng.integers(1, 5, trials),
                "prune.ratio": rng.choice([0.1, 0.2, 0.3, 0.4], trials),
                "prune.criterion": rng.choice(["frs", "l1", "random"], trials),
            }
        )
        loss = effect * (df["prune.target"] - 0.3) / 0.65
        df["val_accuracy"], df["candidate"] = 90 - loss + rng.normal(0, 1, trials), True
        found = importance.importance(df, seed=i).set_index("parameter")
        target.append(found.loc["prune.target", "evidence"])
        other.append(found["evidence"].drop("prune.target").any())
        r2.append(found["r2"].iloc[0])
    any_ = np.array(target) | np.array(other)
    return {
        "true_share_of_the_target": effect**2 / 12 / (effect**2 / 12 + 1),
        "median_out_of_bag_r2": float(np.median(r2)),
        "evidence_for_any": float(any_.mean()),
        "evidence_for_the_target": float(np.mean(target)),
        "evidence_for_any_other": float(np.mean(other)),
    }


def main() -> None:
    """All questions, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=50)
    record.add_out(parser)
    options = parser.parse_args()
    n = options.sweeps
    worlds = {
        "three seeds each": (3, 0, 0.5),
        "one seed, finalists confirmed on three": (1, 3, 0.5),
        "three seeds each, flat": (3, 0, 0.1),
    }
    results = {
        "sweeps": n,
        "noise": {"configurations": CONFIGS, "accuracy_std_points": SIGMA, "macs_std_share": MACS_SIGMA},
        "level": LEVEL,
        "confirmed_accuracy": {f"{fresh} fresh seeds": coverage(n, fresh) for fresh in (1, 2, 3, 5)},
        "ruled_out": {name: ruled_out(n, *how) for name, how in worlds.items()},
        "withheld_chance_to_be_on_the_front": {
            name: {"bootstrap": withheld(n, *how, False), "posterior": withheld(n, *how, True)}
            for name, how in worlds.items()
        },
        "compare": {
            f"{seeds} seeds, {gap:g} points": decisions(2 * n, seeds, gap)
            for seeds, gap in ((1, 0.0), (3, 0.0), (6, 0.0), (10, 0.0), (6, 2.0), (8, 2.0), (10, 2.0))
        },
        "importance": {
            f"{trials} trials, {effect:g} points": mattered(sweeps, trials, effect)
            for trials, effect, sweeps in (
                (24, 0.0, 2 * n), (48, 0.0, 2 * n), (24, 5.0, n // 2), (48, 2.5, n // 2), (48, 10.0, n // 2),
            )
        },
    }  # fmt: skip
    record.write(options.out, results)


if __name__ == "__main__":
    main()
