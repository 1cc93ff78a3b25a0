"""What shared training saved in a real sweep: epochs and seconds that its trials took over instead of training them.

Reads a sweep that has been run (with ``search.share``, the default) and, for a sweep of any length on the same config,
plays one through without training (``--plan TRIALS``: TPE's proposals with imagined accuracies, random scores).

    python -m benchmarks.search.trunk_saving runs/cifar10-quick --plan 64 --out benchmarks/results/trunk_saving.json

An epoch that was taken over counts with the time it took where it was trained; its own row holds that time, except the
last one of a stretch, which counts like the one before it (or, if it stands alone, like the baseline's median epoch).
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import record, trial_logs
from sweeps.config.sweep_config import SweepConfig, check_tree
from sweeps.records.folder import read_config
from sweeps.records.job import Record, read_outcome
from sweeps.records.ledger import read_records

if TYPE_CHECKING:
    from sweeps.commands.rehearsal import Played

#: Trials at the same time in a sweep that is played.
PARALLEL = 2


def measured(folder: Path, config: SweepConfig) -> dict[str, Any]:
    """Epochs and seconds of all trials and baselines of a finished sweep, trained and taken over."""
    trials, baselines = read_records(folder, config.name, config.search.objectives, url=config.database)
    dense = statistics.median(
        row["time/epoch_s"] for record in baselines for row in read_outcome(_folder(folder, record)).history
    )
    total = {"epochs_trained": 0, "epochs_taken_over": 0, "seconds_trained": 0.0, "seconds_taken_over": 0.0}
    for trial in [*baselines, *trials]:
        outcome, log = read_outcome(_folder(folder, trial)), trial_logs.read(_folder(folder, trial))
        if outcome is None:
            continue
        taken = {epoch for attempt in log.attempts for epoch in attempt.taken_over}
        before = dense
        for row in outcome.history:
            seconds = row["time/epoch_s"]
            if row["epoch"] in taken:
                last = row["epoch"] + 1 not in taken
                total["epochs_taken_over"] += 1
                total["seconds_taken_over"] += before if last else seconds
            else:
                total["epochs_trained"] += 1
                total["seconds_trained"] += seconds
            before = seconds
    epochs = total["epochs_trained"] + total["epochs_taken_over"]
    seconds = total["seconds_trained"] + total["seconds_taken_over"]
    shares = {
        "epochs_saved": total["epochs_taken_over"] / epochs,
        "training_time_saved": total["seconds_taken_over"] / seconds,
    }
    return {"trials": len(trials), "baselines": len(baselines), **total, **shares}


def played(config: SweepConfig, trials: int, seed: int) -> dict[str, Any]:
    """The same of a sweep that TPE proposes and nobody trains, two trials at a time, without early stopping.

    Accuracies are imagined (they fall with the cube of the MACs removed, plus noise), scores are random; MACs stand for
    time, which leaves out scoring and evaluation.
    """
    from sweeps.commands.rehearsal import Rehearsal
    from sweeps.strategy.feasibility import Feasibility
    from sweeps.strategy.sampling import Proposer

    tree = {**config.tree, "search": {**config.tree["search"], "trials": trials, "sampler": "tpe"}}
    config = check_tree(tree)
    feasibility, rng = Feasibility(), random.Random(seed)
    rehearsal = Rehearsal(feasibility)

    def key(point: dict[str, Any]) -> str | None:
        trial = config.space.resolve(point, config.resources.cpus)
        return None if feasibility.impossible(trial) else trial.key()

    proposer = Proposer(config.space, config.search, trials, seed, key)
    runs: list[Played] = []
    for number in range(trials):
        if number >= PARALLEL:
            run = runs[number - PARALLEL]
            accuracy = 75 - 15 * (1 - run.final[0] / run.macs[0]) ** 3 + rng.gauss(0.0, 0.5)
            proposer.answer(number - PARALLEL, (accuracy, run.final[0]), {})
        point = proposer.propose(number)
        runs.append(rehearsal.play(config.space.resolve(point, config.resources.cpus)))
    runs.insert(0, rehearsal.play(runs[0].config.baseline()))
    seen: set[str] = set()
    cost = {"epochs": 0, "epochs_needed": 0, "macs": 0.0, "macs_needed": 0.0}
    for run in runs:
        for state, macs in zip(run.states, run.macs, strict=True):
            cost["epochs"] += 1
            cost["macs"] += macs
            if state not in seen:
                seen.add(state)
                cost["epochs_needed"] += 1
                cost["macs_needed"] += macs
    return {
        "trials": trials,
        "seed": seed,
        "epochs": cost["epochs"],
        "epochs_needed": cost["epochs_needed"],
        "epochs_saved": 1 - cost["epochs_needed"] / cost["epochs"],
        "training_macs_saved": 1 - cost["macs_needed"] / cost["macs"],
    }


def _folder(folder: Path, trial: Record) -> Path:
    return folder / "trials" / trial.job.trial_id


def main() -> None:
    """Measure, play, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument(
        "--plan", type=int, metavar="TRIALS", help="also play sweeps of this length, five seeds"
    )
    parser.add_argument("--note", default="", help="what else a reader of the record must know")
    record.add_out(parser)
    options = parser.parse_args()
    config = read_config(options.sweep)
    results = {"measured": measured(options.sweep, config)}
    results["played"] = [played(config, options.plan, seed) for seed in range(5)] if options.plan else []
    record.write(options.out, results | {"note": options.note})


if __name__ == "__main__":
    main()
