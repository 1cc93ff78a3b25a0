"""Our sweep against the sweep a good engineer would write today: same images, model, space, cores and wall time.

Each side gets the same two cores and the same minutes, one after the other, start-up included: a fresh process, a
private Ray, a fresh MLflow database, images not decoded yet. Ours is ``gcp-sweep run`` with Ctrl-C at the deadline; the
other side is ``peer.py``, which knows its own time budget. What ended after the deadline does not count.

    python -m benchmarks.head_to_head.run --path /data/cifar10 --minutes 45
    python -m benchmarks.head_to_head.run --path /data/cifar10 --smoke     # three minutes in all: does it work?

Run it from the repository's root on a machine that does nothing else. What the sides leave behind stays in ``--work``
(``--judge`` that folder to read it again). It writes ``head_to_head.json``, ``.csv`` and
``.png`` into ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import processes, record
from benchmarks.head_to_head import measure
from benchmarks.head_to_head.picture import draw
from benchmarks.record import ROOT

CONFIG = ROOT / "configs" / "cifar10_single.yaml"
#: After the deadline a side may tidy up for this long before it is told (again), and once more before it is killed.
GRACE_S = 60.0
#: What the smoke run changes: seconds per trial instead of minutes.
SMOKE = {
    "data": {"train_images": 400, "val_images": 200},
    "train": {"epochs": 4, "eval_images": 100},
    "prune": {"interval": {"choice": [1, 2]}},
}
#: What a run of short trials changes: enough of them end for the search itself to show, not only its first trials.
SHORT = {
    "data": {"train_images": 2000, "val_images": 2000},
    "train": {"epochs": 6, "eval_images": 1000},
    "prune": {"interval": {"choice": [1, 2, 3]}},
}
MINUTES, SMOKE_MINUTES = 45.0, 1.5


@dataclass(frozen=True)
class Ran:
    """How a side's time went: ``ended`` = by itself, asked, killed; ``leftovers`` = processes that needed a signal."""

    started: float
    seconds: float
    ended: str
    exit_code: int
    leftovers: int
    load: list[float]


