"""Snapshots trained once more: of paths that rested, went on, and went on beyond their target."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gcp_core.checkpoint import load_model
from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.commands.replay import replay
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import write_config
from sweeps.records.job import Job, Outcome, Rest, write_rest
from sweeps.records.ledger import Ledger
from sweeps.storage.exchange import Exchange
from sweeps.storage.weights import drop, weights_of, why_dropped
from sweeps.worker.trial import DEFAULT_RUNNER, Extra, run_job

TREE = {
    "name": "small",
    "data": {"name": "digits", "train_images": 200, "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.125},
    "train": {"schedule": "cycles", "batch_size": 50},
    "prune": {"criterion": "l1", "start": 1, "interval": 1, "ratio": 0.3, "target": 0.6},
    "search": {"trials": 2},
}


def train(ledger: Ledger, job: Job) -> Outcome:
    """A part of a path, and what the driver does with its end."""
    outcome = run_job(job, DEFAULT_RUNNER, lambda row: None, extra=Extra(snapshot=lambda snap: None))
    for snap in outcome.snapshots:
        ledger.add_snapshot(job, snap, (snap.finals["val_accuracy"], snap.finals["macs"]), {})
    if outcome.status == "paused":
        ledger.pause(job, outcome)
    else:
        ledger.close(job, outcome, (outcome.finals["val_accuracy"], outcome.finals["macs"]))
    return outcome


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """t0000 rests at @1, goes on to its target (@3), and beyond it to 0.7 (@4); t0001 still rests at @1."""
    checked = load_config(TREE, {"storage": str(tmp_path_factory.mktemp("runs"))})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    for seed in (0, 1):
        job = ledger.add("trial", dataclasses.replace(checked.space.resolve({}), seed=seed), {}, {})
        Path(job.folder).mkdir(parents=True)
        write_rest(job.folder, Rest(1, True, "for now"))
        assert train(ledger, job).status == "paused"
    job = ledger.resume(ledger.records("trial")[0].job)
    write_rest(job.folder, Rest(1, False))
    assert train(ledger, job).ended == "target"
    deeper = dataclasses.replace(job.config, prune=dataclasses.replace(job.config.prune, target=0.75))
    further = ledger.resume(dataclasses.replace(job, config=deeper))
    assert [snap.level for snap in train(ledger, further).snapshots] == [0, 1, 2, 3, 4]
    return folder


@pytest.mark.parametrize(
    ("asked", "got", "epochs"),
    [("t0000@1", "t0000@1", 2), ("t0000@3", "t0000@3", 4), ("t0000", "t0000@4", 5), ("t0001", "t0001@1", 2)],
)
def test_a_snapshot_of_a_path_that_rested_and_went_on_comes_back_bit_by_bit(trained, asked, got, epochs):
    """And no epoch behind it is trained."""
    rows: list[int] = []
    found = replay(trained, asked, report=lambda row: rows.append(row.epoch))
    assert (found.trial_id, found.equal, found.changed, found.first_epoch) == (got, True, [], 0)
    assert rows == list(range(1, epochs + 1))


def test_dropped_weights_are_put_back_and_the_manifest_vouches_for_them(trained):
    file = trained / weights_of("t0000", 2)
    before = torch.load(file, weights_only=True)
    drop(Exchange(trained), "t0000", 2, "beaten")
    assert not file.exists()
    done = CliRunner().invoke(main, ["replay", str(trained), "t0000@2", "--restore", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["restored"] == str(file)
    after = load_model(file.parent).state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert why_dropped(trained, "t0000", 2) == ""
    text = replay(trained, "t0000@2", restore=True).text()
    assert text.endswith(f"put back: {file}"), "said again where they are already"


def test_a_file_packed_otherwise_is_vouched_for_anew(trained, tmp_path):
    """Another version of torch may write the same tensors as other bytes."""
    from sweeps.storage.weights import put_back

    file = trained / weights_of("t0000", 1)
    torch.save(
        torch.load(file, weights_only=True), tmp_path / "other.pt", _use_new_zipfile_serialization=False
    )
    drop(Exchange(trained), "t0000", 1, "beaten")
    put_back(Exchange(trained), weights_of("t0000", 1), tmp_path / "other.pt")
    load_model(file.parent)


def test_what_is_no_snapshot_is_named_with_what_there_is(trained):
    with pytest.raises(
        ConfigError, match=r"t0000@7: the path has no such snapshot \(it has t0000@0 \.\. t0000@4\)"
    ):
        replay(trained, "t0000@7")
    with pytest.raises(ConfigError, match="the sweep has no trial 't0009'"):
        replay(trained, "t0009@1")
    done = CliRunner().invoke(main, ["replay", str(trained), "t0000@x"])
    assert done.exit_code == 2
    assert "the path has no such snapshot" in done.stderr
