"""Replay of trials whose slots are filled: repair and penalty run again, and the weights are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcp_core.methods import Method
from sweeps.commands.replay import replay
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.sweeps.inline import drive, new_conductor

OURS = "tests.oracles.fillings"
TREE = {
    "name": "slots",
    "data": {"name": "digits", "train_images": 96, "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.125},
    "train": {"batch_size": 32},
    "prune": {"criterion": "l1", "interval": 1, "ratio": 0.3, "target": 0.4, "min_channels": 1, "min_share": 0.03},
    "search": {"trials": 2, "sampler": "grid", "stopping": "none"},
}  # fmt: skip
SINGLE = {
    "train.epochs": 4,
    "prune.repair": {"choice": ["none", f"{OURS}:HalfRemoved"]},
    "train.penalty": f"{OURS}:Remembered",
    "prune.clock": f"{OURS}:EveryOther",
    "prune.clock_options": {"first": 1},
}
PATHS = {
    "train.schedule": "cycles",
    "prune.start": 2,
    "prune.method": {"choice": ["gcp", f"{__name__}:repaired"]},
    "baseline.epochs": 3,
}


def repaired() -> Method:
    slots = {"prune.repair": f"{OURS}:HalfRemoved", "train.penalty": f"{OURS}:Remembered"}
    return Method("repaired", "Repaired.", slots, "here", "all of it")


@pytest.mark.parametrize("more", [SINGLE, PATHS], ids=["single", "paths"])
def test_trials_with_filled_slots_are_replayed_bit_by_bit(tmp_path: Path, more: dict[str, object]) -> None:
    """They were trained with what they share; replay trains each alone."""
    checked = load_config(TREE, {"storage": str(tmp_path), **more})
    conductor, _, _ = new_conductor(checked)
    folder = Path(checked.folder)
    write_config(folder, checked)
    drive(conductor, DEFAULT_RUNNER)
    write_entry(folder, Entry("aaaa", checked.name, None, checked.name, "r", "d", "complete"))
    found = [replay(folder, trial) for trial in ("t0000", "t0001")]
    assert [one.text().splitlines()[0] for one in found if not one.equal] == []
    assert len({one.weights_sha256 for one in found}) == 2
