"""A sweep of paths against a sweep of single trials at equal training cost: searched against searched, with one tool.

    python -m benchmarks.search.searched --path /data/cifar10 --work W --out benchmarks/results/searched
    python -m benchmarks.search.searched --path /data/cifar10 --work W --out W/searched --smoke

``paths`` is ``gcp-sweep run configs/cifar10_quick.yaml`` without the points that the file would try first, which were
found on this data; ``singles`` is the same command with ``configs/cifar10_single.yaml``, its epochs searched, as in
``benchmarks/head_to_head/search_race.py``. Each is told to end (SIGINT) when the training that it has finished costs
``--cost`` epochs of the unpruned net; what goes beyond does not count. ``polished`` are the same paths up to an earlier
moment, and then the best models at five shares of the MACs trained on for what is left.

Cost is that of what has ended: of a path with every snapshot; a dense phase that paths share counts for each of them,
and their unpruned baseline from the start; a single trial costs the epochs that it trained itself, also where it was
stopped and led to no model. Scores and repairs are counted. Killed at any moment the same command goes on, as wall time
does not matter here. It writes ``OUT.json``, ``OUT.csv`` (every step) and ``OUT.png``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import record
from benchmarks.head_to_head import front_race, search_race
from benchmarks.head_to_head.chooser import polish, program
from benchmarks.head_to_head.picture import draw_search
from benchmarks.head_to_head.run import place_ours
from benchmarks.head_to_head.search_race import CHOSEN, POLISH, SMOKE_POLISH
from benchmarks.head_to_head.steps import (
    ANCHORS,
    Step,
    our_steps,
    polish_steps,
    reached,
    summary,
    timeline,
)
from benchmarks.record import ROOT

PATHS = ROOT / "configs" / "cifar10_quick.yaml"
SIDES = ("paths", "singles")
#: Dense epochs of a side, of a smoke run.
COST, SMOKE_COST = 300.0, 30.0
#: Parts of the cost at which fronts are read.
PARTS = (0.25, 0.5, 0.75, 1.0)
#: Seconds between two looks at what a sweep has finished.
LOOK_S = 20.0


def config_of(side: str, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The sweep of a side."""
    if side == "singles":
        return search_race.config_of(side, options, place)
    tree = yaml.safe_load(PATHS.read_text())
    if options.smoke:
        for part in ("data", "train"):
            tree[part] |= front_race.SMOKE_KEYS[part]
        tree["prune"] |= {"start": {"choice": [1, 2]}, "interval": {"choice": [1, 2]}}
    tree["search"].pop("points")
    place_ours(tree, options.path, options.seed, place)
    tree["search"] |= {"trials": search_race.TRIALS, "concurrency": options.cores, "keep": "all"}
    return tree


