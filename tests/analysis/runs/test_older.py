"""Runs of older versions, which have not logged the keys that came later."""

import dataclasses

import pandas as pd
import pytest

from analysis.runs import table
from analysis.runs.fetch import Task
from analysis.runs.store import DEFAULT_OBJECTIVES, SweepRef
from gcp_core.config import TrialConfig
from gcp_core.schema import FINALS, Tag
from sweeps.config.reading import flatten
from sweeps.tracking.children import as_param
from tests.analysis.synthetic import config_for, finals_of

REF = SweepRef("1", "s", "sqlite:///nowhere.db", "1", "parent", None, DEFAULT_OBJECTIVES)
#: Keys that version 0.1.0 did not know.
LATER = (
    "data.channels", "train.restart", "train.pace", "train.penalty", "train.rewrite", "train.processes",
    "train.sync_norms", "train.compile", "train.tf32", "train.deterministic", "prune.finish", "prune.ratio_of",
    "prune.levels", "prune.allocator_options", "prune.repair", "prune.clock", "prune.method", "baseline_epochs",
)  # fmt: skip


def record(trial: str, config: TrialConfig, kept: float, *, old: bool) -> dict:
    """A finished run as it is read from MLflow; an ``old`` one has not logged the later keys."""
    params = {f"param:{path}": as_param(value) for path, value in flatten(config.to_dict()).items()}
    if old:
        params = {
            name: v for name, v in params.items() if not name.startswith(tuple(f"param:{k}" for k in LATER))
        }
    tags = {
        Tag.TRIAL_ID: trial, Tag.KIND: "trial" if config.prune else "baseline", Tag.STATUS: "complete",
        Tag.CONFIG_ID: config.config_id(),
    }  # fmt: skip
    finals = {f"metric:{FINALS[name].key}": value for name, value in finals_of(kept, 90.0).items()}
    about = {"run_id": trial, "mlflow_status": "FINISHED", "started": 0, "ended": 1000}
    return about | {f"tag:{name}": value for name, value in tags.items()} | params | finals


def read(*records: dict) -> pd.DataFrame:
    return table.tidy(pd.DataFrame(list(records)), REF, Task()).set_index("trial", drop=False)


def test_trials_that_a_newer_version_added_to_a_sweep_have_its_older_baseline():
    found = read(
        record("b0000", config_for().baseline(), 1.0, old=True),
        record("t0000", config_for(target=0.5), 0.5, old=True),
        record("t0001", config_for(target=0.7), 0.3, old=False),
    )
    assert found["baseline_trial"].tolist() == ["b0000"] * 3
    assert found.loc["t0001", "macs_kept"] == pytest.approx(0.3)
    assert table.varying(found) == ["prune.target"]


def test_a_baseline_with_a_later_setting_is_not_that_of_older_trials():
    config = config_for()
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, penalty="l1"))
    found = read(
        record("b0000", other.baseline(), 1.0, old=False),
        record("t0000", config_for(target=0.5), 0.5, old=True),
    )
    assert found.loc["t0000", "train.penalty"] == config.train.penalty
    assert found["baseline_trial"].isna().tolist() == [False, True]


def test_older_runs_have_what_later_keys_mean_and_only_in_parts_that_they_have():
    found = read(
        record("b0000", config_for().baseline(), 1.0, old=True),
        record("t0000", config_for(target=0.5), 0.5, old=True),
    )
    assert found["train.restart"].tolist() == [1.0, 1.0]
    assert found["train.tf32"].tolist() == [False, False]
    assert found["prune.clock"].isna().tolist() == [True, False]
    assert found.loc["t0000", "prune.clock"] == "interval"


def test_options_that_are_given_leave_no_empty_ones_beside_them():
    config = config_for(target=0.5, allocator="given", allocator_options={"widths": {"features.0": 8}})
    found = read(
        record("t0000", config, 0.5, old=False), record("t0001", config_for(target=0.6), 0.4, old=True)
    )
    assert found["prune.allocator_options"].isna().tolist() == [True, False]
    assert found.loc["t0000", "prune.allocator_options.widths.features.0"] == 8
