"""A whole front, from us and from two rivals without a search: same images, model, cores; wall time and training cost.

One side after the other, start-up included: a fresh process, a private Ray, images not decoded yet. Ours is ``gcp-sweep
run`` with the two paths that ``paths.yaml`` tries first, one on each core, and ``prune.repair:
least_squares`` (what our own studies on equal paths would have anybody use); the rivals are in ``rivals.py``.

    python -m benchmarks.head_to_head.front_race --path /data/cifar10 --work W --seeds 0 1 2
    python -m benchmarks.head_to_head.front_race --path /data/cifar10 --work S --smoke    # a minute or two: does it work?

A model counts from the moment it is evaluated. A side that an earlier call has brought to its end in ``--work`` is not
run again; one that was interrupted begins anew, and one of other settings is refused. Wall times mean something on a
machine that does nothing else; ``load`` in the record tells. Accuracy and training cost (in epochs of the unpruned net)
do not depend on it. Ours counts what its scores and repairs look at; the rivals' gradients for Taylor importance are not
in theirs (about 0.15 epochs of the whole path), nor is the unpruned baseline in ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks import record
from benchmarks.head_to_head.run import Ran, place_ours, rows_of, run_side
from benchmarks.yardstick import CHANCE, SHARES, SLACK, USABLE, hypervolume, summary

CONFIG = Path(__file__).with_name("paths.yaml")
SIDES = ("ours", "one_shot", "steps")
#: What each rival does; the epochs make their training cost about that of one of our paths.
RIVALS = {
    "one_shot": {
        "dense_epochs": 12,
        "tune_epochs": 3,
        "tune_rate": 0.5,
        "levels": [0.2, 0.35, 0.5, 0.65, 0.7, 0.8, 0.9, 0.95],
    },
    "steps": {
        "dense_epochs": 4,
        "tune_epochs": 6,
        "tune_rate": 1.0,
        "levels": [0.3, 0.5, 0.65, 0.8, 0.9, 0.95],
    },
}
SMOKE = {"dense_epochs": 1, "tune_epochs": 1, "levels": [0.5, 0.8]}
SMOKE_KEYS = {
    "data": {"train_images": 400, "val_images": 200},
    "train": {"eval_images": 100},
    "prune": {"start": 1, "interval": 1, "levels": [0.5, 0.8]},
}
#: No side is let run longer.
MOST_S = 2400.0
#: Of what a side is asked for: where things lie, which images the seed gives, when it began.
WHERE_AND_WHEN = {"path", "storage", "out", "started", "train_rows", "val_rows", "epoch_val"}


def config_of(options: argparse.Namespace, seed: int, work: Path) -> dict[str, Any]:
    """Our sweep: the two paths that ``paths.yaml`` tries first."""
    tree = yaml.safe_load(CONFIG.read_text())
    for part, values in (SMOKE_KEYS if options.smoke else {}).items():
        tree[part] |= values
    if options.smoke:
        tree["search"].pop("points")
    place_ours(tree, options.path, seed, work)
    tree["prune"]["repair"] = "least_squares"
    tree["search"] |= {"trials": 2, "concurrency": options.cores, "keep": "all"}
    return tree


def spec_of(side: str, options: argparse.Namespace, tree: dict[str, Any], place: Path) -> dict[str, Any]:
    """What a rival must know, but for the rows of each split and the moment of its start."""
    return {
        **RIVALS[side],
        **(SMOKE if options.smoke else {}),
        "rival": side,
        "path": tree["data"]["path"],
        "out": str(place),
        "seed": tree["seed"],
        "cores": options.cores,
        "batch_size": tree["train"]["batch_size"],
        "lr": tree["train"]["lr"],
        "min_share": tree["prune"]["min_share"],
    }


def settings_of(asked: dict[str, Any]) -> dict[str, Any]:
    """What a side was asked for, without where things lie and when it began."""
    return {
        name: settings_of(value) if isinstance(value, dict) else value
        for name, value in asked.items()
        if name not in WHERE_AND_WHEN
    }


def run(side: str, options: argparse.Namespace, seed: int, work: Path) -> None:
    """Run one side, unless an earlier call did; how it went is in ``ran.json``."""
    place = work / f"seed-{seed}" / side
    ours = side == "ours"
    tree = config_of(options, seed, place)
    asked = tree if ours else spec_of(side, options, tree, place)
    file = place / ("ours.yaml" if ours else "spec.json")
    if (place / "ran.json").exists():
        known = (yaml.safe_load if ours else json.loads)(file.read_text())
        if settings_of(known) != settings_of(asked):
            raise SystemExit(f"{place} was run with other settings: use another --work")
        return
    # What an interrupted call left would be gone on with by a new clock.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    program = [str(Path(sys.executable).with_name("gcp-sweep")), "run", str(file)]
    if ours:
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
    else:
        program = [sys.executable, str(Path(__file__).with_name("rivals.py")), str(file)]
    rows = {} if ours else rows_of(tree)

    def command(deadline: float) -> list[str]:
        if not ours:
            file.write_text(json.dumps({**rows, **asked, "started": deadline - MOST_S}))
        return program

    environment = {"OMP_NUM_THREADS": "1", "GCP_CACHE_DIR": str(place / "cache")}
    ran = run_side(command, MOST_S, place / "log", environment, stop=True)
    print(f"seed {seed}, {side}: ended {ran.ended} after {ran.seconds:.0f} s", flush=True)
    if ran.exit_code == 0:
        (place / "ran.json").write_text(json.dumps(asdict(ran)))


def models_of(side: str, place: Path) -> list[dict[str, Any]]:
    """Every finished model of a side: share left, accuracies, seconds since the start, training cost."""
    if side != "ours":
        return [json.loads(line) for line in (place / "models.jsonl").read_text().splitlines()]
    return models_of_ours(place, json.loads((place / "ran.json").read_text())["started"])


def models_of_ours(place: Path, started: float, polished: bool = False) -> list[dict[str, Any]]:
    """The same of a sweep of ours.

    Args:
        started: when the side was, in seconds since the epoch.
        polished: the polished models instead of the paths' own.
    """
    from gcp_core.records.results import snapshot_folder
    from sweeps.config.sweep_config import load_config
    from sweeps.records.ledger import reading

    objectives = load_config(yaml.safe_load((place / "ours.yaml").read_text())).search.objectives
    found = []
    with reading(place / "ours", "ours", objectives) as ledger:
        of_trials = ledger.polished() if polished else ledger.snapshots()
    for trial, taken in sorted(of_trials.items()):
        for known in taken:
            finals, trained_on = known.snap.finals, known.snap.polish
            folder = snapshot_folder(place / "ours" / "trials" / trial, known.snap.level, trained_on)
            found.append(
                {
                    "trial": trial,
                    "level": known.snap.level,
                    "left": 1 - finals["macs_removed"],
                    **{name: finals[name] for name in ("val_accuracy", "test_accuracy", "train_cost")},
                    "seconds": _written(folder) - started,
                }
            )
    return found


def _written(folder: Path) -> float:
    return max(file.stat().st_mtime for file in folder.iterdir())


def course_of(side: str, model: dict[str, Any]) -> str:
    """The training (or, for ``one_shot``, all of them) that a model is from."""
    return {"ours": model.get("trial"), "steps": model.get("importance")}.get(side) or side


def chosen(models: list[dict[str, Any]], share: float) -> dict[str, Any] | None:
    """The model at or below a share of the MACs that validation calls the best."""
    return max(
        (one for one in models if one["left"] <= share + SLACK),
        key=lambda one: one["val_accuracy"],
        default=None,
    )


def cost_of(side: str, models: list[dict[str, Any]]) -> float:
    """Training cost of all of them together, in epochs of the unpruned net."""
    if side == "one_shot":
        return sum(one["train_cost"] for one in models)  # each model's is that of its own epochs
    last: dict[str, float] = {}
    for one in models:
        course = course_of(side, one)
        last[course] = max(last.get(course, 0.0), one["train_cost"])
    return sum(last.values())


def judge(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Per side (and per course of it) what each seed reached."""
    sides: dict[str, Any] = {}
    for side in SIDES:
        seeds = {}
        for seed in options.seeds:
            place = work / f"seed-{seed}" / side
            if (place / "ran.json").exists():
                seeds[seed] = models_of(side, place)
        if not seeds:
            continue  # not among ``--sides``, or not brought to its end
        courses = sorted({course_of(side, one) for models in seeds.values() for one in models})
        for course in [None, *courses] if len(courses) > 1 else [None]:
            some = [
                [one for one in models if course in (None, course_of(side, one))] for models in seeds.values()
            ]
            rows: dict[str, Any] = {
                "seeds": sorted(seeds),
                "models": [len(models) for models in some],
                "training cost": summary([round(cost_of(side, models), 2) for models in some]),
                "seconds to the last model": summary([round(max(o["seconds"] for o in m), 1) for m in some]),
            }
            for share in SHARES:
                best = [chosen(models, share) for models in some]
                if None in best:
                    continue
                for kind in ("val", "test"):
                    name = f"{kind} accuracy at {share:.0%} of the MACs"
                    rows[name] = summary([round(one[f"{kind}_accuracy"], 2) for one in best])
            for name, bottom in (("from chance", CHANCE), ("usable", USABLE)):
                front = [[(one["left"], one["val_accuracy"]) for one in models] for models in some]
                rows[f"hypervolume, {name}"] = summary([round(hypervolume(one, bottom), 4) for one in front])
            sides[side if course is None else f"{side}: {course}"] = rows
    ran = {
        f"seed {seed}, {side}": Ran(**json.loads(file.read_text()))
        for seed in options.seeds
        for side in SIDES
        if (file := work / f"seed-{seed}" / side / "ran.json").exists()
    }
    load = {name: round(statistics.mean(how.load), 2) if how.load else None for name, how in ran.items()}
    return {"sides": sides, "rivals": RIVALS, "mean load": load}


