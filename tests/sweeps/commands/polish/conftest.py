"""Fixtures of a sweep that is polished."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import sweeps.commands.polish as command
from tests.prepared import once
from tests.sweeps.commands.polish import polishing


@pytest.fixture(scope="session")
def swept(empty_store: Path) -> Path:
    """The folder of a sweep of paths, to be polished; nobody writes there."""
    return once("paths-to-polish", lambda place: polishing.made(place, empty_store)) / "paths"


@pytest.fixture
def folder(swept: Path, tmp_path: Path) -> Path:
    """A copy of the sweep's folder."""
    return shutil.copytree(swept, tmp_path / "paths")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither MLflow nor figures, which take seconds."""
    monkeypatch.setattr(command, "_write", lambda *_: 0)
