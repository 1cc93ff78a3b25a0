"""Does TPE find less because it looks at 400 of more than 800 single trials (``sweeps.strategy.mirror``)?

    python -m benchmarks.search.tpe_window --out benchmarks/results/tpe_window.json

Made trials, drawn one after the other with the window, without it, and by chance; the same seeds on all sides. The
accuracy falls with what is removed, has its best rate at 0.1 and its best ratio where the target says, and noise.
Reported: the share of the box that the front dominates (of true accuracies, without the noise) after so many trials,
paired by seed; and the CPU time of an ask.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from analysis.front.pareto import dominated_volume
from benchmarks import record
from sweeps.config.search import SearchConfig
from sweeps.strategy import mirror
from sweeps.strategy.mirror import Mirror

SPACE: dict[str, BaseDistribution] = {
    "train.lr": FloatDistribution(0.01, 0.5, log=True),
    "prune.interval": IntDistribution(1, 6),
    "prune.ratio": FloatDistribution(0.05, 0.4),
    "prune.target": FloatDistribution(0.2, 0.95),
}
WORST, BEST = 60.0, 92.0
NOISE = 0.3
WINDOWED, WHOLE, CHANCE = "window of 400", "all trials", "by chance"


def truth(point: dict[str, Any]) -> tuple[float, float]:
    """Accuracy in per cent without noise, and the share of the MACs that is left."""
    removed, rate = point["prune.target"], point["train.lr"]
    wanted = 0.08 + 0.25 * removed
    accuracy = (
        BEST - 20 * removed**4 - 60 * (point["prune.ratio"] - wanted) ** 2 - 1.0 / point["prune.interval"]
    )
    return accuracy - 2.0 * np.log10(rate / 0.1) ** 2, 1 - removed


def run(kind: str, seed: int, trials: int, marks: list[int]) -> dict[str, Any]:
    """Volumes at the marks, and milliseconds of an ask in the last tenth."""
    sampler = "random" if kind == CHANCE else "tpe"
    search = SearchConfig(trials=trials, sampler=sampler, objectives={"val_accuracy": "max", "macs": "min"})
    mirror.CAPS_SINGLE["tpe"] = 10**9 if kind == WHOLE else 400
    study = Mirror(search, SPACE, trials, seed, paths=False)
    noise = random.Random(seed)
    losses, volumes, asks = [], {}, []
    for number in range(trials):
        begun = time.process_time()
        drawn = study.ask()
        study.accept(number, drawn)
        asks.append(time.process_time() - begun)
        accuracy, left = truth(drawn.params)
        losses.append([(BEST - accuracy) / (BEST - WORST), left])
        study.tell(number, [accuracy + noise.gauss(0, NOISE), left], {})
        if number + 1 in marks:
            volumes[number + 1] = round(dominated_volume(np.array(losses)), 5)
    return {"volumes": volumes, "ask_ms": round(1000 * statistics.mean(asks[-len(asks) // 10 :]), 2)}


def main() -> None:
    """Every kind with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    record.add_out(parser)
    args = parser.parse_args()
    marks = [args.trials * part // 5 for part in range(1, 6)]
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (WINDOWED, WHOLE, CHANCE)}
    for seed in range(args.seeds):
        for kind, made in runs.items():
            made.append(run(kind, seed, args.trials, marks))
            print(f"seed {seed}, {kind}: {made[-1]}", flush=True)
    means = {
        kind: {mark: round(statistics.mean(one["volumes"][mark] for one in made), 5) for mark in marks}
        for kind, made in runs.items()
    }
    behind = [
        a["volumes"][marks[-1]] - b["volumes"][marks[-1]]
        for a, b in zip(runs[WINDOWED], runs[WHOLE], strict=True)
    ]
    results = {
        "trials": args.trials,
        "seeds": args.seeds,
        "mean_volume": means,
        "window_minus_all_at_the_end": [round(one, 5) for one in behind],
        "ask_ms_last_tenth": {
            kind: round(statistics.mean(one["ask_ms"] for one in made), 2) for kind, made in runs.items()
        },
        "runs": runs,
    }
    record.write(args.out, results)


if __name__ == "__main__":
    main()
