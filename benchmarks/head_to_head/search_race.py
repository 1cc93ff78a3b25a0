"""A search of 45 minutes a side: our sweep of paths against a search over single trials with other people's tools.

Same images, model, floors, targets, cores and wall time; one side after the other, start-up included: a fresh process,
a private Ray, a fresh MLflow database, images not decoded yet. ``paths`` is ``gcp-sweep run`` with
``paths.yaml``, repaired cuts and a criterion to choose, but without the settings that the file would try
first, which were found on this data; ``singles`` is the same command with ``configs/cifar10_single.yaml``, its epochs
searched; both get Ctrl-C at the deadline. ``polished`` is the sweep of ``paths`` for five ninths of the time, then the
best models at five shares of the MACs polished (``chooser.py``). ``peer`` is ``searcher.py``. A model counts if it was
finished before the deadline. The seed is one that no study has used.

    python -m benchmarks.head_to_head.search_race --path /data/cifar10 --work W --out benchmarks/results/search_race
    python -m benchmarks.head_to_head.search_race --path /data/cifar10 --work W --smoke --out W/race

What an earlier call finished is kept in ``--work`` and not run again; what has other settings is refused. Wall times mean
something on a machine that does nothing else; ``load`` in the record tells. It writes ``OUT.json``, ``OUT.csv`` and
``OUT.png``. Training cost is, on all sides, that of what has ended by then, with what scores (and repairs) have looked
at; a dense phase that paths share counts for each of them, and their unpruned baseline counts from the start.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import record
from benchmarks.head_to_head import front_race, measure
from benchmarks.head_to_head.picture import draw_search
from benchmarks.head_to_head.run import SMOKE, Ran, place_ours, rows_of, run_side
from benchmarks.record import ROOT
from benchmarks.yardstick import CHANCE, SHARES, USABLE, hypervolume
from gcp_core.cost import measure_cost
from gcp_core.models import build_model

SINGLES = ROOT / "configs" / "cifar10_single.yaml"
OF_PATHS = ("paths", "polished")
SIDES = (*OF_PATHS, "peer", "singles")
MINUTES, SMOKE_MINUTES = 45.0, 1.0
#: All sides choose among three criteria, and reach equally far down.
CRITERIA = ["frs", "l1", "taylor"]
IMPORTANCE = ["l1", "magnitude", "taylor"]
#: Single trials choose these, too.
EPOCHS, UNTIL, INTERVALS = [12, 18, 30], [0.4, 0.67], [1, 2, 3, 4]
TARGET = {"low": 0.3, "high": 0.95, "step": 0.05}
MIN_SHARE = 0.03
#: ``polished``: part of the time after which models are chosen, at which shares of the MACs, and for how many epochs they
#: are trained on.
CHOOSE_AFTER, CHOSEN, POLISH, SMOKE_POLISH = 5 / 9, [0.1, 0.2, 0.35, 0.5, 0.7], 12, 1
#: More than fit into the time.
TRIALS = 1000
ANCHORS = {"from chance": CHANCE, "usable": USABLE}
#: Batches whose gradients the peer takes for Taylor importance at an event; it does not count them itself.
TAYLOR_BATCHES = 8


@dataclass(frozen=True)
class Step:
    """What was finished at a moment: training that ended, and the model that it led to (None = it led to none).

    Attributes:
        seconds: since the side was started.
        cost: epochs of the unpruned net that the training took.
        model: ``left`` (share of the MACs), ``val_accuracy`` and ``test_accuracy`` in per cent.
    """

    seconds: float
    cost: float
    model: dict[str, float] | None


def config_of(side: str, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """A sweep of ours; the peer has its data in common with ``singles``."""
    if side in OF_PATHS:
        tree = front_race.config_of(options, options.seed, place)
        tree["search"]["trials"] = TRIALS
        tree["search"].pop("points", None)
    else:
        tree = yaml.safe_load(SINGLES.read_text())
        tree["train"]["epochs"] = {"choice": EPOCHS}
        tree["prune"] |= {"until": {"choice": UNTIL}, "finish": True}
        for part, values in (SMOKE if options.smoke else {}).items():
            tree[part] |= values
        place_ours(tree, options.path, options.seed, place)
        tree["prune"] |= {"target": TARGET, "min_share": MIN_SHARE}
        tree["search"] |= {"trials": TRIALS, "concurrency": options.cores}
    tree["prune"]["criterion"] = {"choice": CRITERIA}
    return tree


def spec_of(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The peer's search: the images of our sweeps, the same floor and targets, and what a single trial has to choose."""
    tree = config_of("singles", options, place)
    low, high, step = TARGET.values()
    return {
        **rows_of(tree),
        "path": tree["data"]["path"],
        "out": str(place),
        "seed": options.seed,
        "cores": options.cores,
        "batch_size": tree["train"]["batch_size"],
        "lr": tree["train"]["lr"],
        "min_share": MIN_SHARE,
        "target": [low, high, step],
        "space": space_of(options.smoke),
    }


