"""Takes the courses of paths out of finished (or running) sweeps, as data for replays.

    python -m benchmarks.evidence.path_curves SWEEP_FOLDER ... [--out benchmarks/data/cifar10_quick_paths.jsonl]

The table has a header (versions, command), then a line for each baseline and for each path that came to its end: the
settings that differ between them, one entry per snapshot (level, epoch, shares removed, accuracies, training cost), and
per epoch validation accuracy (on ``train.eval_images``), MACs and seconds. Nothing is written to the sweeps; what still
runs is left out.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import DATA, header
from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from sweeps.records import spool
from sweeps.records.folder import read_config
from sweeps.records.ledger import read_records, read_snapshots

TABLE = DATA / "cifar10_quick_paths.jsonl"
_FINALS = ("macs_removed", "params_removed", "macs", "params", "val_accuracy", "test_accuracy", "train_cost")
_DIGITS = {"macs_removed": 5, "params_removed": 5, "train_cost": 3}


@dataclass(frozen=True)
class Curve:
    """One recorded path, or a baseline (``config.prune`` is None). ``snapshots``: per level, epoch and final values."""

    name: str
    point: dict[str, Any]
    config: TrialConfig
    snapshots: tuple[dict[str, float], ...]

    @property
    def dense_cost(self) -> float:
        """What its dense phase costs, in epochs of the unpruned model."""
        return self.snapshots[0]["train_cost"]

    @property
    def cost(self) -> float:
        """The whole path's."""
        return self.snapshots[-1]["train_cost"]


def record(folders: list[Path], out: Path) -> None:
    """Write the table."""
    lines: list[dict[str, Any]] = [header()]
    for folder in folders:
        config = read_config(folder)
        trials, baselines = read_records(folder, config.name, config.search.objectives)
        snapshots = read_snapshots(folder, config.name, config.search.objectives)
        for entry in [*baselines, *trials]:
            if entry.status != "complete":
                print(f"left out: {config.name} {entry.job.trial_id}, which is {entry.status}")
                continue
            taken = [
                {"level": known.snap.level, "epoch": known.snap.epoch, **rounded(known.snap.finals)}
                for known in snapshots.get(entry.job.trial_id, [])
            ]
            rows = spool.rows(Path(entry.job.folder))
            lines.append(
                {
                    "name": f"{config.name}/{entry.job.trial_id}",
                    "kind": entry.job.kind,
                    "settings": settings_of(entry.job.config),
                    "snapshots": taken or [{"level": 0, "epoch": len(rows), **rounded(entry.finals)}],
                    "accuracy": [round(row["val/accuracy"], 2) for row in rows],
                    "macs": [int(row["cost/macs"]) for row in rows],
                    "seconds": [round(row["time/epoch_s"], 2) for row in rows],
                }
            )
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines) - 1} courses -> {out.name}")


def read_curves(table: Path = TABLE) -> tuple[list[Curve], list[Curve]]:
    """(paths, baselines) of the table."""
    kinds: dict[str, list[Curve]] = {"trial": [], "baseline": []}
    for line in table.read_text().splitlines()[1:]:
        entry = json.loads(line)
        settings = entry["settings"]
        kinds[entry["kind"]].append(
            Curve(entry["name"], settings, _config(settings), tuple(entry["snapshots"]))
        )
    return kinds["trial"], kinds["baseline"]


def rounded(finals: dict[str, float]) -> dict[str, float]:
    """The final values that tables have, as far as anybody reads them."""
    return {name: round(finals[name], _DIGITS.get(name, 2)) for name in _FINALS if name in finals}


def settings_of(config: TrialConfig) -> dict[str, Any]:
    """What tells recorded paths (and baselines) apart."""
    if config.prune is None:
        return {"seed": config.seed, "epochs": config.train.epochs}
    prune = config.prune
    return {
        "seed": config.seed,
        "start": prune.start,
        "interval": prune.interval,
        "restart": config.train.restart,
        "levels": list(prune.levels),
        "criterion": prune.criterion,
    }


def _config(settings: dict[str, Any]) -> TrialConfig:
    """The parts of a trial's config that a replay asks for."""
    if "start" not in settings:
        return TrialConfig(settings["seed"], train=TrainConfig(epochs=settings["epochs"]), prune=None)
    names = ("start", "interval", "levels", "criterion")
    return TrialConfig(
        settings["seed"],
        train=TrainConfig(schedule="cycles", restart=settings["restart"], batch_size=64),
        prune=PruneConfig(min_share=0.03, **{name: settings[name] for name in names}),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="SWEEP_FOLDER")
    parser.add_argument("--out", type=Path, default=TABLE)
    args = parser.parse_args()
    record(args.folders, args.out)


if __name__ == "__main__":
    main()
