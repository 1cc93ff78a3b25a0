"""What a power cut may leave: files that appear by a rename and must not be empty are on the disk before it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gcp_core.config import TrialConfig
from gcp_core.data.cache import cached
from gcp_core.data.digits import load_digits
from gcp_core.records.checkpoint import MANIFEST, STATE, EpochCheckpoints, save_model
from gcp_core.records.results import TrialResult, write_result


@pytest.fixture
def torn(monkeypatch) -> list[str]:
    """Names of files that were renamed, or lay in a folder that was, before they were on the disk."""
    flushed, found, real_rename, real_fsync = set(), [], Path.rename, os.fsync

    def fsync(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> Path:
        files = [source] if source.is_file() else list(source.iterdir())
        found.extend(file.name for file in files if file.stat().st_ino not in flushed)
        return real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    return found


def test_a_result_is_on_the_disk_before_it_says_that_the_trial_is_over(tmp_path, torn):
    write_result(tmp_path, TrialConfig(), TrialResult("complete", {}, (), ()))
    assert torn == []
    assert (tmp_path / "result.json").exists()


def test_a_model_is_on_the_disk_before_it_is_in_its_place(tmp_path, torn):
    save_model(tmp_path / "model", torch.nn.Linear(2, 2), {})
    assert torn == []


def test_decoded_images_are_on_the_disk_before_anybody_finds_them(tmp_path, monkeypatch, torn):
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    digits = load_digits(None)
    read = cached([tmp_path / "file"], lambda folder: digits)
    assert np.array_equal(read.train_images, digits.train_images)
    assert torn == []


@pytest.mark.parametrize("file", [STATE, MANIFEST])
@pytest.mark.parametrize("left", ["nothing", "half", "zeros"])
def test_a_checkpoint_that_a_power_cut_has_torn_is_passed_over(tmp_path, caplog, file, left):
    """Epochs do not wait for the disk; the one before is there."""
    checkpoints = EpochCheckpoints(tmp_path)
    for epoch in (1, 2):
        folder = checkpoints.save(epoch, {"w": torch.ones(300)}, {})
    whole = (folder / file).read_bytes()
    there = {"nothing": b"", "half": whole[: len(whole) // 2], "zeros": bytes(len(whole))}
    (folder / file).write_bytes(there[left])
    assert checkpoints.newest()[0]["epoch"] == 1
    assert "checkpoint passed over" in caplog.text
