"""Checkpoint folders that several processes write, or clear, at the same time."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gcp_core.records import checkpoint
from gcp_core.records.checkpoint import STATE, EpochCheckpoints, read_manifest, read_state, write_folder
from gcp_core.records.results import read_snapshots, snapshot_folder
from gcp_core.records.stages import StageStore

ROOT = Path(__file__).parents[3]
WRITER = """
import sys
from pathlib import Path
import torch
from gcp_core.records.checkpoint import STATE, write_folder
for number in range(int(sys.argv[2])):
    write_folder(Path(sys.argv[1]), STATE, {"w": torch.zeros(9)}, {"number": number}, durable=False)
"""


def test_two_processes_that_write_one_folder_do_not_trip_over_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "epochs" / "epoch_0003"
    command = [sys.executable, "-c", WRITER, str(folder), "200"]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert read_manifest(folder)["number"] == 199
    assert [path.name for path in folder.parent.iterdir()] == ["epoch_0003"], "nothing is left beside it"


def test_a_folder_that_another_process_puts_there_at_the_last_moment_is_replaced(
    tmp_path: Path, monkeypatch
) -> None:
    folder, real, others = tmp_path / "epoch_0001", Path.rename, [b"first", b"second"]

    def rename(source: Path, target: Path) -> Path:
        if target == folder and others:
            folder.mkdir()
            (folder / STATE).write_bytes(others.pop())
        return real(source, target)

    monkeypatch.setattr(Path, "rename", rename)
    write_folder(folder, STATE, {"w": torch.ones(3)}, {}, durable=False)
    assert read_state(folder, read_manifest(folder))["w"].tolist() == [1.0, 1.0, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0001"]


def test_checkpoints_that_another_process_clears_meanwhile_are_written_again(
    tmp_path: Path, monkeypatch
) -> None:
    """A process that lost its trial may clear the epochs once more before it notices."""
    checkpoints, real, cleared = EpochCheckpoints(tmp_path / "epochs"), checkpoint._save, []

    def save(state, path: Path) -> None:
        if not cleared:
            cleared.append(shutil.rmtree(tmp_path / "epochs"))
        real(state, path)

    monkeypatch.setattr(checkpoint, "_save", save)
    checkpoints.save(1, {"w": torch.ones(3)}, {})
    assert checkpoints.newest()[0]["epoch"] == 1


def _fresh(tmp_path: Path) -> checkpoint.Written:
    return write_folder(tmp_path / "stage", STATE, {"w": torch.ones(3)}, {}, durable=False)


def test_a_state_that_was_written_gets_a_second_name_instead_of_a_second_file(
    tmp_path: Path, monkeypatch
) -> None:
    written = _fresh(tmp_path)
    monkeypatch.setattr(checkpoint, "_save", lambda *_: pytest.fail("written again"))
    monkeypatch.setattr(checkpoint, "file_digest", lambda _: pytest.fail("hashed again"))
    folder = EpochCheckpoints(tmp_path / "epochs").save(4, {"w": torch.ones(3)}, {}, written)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "stage")  # evicted
    manifest = read_manifest(folder)
    assert (manifest["epoch"], read_state(folder, manifest)["w"].tolist()) == (4, [1.0, 1.0, 1.0])


@pytest.mark.parametrize("harm", ["evicted", "another process put its own there", "the disk knows no links"])
def test_where_the_file_cannot_be_named_again_it_is_written(tmp_path: Path, monkeypatch, harm: str) -> None:
    written, state = _fresh(tmp_path), {"w": torch.ones(3)}
    if harm == "evicted":
        shutil.rmtree(tmp_path / "stage")
    elif harm == "another process put its own there":
        write_folder(tmp_path / "stage", STATE, {"w": torch.zeros(3)}, {}, durable=False)
    else:

        def link(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    folder = EpochCheckpoints(tmp_path / "epochs").save(1, state, {}, written)
    assert read_state(folder, read_manifest(folder))["w"].tolist() == [1.0, 1.0, 1.0]
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", STATE]


def test_the_newest_epochs_are_those_with_the_highest_numbers(tmp_path: Path) -> None:
    """As text ``epoch_10000`` comes before ``epoch_9999``."""
    checkpoints = EpochCheckpoints(tmp_path / "epochs")
    for epoch in (9998, 9999, 10000, 10001):
        checkpoints.save(epoch, {"w": torch.ones(3)}, {})
        assert checkpoints.newest()[0]["epoch"] == epoch
    assert {folder.name for folder in checkpoints.root.iterdir()} == {"epoch_10000", "epoch_10001"}


def test_damaged_checkpoints_of_later_epochs_do_not_push_out_those_that_are_trained_again(
    tmp_path: Path,
) -> None:
    checkpoints, state = EpochCheckpoints(tmp_path / "epochs"), {"w": torch.ones(3)}
    for epoch in (7, 8):
        (checkpoints.save(epoch, state, {}) / STATE).write_bytes(b"")
    assert checkpoints.newest() is None
    for epoch in (1, 2, 3):
        assert checkpoints.save(epoch, state, {}).is_dir()
        assert checkpoints.newest()[0]["epoch"] == epoch
    kept = {folder.name for folder in checkpoints.root.iterdir()}
    assert kept == {"epoch_0002", "epoch_0003", "epoch_0007", "epoch_0008"}
    checkpoints.keep_newest(3)
    assert [folder.name for folder in checkpoints.root.iterdir()] == ["epoch_0003"]


def test_a_path_s_snapshots_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for level in (9, 99, 100, 101):
        about = {"snapshot": {"level": level, "epoch": 2 * level}, "finals": {}, "weights_sha256": ""}
        write_folder(snapshot_folder(tmp_path, level), STATE, {}, about, durable=False)
    write_folder(snapshot_folder(tmp_path, 99, polish=30), STATE, {}, {}, durable=False)
    assert [snapshot.level for snapshot in read_snapshots(tmp_path)] == [9, 99, 100, 101]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o007, 0o770)])
def test_folders_are_as_private_as_the_user_s_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        EpochCheckpoints(tmp_path / "epochs").save(1, {"w": torch.ones(3)}, {})
        StageStore(tmp_path / "stages").save("key", {"w": torch.ones(3)}, {})
    finally:
        os.umask(before)
    for folder in (tmp_path / "epochs" / "epoch_0001", tmp_path / "stages" / "key"):
        assert stat.S_IMODE(folder.stat().st_mode) == mode
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode & 0o666}