def chooser_spec(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """What ``polished`` does besides the sweep."""
    epochs = SMOKE_POLISH if options.smoke else POLISH
    return {
        "config": str(place / "ours.yaml"),
        "folder": str(place / "ours"),
        "shares": CHOSEN,
        "epochs": epochs,
        "polish_s": (1 - CHOOSE_AFTER) * 60 * options.minutes,
    }


def space_of(smoke: bool) -> dict[str, list[Any]]:
    """What the peer chooses besides the target."""
    epochs, intervals = ([4], [1, 2]) if smoke else (EPOCHS, INTERVALS)
    return {"epochs": epochs, "until": UNTIL, "interval": intervals, "importance": IMPORTANCE}


def run(side: str, options: argparse.Namespace, work: Path) -> None:
    """Run one side, unless an earlier call did; how it went is in ``ran.json``."""
    place = work / side
    if (place / "ran.json").exists():
        return
    # What an interrupted call left would be gone on with by a new clock.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    scripts = {"peer": ("searcher.py", spec_of), "polished": ("chooser.py", chooser_spec)}
    script, spec_for = scripts.get(side, (None, None))
    spec = {} if spec_for is None else spec_for(options, place)
    program = [str(Path(sys.executable).with_name("gcp-sweep")), "run", str(place / "ours.yaml")]
    if side != "peer":
        (place / "ours.yaml").write_text(yaml.safe_dump(config_of(side, options, place), sort_keys=False))

    def command(deadline: float) -> list[str]:
        if script is None:
            return program
        (place / "spec.json").write_text(json.dumps(spec | {"deadline": deadline}))
        return [sys.executable, str(Path(__file__).with_name(script)), str(place / "spec.json")]

    environment = {"OMP_NUM_THREADS": "1", "GCP_CACHE_DIR": str(place / "cache")}
    ran = run_side(command, 60 * options.minutes, place / "log", environment, stop=script is None)
    print(f"{side}: ended {ran.ended} after {ran.seconds:.0f} s, code {ran.exit_code}", flush=True)
    if ran.exit_code and ran.ended == "by itself":
        raise SystemExit(f"{side} failed: see {place / 'log'}")
    (place / "ran.json").write_text(json.dumps(asdict(ran)))


def check(side: str, place: Path, options: argparse.Namespace) -> None:
    """Refuse what an earlier call ran with another seed, other cores or images, or for a shorter time.

    A later part of the time may be left out: what was finished by an earlier moment is known. Not of ``polished``, which
    would have chosen earlier.

    Raises:
        SystemExit: with what differs.
    """
    ran = Ran(**json.loads((place / "ran.json").read_text()))
    images = config_of(side, options, place)["data"]["train_images"]
    if side == "peer":
        spec = json.loads((place / "spec.json").read_text())
        known = {"--seed": spec["seed"], "--cores": spec["cores"], "images": len(spec["train_rows"])}
        seconds = spec["deadline"] - ran.started
    else:
        tree = yaml.safe_load((place / "ours.yaml").read_text())
        known = {"--seed": tree["seed"], "--cores": tree["search"]["concurrency"]}
        known["images"] = tree["data"]["train_images"]
        # One that ended by itself had all the time that it wanted.
        seconds = math.inf if ran.ended == "by itself" else ran.seconds
        if side == "polished":
            seconds = json.loads((place / "spec.json").read_text())["deadline"] - ran.started
    asked = {"--seed": options.seed, "--cores": options.cores, "images": images}
    for name, value in asked.items():
        if known[name] != value:
            raise SystemExit(f"{place} was run with {name} {known[name]}, not {value}: use another --work")
    longer = side == "polished" and seconds > 60 * options.minutes + 1
    if longer or seconds < 60 * options.minutes - 1:
        raise SystemExit(f"{place} was run for {seconds / 60:.1f} minutes: give --minutes, or another --work")


def steps_of(side: str, place: Path, seconds: float) -> list[Step]:
    """What a side finished before its deadline, the earliest first."""
    started = Ran(**json.loads((place / "ran.json").read_text())).started
    if side == "peer":
        spec = json.loads((place / "spec.json").read_text())
        epoch = math.ceil(len(spec["train_rows"]) / spec["batch_size"])
        found = list(peer_steps(place / "peer", started, TAYLOR_BATCHES / epoch))
    else:
        found = our_steps(side, place, started)
    return sorted((one for one in found if one.seconds <= seconds), key=lambda one: one.seconds)


def our_steps(side: str, place: Path, started: float) -> list[Step]:
    """What a sweep of ours has finished, in no order."""
    trials = measure.read_ours(place / "ours", started)
    found = list(baseline_steps(trials, from_the_start=side in OF_PATHS))
    if side not in OF_PATHS:
        return [*found, *trial_steps(trials, _dense())]
    models = front_race.models_of_ours(place, started)
    found += path_steps(models)
    if side == "polished":
        found += polish_steps(front_race.models_of_ours(place, started, polished=True), models)
    return found


def baseline_steps(trials: Sequence[measure.Trial], from_the_start: bool) -> Iterator[Step]:
    """The unpruned nets of a sweep of ours lead to no model.

    Args:
        from_the_start: charge them at once, ended or not: the one of paths is trained beside the first of them, and
            what these reach meanwhile has not come without it. Else when they end.
    """
    for trial in trials:
        if trial.kind != "baseline" or not trial.epochs_trained:
            continue
        if from_the_start:
            yield Step(0.0, float(trial.epochs_trained), None)
        elif trial.end_s is not None:
            yield Step(trial.end_s, float(trial.epochs_trained), None)


def peer_steps(folder: Path, started: float, looked: float) -> Iterator[Step]:
    """The trials of a Tune experiment that came to their end: ``result.json`` has one line per report.

    Args:
        looked: what the gradients of one event with Taylor importance cost, in epochs of the net as it is then.
    """
    for file in sorted(folder.glob("*/result.json")):
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        if rows and "test_accuracy" in rows[-1]:
            last = rows[-1]
            model = {name: last[name] for name in ("left", "val_accuracy", "test_accuracy")}
            cost = last["train_cost"] + looked * _left_at_events(rows)
            yield Step(last["timestamp"] - started, cost, model)


def _left_at_events(rows: Sequence[dict[str, Any]]) -> float:
    """The shares of the MACs that a trial had before its events, summed; 0 where no gradients were taken for them."""
    config = rows[0]["config"]
    if config["importance"] != "taylor":
        return 0.0
    # As in ``searcher.py``.
    last = max(int(config["until"] * config["epochs"] + 1e-9), config["interval"])
    costs = {0: 0.0} | {row["epoch"]: row["train_cost"] for row in rows}
    return sum(costs[e] - costs[e - 1] for e in range(config["interval"], last + 1, config["interval"]))


def path_steps(models: Sequence[dict[str, Any]]) -> Iterator[Step]:
    """Each snapshot has cost what its path took since the one before; a shared phase counts for each path again."""
    before: dict[str, float] = {}
    for one in sorted(models, key=lambda one: (one["trial"], one["level"])):
        cost = one["train_cost"] - before.get(one["trial"], 0.0)
        before[one["trial"]] = one["train_cost"]
        model = {name: one[name] for name in ("left", "val_accuracy", "test_accuracy")}
        yield Step(one["seconds"], cost, model)


def polish_steps(polished: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]]) -> Iterator[Step]:
    """A polished model has cost what it has cost more than the snapshot that it was."""
    before = {(one["trial"], one["level"]): one["train_cost"] for one in models}
    for one in polished:
        model = {name: one[name] for name in ("left", "val_accuracy", "test_accuracy")}
        yield Step(one["seconds"], one["train_cost"] - before[one["trial"], one["level"]], model)


