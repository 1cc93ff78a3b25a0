"""A search of 45 minutes a side: our sweep of paths against a search over single trials with other people's tools.

Same images, model, floors, targets, cores and wall time; one side after the other, start-up included: a fresh process,
a private Ray, a fresh MLflow database, images not decoded yet. ``paths`` is ``gcp-sweep run`` with
``paths.yaml``, repaired cuts and a criterion to choose, but without the settings that the file would try
first, which were found on this data; ``singles`` is the same command with ``configs/cifar10_single.yaml``, its epochs
searched; both get Ctrl-C at the deadline. ``polished`` is the sweep of ``paths`` for five ninths of the time, then the
best models at five shares of the MACs polished (``chooser.py``). ``guide`` is no search: ``gcp-sweep run`` with three
settings that ``docs/paths.md`` recommends (they were found on this data, with other seeds), and it ends when they have.
``peer`` is ``searcher.py``. A model counts if it was finished before the deadline. The seed is one that no study has
used.

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
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from benchmarks import record
from benchmarks.head_to_head import front_race
from benchmarks.head_to_head.picture import draw_search
from benchmarks.head_to_head.run import SMOKE, Ran, place_ours, rows_of, run_side
from benchmarks.head_to_head.steps import ANCHORS, OF_PATHS, reached, steps_of, summary, timeline
from benchmarks.record import ROOT

SINGLES = ROOT / "configs" / "cifar10_single.yaml"
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
#: ``guide``: the settings of docs/paths.md, the dearest first.
GUIDE = [
    {"prune.start": 6, "prune.interval": 12, "prune.levels": [0.3, 0.5, 0.65, 0.8, 0.9, 0.95]},
    {"prune.start": 4, "prune.interval": 6, "prune.levels": [0.3, 0.5, 0.65, 0.8, 0.9, 0.95]},
    {"prune.start": 3, "prune.interval": 10, "prune.levels": [0.5, 0.8, 0.9, 0.95]},
]
#: More than fit into the time.
TRIALS = 1000


def config_of(side: str, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """A sweep of ours; the peer has its data in common with ``singles``."""
    if side in OF_PATHS:
        tree = front_race.config_of(options, options.seed, place)
        tree["search"]["trials"] = TRIALS
        tree["search"].pop("points", None)
        if side == "guide":
            guide(tree, options.smoke)
            return tree
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


def guide(tree: dict[str, Any], smoke: bool) -> None:
    """Make it a sweep of the settings of the guide, and of nothing else; of a smoke run, of one path."""
    if smoke:
        tree["search"]["trials"] = 1
        return
    for key in GUIDE[0]:
        part, name = key.split(".")
        tree[part][name] = {"choice": list({str(point[key]): point[key] for point in GUIDE}.values())}
    tree["train"]["restart"] = 1.0
    tree["search"] |= {"trials": len(GUIDE), "points": GUIDE}
    tree["search"].pop("max_path_cost")  # which leaves out the dearest


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


def overtaken(rows: Sequence[dict[str, float]], last: dict[str, float]) -> dict[str, Any]:
    """When a side has the last hypervolumes of another, by each anchor and on test."""
    found: dict[str, Any] = {}
    for anchor in ANCHORS:
        for name, kind in (
            (anchor, "hypervolume"),
            (f"{anchor}, on test", "hypervolume of the test accuracy"),
        ):
            column = f"{kind}, {anchor}"
            found[name] = {by: reached(rows, column, last[column], by) for by in ("seconds", "training cost")}
    return found


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
    for other in [side for side in sides if side not in OF_PATHS and rows[side]]:
        for side in [side for side in ("paths", "guide") if side in sides]:
            results[f"{side} reach the last hypervolume of {other}"] = overtaken(rows[side], rows[other][-1])
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
