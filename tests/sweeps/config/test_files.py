"""Paths of what trials read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcp_core.config import TrialConfig
from sweeps.config.sweep_config import SweepConfig, load_config


def _load(**parts: Any) -> SweepConfig:
    return load_config({"name": "x", **parts})


def _first(config: SweepConfig) -> TrialConfig:
    return config.space.resolve(config.space.first())


def test_relative_paths_count_from_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Tune lets every trial work in a folder of its own, in which they would lead nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    one = _first(_load(data={"name": "parquet", "path": "cifar"}, model={"weights": "~/w.pt"}))
    assert one.data.path == f"{tmp_path}/cifar"
    assert one.model.weights == "/home/somebody/w.pt"


def test_databases_in_files_are_the_same_ones_for_whoever_reads_or_continues_the_sweep_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = _load(tracking={"uri": "sqlite:///mlflow.db"}, ledger="sqlite:///a/b.db")
    assert config.tracking.uri == config.tree["tracking"]["uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.database == f"sqlite:///{tmp_path}/a/b.db"
    for uri in (None, "http://h:5000", "sqlite:////x/mlflow.db", "postgresql://h/mlflow"):
        assert _load(tracking={"uri": uri}).tracking.uri == uri


def test_the_paths_of_a_range_are_made_whole_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = _load(data={"name": "imagefolder", "path": {"choice": ["a", "/b"]}}, model={"weights": None})
    assert config.tree["data"]["path"] == {"choice": [f"{tmp_path}/a", "/b"]}
    assert _first(config).model.weights is None


def test_a_config_that_was_written_down_means_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = _load(data={"name": "parquet", "path": "cifar"}).tree
    monkeypatch.chdir("/")
    assert load_config(written).tree == written


def test_what_a_data_set_of_ones_own_calls_its_path_may_be_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds.npz").touch()
    paths = ["birds.npz", "owner/set", "s3://bucket/set"]
    found = [_first(_load(data={"name": "my_data:birds", "path": path})).data.path for path in paths]
    assert found == [f"{tmp_path}/birds.npz", "owner/set", "s3://bucket/set"]