def config_of(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Our sweep's config: the quick one with more trials than the time allows."""
    tree = yaml.safe_load(CONFIG.read_text())
    for part, values in (SMOKE if options.smoke else SHORT if options.short else {}).items():
        tree[part] |= values
    tree["prune"]["criterion"] = options.criterion
    tree["search"] |= {"trials": 1000, "concurrency": options.cores}
    place_ours(tree, options.path, options.seed, work)
    return tree


def place_ours(tree: dict[str, Any], data: Path, seed: int, place: Path) -> None:
    """Give a config of ours the name, the seed, the data and the folder of a side."""
    tree["name"], tree["seed"], tree["storage"] = "ours", seed, str(place)
    tree["data"]["path"] = str(data.absolute())


def kind_of(tree: dict[str, Any]) -> str:
    """What the files of the results have behind their name: which of the three races it is, told by the config itself."""
    for kind, changes in (("_smoke", SMOKE), ("_short", SHORT)):
        if all(tree[part].items() >= values.items() for part, values in changes.items()):
            return kind
    return ""


def rows_of(tree: dict[str, Any]) -> dict[str, list[int]]:
    """The rows of each split in the parquet files, and the validation images that are looked at after an epoch."""
    from gcp_core.training.setup import build_setup
    from sweeps.config.sweep_config import load_trial

    setup = build_setup(load_trial(tree))
    val = setup.splits.val.rows.tolist()
    places = {row: place for place, row in enumerate(val)}
    return {
        "train_rows": setup.splits.train.rows.tolist(),
        "val_rows": val,
        "epoch_val": [places[row] for row in setup.epoch_val_images.rows.tolist()],
    }


def spec_of(tree: dict[str, Any], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What the peer must have in common with us, the rows of each split included."""
    ranges = {name: tree["prune"][name] for name in ("ratio", "target")}
    return {
        "path": tree["data"]["path"],
        "out": str(work),
        "seed": options.seed,
        "cores": options.cores,
        **{name: tree["train"][name] for name in ("epochs", "batch_size", "lr")},
        "until": tree["prune"]["until"],
        "space": {
            "interval": tree["prune"]["interval"]["choice"],
            **{name: [r["low"], r["high"], r["step"]] for name, r in ranges.items()},
        },
        **rows_of(tree),
    }


def run_side(
    command: Callable[[float], list[str]], seconds: float, log: Path, environment: dict[str, str], stop: bool
) -> Ran:
    """Start a side in a process group of its own; see to it that it ends, with everything it started, also on Ctrl-C.

    ``command`` gets the deadline (seconds since the epoch). With ``stop`` the side is told at the deadline (SIGINT);
    without, it is expected to know.
    """
    started = time.time()
    deadline = started + seconds
    loads: list[float] = []
    with log.open("w") as file:
        child = subprocess.Popen(
            command(deadline),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            family = _watch(child, deadline, loads)
            ended = "by itself"
            for word, wait in (
                ("asked", 0.0 if stop else GRACE_S),
                ("asked twice", GRACE_S),
                ("killed", GRACE_S),
            ):
                family |= _watch(child, time.time() + wait, loads)
                if child.poll() is not None:
                    break
                ended = word
                child.send_signal(signal.SIGKILL if word == "killed" else signal.SIGINT)
            child.wait()
        except BaseException:
            # It has a session of its own: after Ctrl-C it would go on, beside the next call and in its folder.
            own = processes.find(child.pid)
            processes.end(processes.descendants(child.pid) | ({own} if own else set()), patience_s=0.0)
            child.wait()
            raise
    return Ran(started, time.time() - started, ended, child.returncode, processes.end(family), loads)


def _watch(child: subprocess.Popen[bytes], end: float, loads: list[float]) -> set[processes.Process]:
    """Wait for the child until ``end``; who its descendants are must be known before it is gone."""
    family: set[processes.Process] = set()
    noted = 0.0
    while child.poll() is None:
        family |= processes.descendants(child.pid)
        if time.time() - noted >= 30.0:
            noted = time.time()
            loads.append(processes.load())
        if time.time() >= end:
            break
        time.sleep(max(0.05, min(1.0, end - time.time())))
    return family


def run_ours(tree: dict[str, Any], seconds: float, work: Path) -> Ran:
    """``gcp-sweep run``, as a user would start it."""
    path = work / "ours.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    command = [str(Path(sys.executable).with_name("gcp-sweep")), "run", str(path)]
    # Decoded images are kept between sweeps as a rule; here they are not there yet, as on the other side.
    environment = {"OMP_NUM_THREADS": "1", "GCP_CACHE_DIR": str(work / "cache")}
    return run_side(lambda deadline: command, seconds, work / "ours.log", environment, stop=True)


def run_peer(spec: dict[str, Any], seconds: float, work: Path) -> Ran:
    """``peer.py``."""
    path = work / "peer.json"

    def command(deadline: float) -> list[str]:
        path.write_text(json.dumps({**spec, "deadline": deadline}))
        return [sys.executable, str(Path(__file__).with_name("peer.py")), str(path)]

    return run_side(command, seconds, work / "peer.log", {"OMP_NUM_THREADS": "1"}, stop=False)


def judge(
    ran: dict[str, Ran], tree: dict[str, Any], seconds: float, work: Path
) -> tuple[dict[str, Any], dict[str, list[dict[str, float]]]]:
    """(the numbers of both sides, their time series)."""
    epochs = tree["train"]["epochs"]
    trials = {
        "ours": measure.until(measure.read_ours(work / "ours", ran["ours"].started), seconds),
        "peer": measure.until(measure.read_peer(work / "peer", ran["peer"].started, epochs), seconds),
    }
    anchors = measure.yardstick(*reference(trials["ours"], tree))
    rows = {side: measure.series(trials[side], anchors, seconds) for side in trials}
    results: dict[str, Any] = {"anchors": anchors.describe(), "seconds_per_side": seconds, "sides": {}}
    for side in trials:
        how = {name: getattr(ran[side], name) for name in ("ended", "exit_code", "leftovers", "load")}
        results["sides"][side] = measure.summary(trials[side], rows[side], anchors, seconds) | {"run": how}
    ours, peer = rows["ours"], rows["peer"]
    results["hypervolume_ratio"] = _ratio(ours[-1]["hypervolume"], peer[-1]["hypervolume"])
    results["trials_ratio"] = _ratio(ours[-1]["trials"], peer[-1]["trials"])
    results["ours_reaches_the_peers_last_hypervolume_after_s"] = measure.reached(
        ours, peer[-1]["hypervolume"]
    )
    return results, rows


def reference(ours: list[measure.Trial], tree: dict[str, Any]) -> tuple[float, float]:
    """(validation accuracy, MACs) of the unpruned model: our sweep's first run, trained here if time ran out on it."""
    for trial in ours:
        if trial.kind == "baseline" and trial.complete:
            return trial.val_accuracy, trial.macs
    from gcp_core.training import run_trial
    from sweeps.config.sweep_config import load_trial

    print("training the unpruned model, as the sweep had no time to", flush=True)
    finals = run_trial(load_trial(tree).baseline()).finals
    return finals["val_accuracy"], finals["macs"]


def _ratio(one: float, other: float) -> float | None:
    return round(one / other, 3) if other else None


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="folder of the CIFAR-10 parquet files")
    parser.add_argument(
        "--minutes", type=float, help="wall time of each side (default 45, of a smoke run 1.5)"
    )
    parser.add_argument("--cores", type=int, default=2, help="cores, and trials at a time (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--criterion", default="l1", help="ours; the peer's is the filters' L1 norm")
    parser.add_argument("--smoke", action="store_true", help="tiny images and 1.5 minutes a side")
    parser.add_argument("--short", action="store_true", help="2,000 images and 6 epochs: trials of seconds")
    parser.add_argument("--first", choices=("ours", "peer"), default="ours", help="which side runs first")
    parser.add_argument(
        "--judge", type=Path, help="run nothing: judge what an earlier run left in this folder"
    )
    parser.add_argument("--work", type=Path, help="an empty folder for what the sides leave behind")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the results")
    options = parser.parse_args()
    if (options.path is None) == (options.judge is None):
        parser.error("give --path (run both sides) or --judge (an earlier run)")
    if options.minutes is None:
        options.minutes = SMOKE_MINUTES if options.smoke else MINUTES
    if not 0 < options.minutes <= MINUTES:
        parser.error("--minutes: above 0, at most 45")
    if options.work is not None and options.work.exists() and any(options.work.iterdir()):
        parser.error(f"--work: {options.work} is not empty")
    return options


def run_both(options: argparse.Namespace, tree: dict[str, Any], work: Path) -> dict[str, Ran]:
    """One side after the other; how it went is kept in ``ran.json`` for ``--judge``."""
    seconds = 60.0 * options.minutes
    spec = spec_of(tree, options, work)
    ran: dict[str, Ran] = {}
    for side in (options.first, "peer" if options.first == "ours" else "ours"):
        print(f"{side}: {options.minutes:g} minutes from now, log in {work / side}.log", flush=True)
        ran[side] = run_ours(tree, seconds, work) if side == "ours" else run_peer(spec, seconds, work)
        print(f"{side}: ended {ran[side].ended} after {ran[side].seconds:.0f} s", flush=True)
    kept = {"minutes": options.minutes, "sides": {side: asdict(how) for side, how in ran.items()}}
    (work / "ran.json").write_text(json.dumps(kept, indent=1))
    return ran


def main() -> None:
    """Run both sides, judge them, write numbers, series and figure."""
    options = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.judge is not None:
        work = options.judge.absolute()
        kept = json.loads((work / "ran.json").read_text())
        options.minutes = kept["minutes"]
        ran = {side: Ran(**how) for side, how in kept["sides"].items()}
        tree = yaml.safe_load((work / "ours.yaml").read_text())
    else:
        work = (options.work or Path(tempfile.mkdtemp(prefix="head-to-head-"))).absolute()
        work.mkdir(parents=True, exist_ok=True)
        tree = config_of(options, work)
        ran = run_both(options, tree, work)
    results, rows = judge(ran, tree, 60.0 * options.minutes, work)
    results["config"] = {part: tree[part] for part in ("seed", "model", "train", "prune")}
    results["config"]["data"] = {name: v for name, v in tree["data"].items() if name != "path"}
    name = f"head_to_head{kind_of(tree)}"
    record.write(options.out / f"{name}.json", results)
    draw(options.out / name, rows, results)


if __name__ == "__main__":
    main()