def joined(sides: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The numbers of two records whose seeds differ: each list of seeds behind the other, means and intervals anew.

    A side that only one of them has stands as it is there. A seed that both have is refused: it would count twice.
    """
    found: dict[str, Any] = {}
    for side in {**sides, **earlier}:
        rows, before = sides.get(side), earlier.get(side)
        if rows is None or before is None:
            found[side] = rows or before
            continue
        if twice := sorted({*rows["seeds"]} & {*before["seeds"]}):
            raise SystemExit(f"{side}: the earlier record has seed {', '.join(map(str, twice))}, too")
        found[side] = {
            name: summary([*before[name]["seeds"], *row["seeds"]])
            if isinstance(row, dict)
            else [*before[name], *row]
            for name, row in rows.items()
            if name in before
        }
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--work", type=Path, required=True, help="where the sides leave what they made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--earlier", type=Path, help="a record of other seeds, to be joined with these")
    parser.add_argument("--smoke", action="store_true", help="tiny images and one epoch a step")
    record.add_out(parser)
    return parser.parse_args()


def main() -> None:
    """Run what is missing, judge what is there."""
    options = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    for seed in options.seeds:
        for side in options.sides:
            run(side, options, seed, options.work.absolute())
    results = judge(options, options.work.absolute())
    if options.earlier is not None:
        earlier = json.loads(options.earlier.read_text())
        before = earlier["results"]
        results["sides"] = joined(results["sides"], before["sides"])
        results["mean load"] = before["mean load"] | results["mean load"]
        results["machines of the earlier seeds"] = [
            *before.get("machines of the earlier seeds", ()),
            earlier["environment"],
        ]
    record.write(options.out, results)


if __name__ == "__main__":
    main()
