"""Snapshots trained once more: of paths that rested, went on, and went on beyond their target."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from gcp_core.checkpoint import load_model
from sweeps.commands.replay import replay
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import write_config
from sweeps.records.job import Job, Outcome, Rest, write_rest
from sweeps.records.ledger import Ledger
from sweeps.records.spool import SPOOL
from sweeps.storage.exchange import Exchange
from sweeps.storage.weights import drop, put_back, there, weights_of, why_dropped
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
    """t0000 rests at @1, goes on to its target (@3), and beyond it to 0.75 (@4); t0001 still rests at @1; t0002 rested
    there until the sweep was over.
    """
    checked = load_config(TREE, {"storage": str(tmp_path_factory.mktemp("runs"))})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    for seed in (0, 1, 2):
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
    rested = ledger.records("trial")[2]
    ledger.close(
        rested.job,
        Outcome("complete", rested.finals, weights_sha256=rested.weights_sha256, ended="paused"),
        (1.0, 1.0),
    )
    return folder


@pytest.mark.parametrize(
    ("asked", "last", "epochs"),
    [
        ("t0000@1", "t0000@1", 2),
        ("t0000@3", "t0000@3", 4),
        ("t0000", "t0000@4", 5),
        ("t0001", "t0001@1", 2),
        ("t0002", "t0002@1", 2),
    ],
)
def test_a_path_that_rested_and_went_on_comes_back_bit_by_bit(trained, asked, last, epochs):
    """And no epoch behind it is trained; a path that still rests, or rested to the end, is trained as far as it came."""
    rows: list[int] = []
    found = replay(trained, asked, report=lambda row: rows.append(row.epoch))
    assert (found.model, found.equal, found.changed, found.first_epoch) == (asked, True, [], 0)
    assert list(found.snapshots)[-1] == last
    assert rows == list(range(1, epochs + 1))


def test_weights_that_were_dropped_and_put_back_are_not_dropped_again(trained):
    file, exchange = trained / weights_of("t0000", 2), Exchange(trained)
    before = torch.load(file, weights_only=True)
    drop(exchange, "t0000", 2, "beaten")
    assert not file.exists()
    assert replay(trained, "t0000@2").restored == ["t0000@2"]
    after = load_model(file.parent).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert why_dropped(trained, "t0000", 2) == ""
    assert there(exchange, {("t0000", 2), ("t0000", 1)}) == {("t0000", 1)}, "the keeper looks at @1 alone"


def test_a_file_packed_otherwise_is_vouched_for_anew(trained, tmp_path):
    """Another version of torch may write the same tensors as other bytes."""
    file = trained / weights_of("t0000", 1)
    torch.save(
        torch.load(file, weights_only=True), tmp_path / "other.pt", _use_new_zipfile_serialization=False
    )
    drop(Exchange(trained), "t0000", 1, "beaten")
    put_back(Exchange(trained), weights_of("t0000", 1), tmp_path / "other.pt")
    load_model(file.parent)


def test_a_table_of_losses_is_compared_also_where_the_path_still_rests(trained):
    """Its epochs are in the spool: there is no outcome yet."""
    spooled = trained / "trials" / "t0001" / SPOOL
    text = spooled.read_text()
    row = json.loads(text.splitlines()[1])
    try:
        spooled.write_text(text.replace(str(row["train/loss"]), "123.0"))
        assert replay(trained, "t0001").first_epoch == 2
    finally:
        spooled.write_text(text)
