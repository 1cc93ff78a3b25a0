"""Shared training in an object store (a real S3 server on loopback)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from gcp_core.records.checkpoint import EpochCheckpoints
from gcp_core.records.stages import StageStore
from sweeps.records.layout import STAGES
from sweeps.storage.exchange import Exchange, ObjectExchange
from sweeps.storage.object_stages import ObjectStages, open_stages
from sweeps.storage.objects import StoreError

STATE = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}}


@pytest.fixture
def nodes(s3: str, tmp_path: Path) -> tuple[ObjectStages, ObjectStages]:
    """Two nodes that share nothing but the store."""
    one, other = (ObjectStages(ObjectExchange(tmp_path / name, s3)) for name in ("one", "other"))
    return one, other


def test_a_stage_is_read_on_another_node_as_it_was_written(nodes):
    one, other = nodes
    assert other.load("a") is None
    one.save("a", STATE, {"epoch": 3})
    other._listed_at = float("-inf")  # as if a second had passed
    manifest, state = other.load("a")
    assert manifest["epoch"] == 3
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])


def test_of_what_was_saved_the_node_keeps_the_last_and_of_what_was_read_nothing(nodes):
    one, other = nodes
    for key in "abc":
        one.save(key, STATE, {})
    assert [folder.name for folder in one.root.iterdir()] == ["c"]
    assert other.load("a") is not None
    assert not any(file.is_file() for file in other.root.rglob("*"))


def test_the_stage_saved_last_lends_its_file_to_the_checkpoint(nodes, tmp_path):
    one, _ = nodes
    one.save("a", STATE, {})
    one.save("b", STATE, {})
    assert one.written("a") is None
    saved = one.written("b")
    folder = EpochCheckpoints(tmp_path / "epochs").save(1, STATE, {}, saved)
    assert (folder / "state.pt").stat().st_ino == saved.inode
    one.save("c", STATE, {})
    manifest, state = EpochCheckpoints(tmp_path / "epochs").newest()
    assert manifest["sha256"] == saved.sha256
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])


def test_a_stage_that_is_there_is_not_sent_again(nodes, monkeypatch):
    one, other = nodes
    one.save("a", STATE, {"by": "one"})
    monkeypatch.setattr(other._exchange.store, "write", lambda *_: pytest.fail("sent again"))
    other.save("a", STATE, {"by": "other"})
    assert one.load("a")[0]["by"] == "one"


def test_a_damaged_stage_counts_as_missing(nodes):
    one, _ = nodes
    one.save("a", STATE, {})
    one._exchange.store.write(f"{STAGES}/a.tar", b"half of it")
    assert one.load("a") is None


def test_a_store_that_is_away_costs_the_stage_and_not_the_trial(nodes, monkeypatch, caplog):
    one, _ = nodes

    def away(*_: object) -> None:
        raise StoreError("the store does not answer")

    monkeypatch.setattr(one._exchange.store, "listing", away)
    with caplog.at_level(logging.WARNING):
        one.save("a", STATE, {})
        assert one.load("a") is None
    assert [record.getMessage() for record in caplog.records] == [
        "stage not saved: the store does not answer",
        "skipped a stage: the store does not answer",
    ]


def test_the_list_is_asked_for_once_in_a_while_and_knows_what_this_node_wrote(nodes, monkeypatch):
    one, _ = nodes
    asked, listing = [], one._exchange.store.listing
    monkeypatch.setattr(one._exchange.store, "listing", lambda path: asked.append(path) or listing(path))
    now = [100.0]
    monkeypatch.setattr("sweeps.storage.object_stages.time.monotonic", lambda: now[0])
    assert not one.has("a")
    one.save("a", STATE, {})
    assert one.has("a")
    assert asked == [STAGES]
    now[0] += 60.0
    assert one.has("a")
    assert asked == [STAGES] * 2


def test_a_full_store_costs_a_save_no_request_per_stage(nodes, monkeypatch):
    """Twelve stages where ten fit: one listing, and only what goes is asked about; then there is room for two more."""
    one, other = nodes
    for number in range(10):
        one.save(f"k{number}", STATE, {})
    size = sum(one._exchange.sizes(STAGES).values()) // 10
    other.max_bytes = int(10.5 * size)
    asked = []
    for name in ("listing", "sizes", "written_at", "stamp", "remove"):
        real = getattr(other._exchange.store, name)
        monkeypatch.setattr(
            other._exchange.store,
            name,
            lambda path="", name=name, real=real: asked.append(name) or real(path),
        )
    other.save("one more", STATE, {})
    assert asked.count("listing") == 1
    assert set(asked) == {"listing", "remove"}
    assert asked.count("remove") == 3
    assert len(one._exchange.store.names(STAGES)) == 8


def test_where_everybody_sees_the_folder_the_stages_are_in_it(s3, tmp_path):
    shared = open_stages(Exchange(tmp_path))
    assert type(shared) is StageStore
    assert shared.root == tmp_path / STAGES
    assert isinstance(open_stages(ObjectExchange(tmp_path, s3)), ObjectStages)