def _dense() -> int:
    """Multiply-adds of the unpruned net."""
    return measure_cost(build_model("vgg_tiny", 10), torch.zeros(1, 3, 32, 32)).macs


def trial_steps(trials: Sequence[measure.Trial], dense: int) -> Iterator[Step]:
    """A trial of ours has cost the epochs that it trained itself, and its scores; one that was stopped led to no model.

    Args:
        dense: multiply-adds of the unpruned net.
    """
    for trial in trials:
        if trial.end_s is None or trial.kind != "trial":
            continue
        # Channels go at the end of an epoch: an epoch costs what was left before.
        costs = [1.0, *(1000 * macs / dense for macs in trial.macs_by_epoch[:-1])]
        cost = sum(costs[-trial.epochs_trained :]) if trial.epochs_trained else 0.0
        if trial.train_cost is not None:
            # What its scores looked at, in full also where another trial has looked for it.
            cost += max(0.0, trial.train_cost - sum(costs))
        model = None
        if trial.complete:
            model = {"left": trial.macs / dense, "val_accuracy": trial.val_accuracy}
            model["test_accuracy"] = trial.test_accuracy
        yield Step(trial.end_s, cost, model)


def timeline(steps: Sequence[Step]) -> list[dict[str, float]]:
    """A row for every step: what there was by then."""
    rows: list[dict[str, float]] = []
    models: list[tuple[float, float]] = []
    cost = 0.0
    for step in steps:
        cost += step.cost
        if step.model is not None:
            models.append((step.model["left"], step.model["val_accuracy"]))
        row = {"seconds": round(step.seconds, 1), "training cost": round(cost, 2), "models": len(models)}
        for name, bottom in ANCHORS.items():
            row[f"hypervolume, {name}"] = round(hypervolume(models, bottom), 4) if models else 0.0
        rows.append(row)
    return rows


