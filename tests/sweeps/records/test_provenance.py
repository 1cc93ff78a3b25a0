"""What is recorded of where a result comes from."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import torch

from sweeps.records.job import read_outcome
from sweeps.records.ledger import Ledger
from sweeps.records.provenance import collect, differences, git_sha
from tests.sweeps.inline import config, drive, new_conductor


def test_versions_device_threads_and_code_are_recorded() -> None:
    found = collect(threads=3)
    for package in ("torch", "numpy", "ray", "optuna", "mlflow"):
        assert found[package] == importlib.metadata.version(package)
    assert found["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert found["threads"] == "3"
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert len(found["code"]) == 16
    assert found["device"]
    assert "data_digest" not in found


def test_the_datas_digest_is_the_one_beside_the_weights(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text(json.dumps({"data_digest": "abc"}))
    assert collect(1, tmp_path)["data_digest"] == "abc"
    (tmp_path / "model" / "manifest.json").write_text("{")
    assert "data_digest" not in collect(1, tmp_path)


def test_ledger_and_outcome_hold_provenance_and_the_weights_hash(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.trials": 1})
    conductor, _, _ = new_conductor(checked)
    drive(conductor)
    (record,) = Ledger(Path(checked.folder), checked.name, checked.search.objectives).records("trial")
    outcome = read_outcome(record.job.folder)
    assert record.weights_sha256 == outcome.weights_sha256 == "0" * 64
    assert record.provenance == outcome.provenance
    assert record.provenance["torch"] == importlib.metadata.version("torch")


def test_differences_name_what_decides_and_skip_what_is_unknown() -> None:
    then = {"torch": "2.15.0", "device": "A", "ray": "2.60", "threads": "1", "data_digest": "x"}
    now = {"torch": "2.14.1", "device": "A", "ray": "2.59", "threads": "2"}
    assert differences(then, now) == ["torch: 2.15.0 -> 2.14.1", "threads: 1 -> 2"]


def test_another_commit_counts_only_if_the_training_code_differs() -> None:
    then = {"git_sha": "a", "code": "1"}
    assert differences(then, {"git_sha": "b", "code": "1"}) == []
    assert differences(then, {"git_sha": "b", "code": "2"}) == [
        "digest of gcp_core's source: 1 -> 2",
        "git commit: a -> b",
    ]


def test_a_commit_is_dirty_once_a_tracked_file_changes(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(tmp_path), *words]
        subprocess.run(command, check=True, capture_output=True)

    assert git_sha(tmp_path) == "unknown"
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = git_sha(tmp_path)
    (tmp_path / "file").write_text("2")
    assert len(clean) == 40
    assert git_sha(tmp_path) == f"{clean}-dirty"
