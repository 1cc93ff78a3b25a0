"""What is not polished, and what is said then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gcp_core.errors import CheckpointError, ConfigError
from gcp_core.records import checkpoint
from gcp_core.records.checkpoint import read_manifest, weights_digest
from sweeps.commands.polish import polish
from sweeps.records.ledger import Ledger
from sweeps.storage.lock import run_lock
from tests.sweeps.commands.polish.polishing import call, made, weights

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["t0000@1"], ["train.epochs: there is no default", "for instance train.epochs=30"]),
        (["t0000@1", "train.epochs=0"], ["train.epochs: 0 is not a whole number >= 1"]),
        (["t0000@1", "train.epochs=2.5"], ["2.5 is not a whole number >= 1"]),
        (["t0000@1", "train.epochs=true"], ["True is not a whole number >= 1"]),
        (["t0000@1", "train.epochs={choice: [1, 2]}"], ["is not a whole number >= 1"]),
        (["t0000@1", "train.epochs=2", "train.lr=0.1"], ["train.lr: cannot be changed", "only train.epochs=N"]),
        (["t0000@1", "train.epochs"], ["is not of the form key.path=value"]),
        (["t0000", "train.epochs=2"], ["t0000: is a path: the path has 3 snapshots, t0000@0 .. t0000@2"]),
        (["t0000@9", "train.epochs=2"], ["t0000@9: there is no such snapshot: the path has 3 snapshots, t0000@0 .. "]),
        (["t0000@01", "train.epochs=2"], ["the sweep has no trial 't0000@01'"]),
        (["t0009@1", "train.epochs=2"], ["the sweep has no trial 't0009'"]),
        (["b0000", "train.epochs=2"], ["b0000: is the unpruned baseline: only snapshots of paths (t0007@3) are"]),
        (["b0000@0", "train.epochs=2"], ["b0000@0: is the unpruned baseline"]),
        (["t0000@1+2", "train.epochs=2"], ["t0000@1+2: is already polished", "polish t0000@1"]),
    ],
)  # fmt: skip
def test_what_cannot_be_polished_is_refused_with_what_can(swept, words, said):
    with run_lock(swept):
        before = sorted(path for path in swept.rglob("*"))
    done = call("polish", str(swept), *words, "--json")
    assert done.exit_code == 2, done.output
    for part in said:
        assert part in done.stderr
    assert set(json.loads(done.stdout)) == {"error", "where", "hint"}
    assert sorted(path for path in swept.rglob("*")) == before


def test_a_single_trial_is_refused(tmp_path, empty_store):
    single = {"train.schedule": "one_cycle", "train.epochs": 2, "prune.start": None, "prune.interval": 1,
              "prune.criterion": "l1", "baseline": None, "search.keep": None, "search.min_gain": None}  # fmt: skip
    folder = made(tmp_path, empty_store, **single)
    done = call("polish", str(folder), "t0000", "train.epochs=2")
    assert done.exit_code == 2
    assert "t0000: is a single trial: only snapshots of paths (t0007@3) are polished" in done.stderr


def test_a_running_sweep_is_refused_with_who_runs_it(folder):
    with run_lock(folder):
        done = call("polish", str(folder), "t0000@1", "train.epochs=2")
    assert done.exit_code == 2
    assert "another driver is running the sweep: process" in done.stderr
    assert "wait for it to end, or stop it first" in done.stderr


def test_a_polish_that_runs_is_seen_and_keeps_drivers_away(folder, quiet):
    def look(row: Any) -> None:
        with pytest.raises(ConfigError, match="another driver is running the sweep: process"):
            polish(folder, "t0000@1", 1)

    assert polish(folder, "t0000@1", 1, report=look).status == "complete"


def _other_weights(place: Path) -> None:
    """Everything beside the snapshot says that they are its own."""
    manifest, state = read_manifest(place), torch.load(place / "weights.pt", weights_only=True)
    next(iter(state.values())).zero_()
    checkpoint.write_folder(place, "weights.pt", state, {**manifest, "weights_sha256": weights_digest(state)})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: (place / "weights.pt").write_bytes(b"x" * 100), "SHA-256 differs"),
        (_other_weights, "not those that the ledger recorded"),
    ],
)
def test_a_tampered_snapshot_is_refused_before_anything_is_trained(folder, damage, said):
    damage(weights(folder, "01").parent)
    rows: list[Any] = []
    with pytest.raises(CheckpointError, match=said):
        polish(folder, "t0000@1", 2, report=rows.append)
    assert not rows
    assert not (folder / "trials" / "t0000" / "polish").exists()


def test_without_the_baseline_that_judges_it_nothing_is_trained(tmp_path, empty_store):
    folder = made(tmp_path, empty_store, **{"search.constraints": ["accuracy_drop <= 90"]})
    rows: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        real = Ledger.records
        patch.setattr(
            Ledger, "records", lambda self, kind="trial": [] if kind == "baseline" else real(self, kind)
        )
        with pytest.raises(
            ConfigError, match="accuracy_drop <= 90 needs the baseline, which has not ended yet"
        ):
            polish(folder, "t0000@1", 1, report=rows.append)
    assert not rows


def test_mlflows_database_of_another_machine_is_not_made_up(folder):
    (folder / "mlflow.db").unlink()
    rows: list[Any] = []
    with pytest.raises(ConfigError, match="the MLflow database of this sweep is not on this machine"):
        polish(folder, "t0000@1", 1, report=rows.append)
    assert not rows
