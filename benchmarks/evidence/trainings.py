"""Runs the trainings of a study (``benchmarks/evidence/studies.py``), and writes what came of them as a table.

    python -m benchmarks.evidence.trainings STUDY --data DATA --work FOLDER [--seeds 0 1 2] [--processes 2]

One process and one thread per training. Equal dense phases are trained once, and so is a training that two studies in one
folder share. Killed at any moment it goes on where it was, from the last epoch. The table
(``benchmarks/data/study_STUDY.jsonl``) has a header, then a line for every model: last-epoch values, cost in epochs of
the unpruned net. It is written when all trainings are there. What it has already stays and is not trained again, so seeds
and trainings can be added later and elsewhere; its header then has the earlier one under ``before``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.evidence.additions import Averaged, Look
from benchmarks.evidence.anew import anew
from benchmarks.evidence.path_curves import rounded
from benchmarks.evidence.studies import STUDIES, Training
from benchmarks.record import DATA, header


def table_of(study: str) -> Path:
    """Where the study's models are."""
    return DATA / f"study_{study}.jsonl"


def folder_of(seed: int, training: Training, work: Path) -> Path:
    """Where a training lies: by its name, which says nothing of the network where that is the usual one."""
    name = training.name.replace(" ", "_").replace("%", "").replace(",", "")
    network = training.config.model.name
    return work / f"seed-{seed}" / (name if network == "vgg_tiny" else f"{network}-{name}")


def train(seed: int, training: Training, work: Path) -> list[dict[str, Any]]:
    """The models of one training, as lines of the table; goes on where an earlier call was."""
    from gcp_core.records.stages import StageStore
    from gcp_core.training import run_trial
    from gcp_core.training.polish import polish

    folder = folder_of(seed, training, work)
    stages = StageStore(work / "stages")
    Averaged.newest = None  # not that of a training that this process has had before
    look = Look(training.config, folder / "averages.jsonl") if training.looks else None
    result = run_trial(training.config, checkpoint_dir=folder, stages=stages, latency=False, snapshot=look)
    about = {"seed": seed, "training": training.name}
    if not training.config.is_path:
        return [{**about, "level": None, "epoch": training.config.train.epochs, **rounded(result.finals)}]
    lines = [
        {**about, "level": taken.level, "epoch": taken.epoch, **rounded(taken.finals)}
        for taken in result.snapshots
    ]
    lines += [{**about, **line} for line in (look.lines() if look else ())]
    for level, epochs in training.polish:
        source = next(taken for taken in result.snapshots if taken.level == level)
        done = polish(training.config, source.folder, epochs, checkpoint_dir=folder).model
        lines.append({**about, "level": level, "polish": epochs, "epoch": done.epoch, **rounded(done.finals)})
    for level, length in training.anew:
        source = next(taken for taken in result.snapshots if taken.level == level)
        config = anew(training.config, source, length)
        place = folder / (f"anew-{level}" if length is None else f"anew-{level}-{length}")
        done = run_trial(config, checkpoint_dir=place, latency=False)
        assert abs(done.finals["macs_removed"] - source.finals["macs_removed"]) < 1e-9, (
            "the snapshot's widths"
        )
        lines.append(
            {**about, "level": level, "anew": True, "epoch": config.train.epochs, **rounded(done.finals)}
        )
    return lines


def read(study: str) -> list[dict[str, Any]]:
    """The models of a study's table."""
    return _lines(study)[1:]


def _lines(study: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table_of(study).read_text().splitlines()]


def kept(study: str, data: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The header and the models of the table as it is; none where there is no table.

    Raises:
        SystemExit: where it has a training that the study does not have (any more): others cannot be compared with it.
    """
    if not table_of(study).exists():
        return None, []
    header, *rows = _lines(study)
    known = {one.name for one in STUDIES[study](0, data)}
    if strange := sorted({row["training"] for row in rows} - known):
        raise SystemExit(
            f"{table_of(study).name} has trainings that the study has not ({', '.join(strange)}): "
            "move it away, and train all of the study"
        )
    return header, rows


def write(study: str, before: dict[str, Any] | None, rows: list[dict[str, Any]]) -> None:
    """Write the table whole: models in the order of their seeds, then of the study."""
    place = {one.name: number for number, one in enumerate(STUDIES[study](0, ""))}
    top = header() | {"threads": 1} | ({} if before is None else {"before": before})
    lines = [top, *sorted(rows, key=lambda row: (row["seed"], place[row["training"]]))]
    table_of(study).write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", required=True, help="folder with the parquet files of CIFAR-10")
    parser.add_argument("--work", type=Path, required=True, help="where trainings lie, to be gone on with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    before, rows = kept(args.study, args.data)
    trained = {(row["seed"], row["training"]) for row in rows}
    jobs = [
        (seed, one)
        for seed in args.seeds
        for one in STUDIES[args.study](seed, args.data)
        if (seed, one.name) not in trained
    ]
    if not jobs:
        raise SystemExit(f"{table_of(args.study).name} has all of it")
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are started
    missing = len(jobs)
    begun = time.monotonic()
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(train, seed, one, args.work): (seed, one) for seed, one in jobs}
        for number, done in enumerate(as_completed(running), 1):
            seed, one = running[done]
            if done.exception() is not None:
                # The others shall not be lost with it; the table is written when all are there.
                print(
                    f"[{number}/{len(jobs)}] failed: seed {seed}, {one.name}: {done.exception()!r}",
                    flush=True,
                )
                continue
            missing -= 1
            rows += done.result()
            last = rows[-1]
            said = f"{last['val_accuracy']:.2f} % for {last['train_cost']:.1f} dense epochs"
            minutes = (time.monotonic() - begun) / 60
            print(f"[{number}/{len(jobs)}] {minutes:.0f} min: seed {seed}, {one.name}: {said}", flush=True)
    if missing:
        raise SystemExit(f"{missing} of {len(jobs)} trainings failed: the same command goes on")
    write(args.study, before, rows)


if __name__ == "__main__":
    main()
