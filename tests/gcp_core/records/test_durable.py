"""What a trial keeps, after a power cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.records.checkpoint import (
    MANIFEST,
    STATE,
    EpochCheckpoints,
    read_manifest,
    read_state,
    write_folder,
)
from gcp_core.records.results import TrialResult, read_result, write_result
from gcp_core.records.stages import StageStore
from tests.gcp_core.power_cut import PowerCut

TRIAL = TrialConfig(
    data=DataConfig("digits"), model=ModelConfig("vgg_tiny"), train=TrainConfig(epochs=2), prune=PruneConfig()
)
TENSORS = {"w": torch.arange(9.0)}


def test_a_power_cut_leaves_results_and_models_whole(tmp_path: Path, monkeypatch) -> None:
    power = PowerCut(monkeypatch)
    result = TrialResult("complete", {"val_accuracy": 90.0}, (), (), weights_sha256="abc", trained_epochs=2)
    write_result(tmp_path, TRIAL, result)
    write_folder(tmp_path / "model", STATE, TENSORS, {})
    power.strike(tmp_path)
    assert read_result(tmp_path, TRIAL) == result
    model = tmp_path / "model"
    assert torch.equal(read_state(model, read_manifest(model))["w"], TENSORS["w"])


def test_checkpoints_and_stages_that_a_power_cut_has_damaged_are_passed_over(
    tmp_path: Path, monkeypatch
) -> None:
    """They are written too often to wait for the disk, and can be trained again."""
    power = PowerCut(monkeypatch)
    checkpoints, stages = EpochCheckpoints(tmp_path / "epochs"), StageStore(tmp_path / "stages")
    checkpoints.save(1, TENSORS, {})
    stages.save("key", TENSORS, {})
    power.strike(tmp_path)
    assert checkpoints.newest() is None
    assert stages.load("key") is None
    checkpoints.save(2, TENSORS, {})
    assert checkpoints.newest() is not None


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