def summary(steps: Sequence[Step], rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The numbers of one side at its end."""
    models = [step.model for step in steps if step.model is not None]
    found: dict[str, Any] = {"trainings that ended without a model": len(steps) - len(models)}
    found |= rows[-1] if rows else {}
    for name, bottom in ANCHORS.items():
        # Of the front that validation chose.
        best = [front_race.chosen(models, one["left"]) for one in models]
        values = [(one["left"], one["test_accuracy"]) for one in best if one is not None]
        found[f"hypervolume of the test accuracy, {name}"] = (
            round(hypervolume(values, bottom), 4) if values else 0.0
        )
    for share in SHARES:
        best = front_race.chosen(models, share)
        for kind in ("val", "test"):
            value = None if best is None else round(best[f"{kind}_accuracy"], 2)
            found[f"{kind} accuracy at {share:.0%} of the MACs"] = value
    return found


def reached(rows: Sequence[dict[str, float]], name: str, level: float, by: str = "seconds") -> float | None:
    """Seconds (or training cost) until the hypervolume was at least ``level``; None = never."""
    return next((row[by] for row in rows if row[f"hypervolume, {name}"] >= level), None)


def judge(
    options: argparse.Namespace, work: Path
) -> tuple[dict[str, Any], dict[str, list[dict[str, float]]]]:
    """(the numbers of all sides that have run, their time lines)."""
    seconds = 60 * options.minutes
    sides = [side for side in SIDES if (work / side / "ran.json").exists()]
    steps = {side: steps_of(side, work / side, seconds) for side in sides}
    rows = {side: timeline(steps[side]) for side in sides}
    versions = {name: metadata.version(name) for name in ("ray", "optuna", "torch-pruning", "mlflow")}
    results: dict[str, Any] = {"seconds per side": seconds, "seed": options.seed, "versions": versions}
    results |= {"peer's space": space_of(options.smoke), "targets": TARGET, "note": options.note, "sides": {}}
    for side in sides:
        ran = Ran(**json.loads((work / side / "ran.json").read_text()))
        how = {"ended": ran.ended, "exit_code": ran.exit_code, "leftovers": ran.leftovers}
        how["load"] = round(statistics.mean(ran.load), 2) if ran.load else None
        models = [
            {"seconds": round(step.seconds, 1), **{name: round(v, 4) for name, v in step.model.items()}}
            for step in steps[side]
            if step.model is not None
        ]
        results["sides"][side] = {**summary(steps[side], rows[side]), "run": how, "models made": models}
    for other in sides:
        if other in OF_PATHS or "paths" not in sides or not rows[other]:
            continue
        results[f"paths reach the last hypervolume of {other}"] = {
            name: {
                by: reached(rows["paths"], name, rows[other][-1][f"hypervolume, {name}"], by)
                for by in ("seconds", "training cost")
            }
            for name in ANCHORS
        }
    return results, rows


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every search is told: its images, where it writes, its seed, and how much of the machine it has."""
    parser.add_argument("--path", type=Path, required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--work", type=Path, required=True, help="where the sides leave what they made")
    parser.add_argument(
        "--out", type=Path, required=True, help="record, table and picture, without the suffix"
    )
    parser.add_argument("--seed", type=int, default=7, help="one that no study has used (default 7)")
    parser.add_argument("--cores", type=int, default=2, help="cores, and trials at a time (default 2)")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["paths", "peer"])
    parser.add_argument("--minutes", type=float, help="wall time of each side (default 45, of a smoke run 1)")
    parser.add_argument("--smoke", action="store_true", help="tiny images and a minute a side")
    parser.add_argument("--note", default="", help="what a reader of the record must know of these runs")
    options = parser.parse_args()
    if options.minutes is None:
        options.minutes = SMOKE_MINUTES if options.smoke else MINUTES
    return options


def main() -> None:
    """Run what is missing, judge what is there."""
    options = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    work = options.work.absolute()
    for side in SIDES:
        if (work / side / "ran.json").exists():
            check(side, work / side, options)
    for side in options.sides:
        run(side, options, work)
    results, rows = judge(options, work)
    record.write(options.out.with_suffix(".json"), results)
    draw_search(options.out, rows, results)


if __name__ == "__main__":
    main()
