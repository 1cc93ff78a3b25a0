"""One synthetic sweep per session: 24 finished trials, a baseline, one of every bad end."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from tests.analysis.synthetic import baseline_trial, broken_trials, some_trials, write_sweep


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "synthetic"
    write_sweep(folder, [baseline_trial(), *some_trials(24), *broken_trials(24)])
    return folder


@pytest.fixture(scope="session")
def _table(sweep: Path):
    return analysis.load(sweep)


@pytest.fixture
def df(_table):
    return _table.copy()