def run(side: str, options: argparse.Namespace, place: Path) -> None:
    """Run the sweep of a side until what it has finished costs enough, or go on with it.

    Raises:
        SystemExit: it failed, or was begun with other settings.
    """
    file, tree = place / "ours.yaml", config_of(side, options, place)
    if file.exists() and yaml.safe_load(file.read_text()) != tree:
        raise SystemExit(f"{place} was begun with other settings: use another --work")
    place.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(tree, sort_keys=False))

    def enough() -> bool:
        done = cost_of(our_steps(side, place, 0.0))
        print(f"{side}: {done:.1f} of {options.cost:g} dense epochs", flush=True)
        return done >= options.cost

    if (place / "ours").exists() and enough():
        return
    environment = {"OMP_NUM_THREADS": "1", "GCP_CACHE_DIR": str(place / "cache")}
    with (place / "log").open("a") as log:
        sweep = subprocess.Popen(
            [program("gcp-sweep"), "run", str(file)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            watch(sweep, lambda: (place / "ours").exists() and enough())
        finally:
            if sweep.poll() is None:
                sweep.send_signal(signal.SIGINT)
            sweep.wait()


def watch(sweep: subprocess.Popen[bytes], enough: Callable[[], bool]) -> None:
    """Wait until it is enough.

    Raises:
        SystemExit: the sweep ended before.
    """
    while True:
        try:
            sweep.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            if enough():
                return
        else:
            raise SystemExit(f"the sweep ended by itself, with code {sweep.returncode}")


def cost_of(steps: Sequence[Step]) -> float:
    """Dense epochs of all of them."""
    return sum(step.cost for step in steps)


def within(steps: Sequence[Step], cost: float) -> list[Step]:
    """The steps, the earliest first, that together cost at most so much."""
    found, spent = [], 0.0
    for step in sorted(steps, key=lambda one: one.seconds):
        spent += step.cost
        if spent > cost:
            break
        found.append(step)
    return found


def kept_for_polish(options: argparse.Namespace) -> float:
    """Dense epochs that the polish of ``polished`` takes at most: its epochs at every share of the MACs."""
    return (SMOKE_POLISH if options.smoke else POLISH) * sum(CHOSEN)


def polished_steps(options: argparse.Namespace, place: Path) -> list[Step]:
    """The paths that were finished before the part of the cost that is kept for the polish, and the polish."""
    paths = within(our_steps("paths", place, 0.0), options.cost - kept_for_polish(options))
    last = paths[-1].seconds
    models = [one for one in front_race.models_of_ours(place, 0.0) if one["seconds"] <= last]
    names = []
    for share in sorted(CHOSEN):
        best = front_race.chosen(models, share)
        if best is not None and (name := f"{best['trial']}@{best['level']}") not in names:
            names.append(name)
    done = {one["name"] for one in _polished(place)}
    epochs = SMOKE_POLISH if options.smoke else POLISH
    polish(place / "ours", [name for name in names if name not in done], epochs, deadline=float("inf"))
    trained = [one for one in _polished(place) if one["name"] in names]
    return [*paths, *polish_steps(trained, models)]


def _polished(place: Path) -> list[dict[str, Any]]:
    models = front_race.models_of_ours(place, 0.0, polished=True)
    return [{**one, "name": f"{one['trial']}@{one['level']}"} for one in models]


def judge(
    steps: dict[str, list[Step]], cost: float
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(the numbers of the sides at parts of the cost, the time line of each)."""
    rows = {side: _timeline(within(some, cost)) for side, some in steps.items()}
    sides: dict[str, Any] = {}
    for side, some in steps.items():
        sides[side] = {}
        for part in PARTS[-1:] if side == "polished" else PARTS:  # it was to have the whole of the cost
            by_then = within(some, part * cost)
            numbers = summary(by_then, _timeline(by_then))
            sides[side][f"after {part * cost:g} dense epochs"] = numbers
        sides[side]["models made"] = [
            {name: round(value, 4) for name, value in step.model.items()}
            for step in within(some, cost)
            if step.model is not None
        ]
    found: dict[str, Any] = {"sides": sides}
    if "singles" in rows:
        found["dense epochs to the last hypervolume of the single trials"] = {
            side: {
                name: reached(
                    rows[side],
                    f"hypervolume, {name}",
                    rows["singles"][-1][f"hypervolume, {name}"],
                    "training cost",
                )
                for name in ANCHORS
            }
            for side in rows
            if side != "polished"
        }
    return found, rows


def _timeline(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """That of a race, without the time: a sweep may have been gone on with."""
    rows = timeline(steps)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    search_race.add_options(parser)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--cost", type=float, help="dense epochs of a side (default 300, of a smoke run 30)")
    parser.add_argument("--smoke", action="store_true", help="tiny images and few epochs")
    options = parser.parse_args()
    if options.cost is None:
        options.cost = SMOKE_COST if options.smoke else COST
    return options


def main() -> None:
    """Run what is missing, judge what is there."""
    options = parse()
    begun = time.monotonic()
    steps: dict[str, list[Step]] = {}
    for side in options.sides:
        place = options.work.absolute() / side
        run(side, options, place)
        steps[side] = our_steps(side, place, 0.0)
        if side == "paths":
            steps["polished"] = polished_steps(options, place)
        print(f"{side}: there after {(time.monotonic() - begun) / 60:.0f} minutes", flush=True)
    results, rows = judge(steps, options.cost)
    results = {
        "cost": options.cost,
        "seed": options.seed,
        "kept for polish": kept_for_polish(options),
    } | results
    record.write(options.out.with_suffix(".json"), results)
    draw_search(options.out, rows, results, by="training cost")


if __name__ == "__main__":
    main()
