"""One synthetic sweep per session (24 finished trials, a baseline, one of every bad end), one with a real model, and
that model's export.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import analysis
from analysis.cli.program import main
from analysis.evidence import importance
from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from tests.analysis.models import write_model, write_path
from tests.analysis.synthetic import (
    FakePath,
    FakeTrial,
    baseline_trial,
    broken_trials,
    path_baseline,
    path_of,
    some_trials,
    write_sweep,
)
from tests.pictures import rendered, rendering

__all__ = ["rendered", "rendering"]

CONFIG = TrialConfig(
    data=DataConfig("digits", val_share=0.25),
    model=ModelConfig("vgg_tiny", 0.25),
    train=TrainConfig(epochs=1, batch_size=64),
    prune=PruneConfig(criterion="l1", interval=1, target=0.4),
)
#: Three models: after the dense phase, at 30 % and at 50 % of the MACs removed.
PATH = TrialConfig(
    data=DataConfig("digits", val_share=0.25),
    model=ModelConfig("vgg_tiny", 0.25),
    train=TrainConfig(batch_size=64, schedule="cycles"),
    prune=PruneConfig(criterion="l1", start=1, interval=1, levels=(0.3, 0.5)),
)
REMOVED = {"features.3": [0, 2, 5], "features.7": [1, 3, 4, 6]}


@pytest.fixture(scope="session", autouse=True)
def _known_chances() -> Iterator[None]:
    """What chance does to importances takes a second or two of every report: on the same numbers it is found once."""
    real = importance._chances
    known: dict[tuple[bytes, ...], np.ndarray] = {}

    def chances(x, y, draws, found, rng):
        key = (
            x.values.tobytes(),
            repr(x.columns).encode(),
            y.tobytes(),
            draws.orders.tobytes(),
            found.tobytes(),
        )
        if key not in known:
            known[key] = real(x, y, draws, found, rng)
        return known[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "_chances", chances)
        yield


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


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations of paths on two seeds, one of them confirmed on a third; with baselines. Not to be changed."""
    folder = tmp_path_factory.mktemp("sweeps") / "paths"
    trials = [
        path_of("t0000"),
        path_of("t0001", shift=-0.7, interval=4, levels=5),
        path_of("t0002", 1, shift=-0.3),
        path_of("t0003", 1, shift=-1.0, interval=4),
        path_of("c0000", 7, shift=-0.2, kind="confirm"),
    ]
    write_sweep(folder, [path_baseline(0), path_baseline(1, 96.8), *trials])
    return folder


@pytest.fixture(scope="session")
def _table_of_paths(paths: Path):
    return analysis.load(paths)


@pytest.fixture
def of_paths(_table_of_paths):
    return _table_of_paths.copy()


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one real short path, trained, and its baseline; not to be changed."""
    folder = tmp_path_factory.mktemp("walked") / "walked"
    finals = write_path(folder / "trials" / "t0000", PATH)
    base = FakeTrial("b0000", PATH.baseline(), dict(finals[0]), "baseline")
    write_sweep(folder, [base, FakePath("t0000", PATH, finals)])
    return folder


@pytest.fixture(scope="session")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of a baseline and one pruned trial that have real models with honest numbers; not to be changed."""
    folder = tmp_path_factory.mktemp("export") / "real"
    trials = []
    for name, config, kind, removed in (
        ("b0000", CONFIG.baseline(), "baseline", {}),
        ("t0000", CONFIG, "trial", REMOVED),
    ):
        trials.append(FakeTrial(name, config, write_model(folder / "trials" / name, config, removed), kind))
    write_sweep(folder, trials)
    return folder


@pytest.fixture(scope="session")
def export_run(modelled: Path, tmp_path_factory: pytest.TempPathFactory):
    """One real export over an earlier one: the folder, and what the command said with ``--json``."""
    root = tmp_path_factory.mktemp("exported")
    out = root / "out"
    out.mkdir()
    (out / "MODEL_CARD.md").write_text("an earlier export")
    command = ["export", modelled, "macs <= 100%", "--best", "accuracy", "--out", out, "--json", "--int8"]
    return out, CliRunner().invoke(main, [str(word) for word in command])
