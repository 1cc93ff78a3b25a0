"""A model that exists already is listed once: trials of one end, and first snapshots of shared dense phases."""

from __future__ import annotations

import pytest

import analysis
from analysis.runs.table import TWIN
from gcp_core.schema import Tag
from tests.analysis.synthetic import FakeTrial, baseline_trial, config_for, finals_of, write_sweep


def trial(name, weights, kept=0.4, seed=0, status="complete", **prune):
    config = config_for(seed, interval=1, ratio=0.2, **prune)
    return FakeTrial(name, config, finals_of(kept, 80.0), status=status, tags={Tag.WEIGHTS: weights})


@pytest.fixture
def table(tmp_path):
    write_sweep(
        tmp_path / "twins",
        [
            baseline_trial(),
            trial("t0000", "aa", target=0.7),
            trial("t0001", "aa", target=0.9),
            trial("t0002", "bb", target=0.9, kept=0.3),
            trial("t0003", "aa", target=0.8, seed=1),
            trial("t0004", "", target=0.6),
            trial("t0005", "", target=0.5),
        ],
    )
    return analysis.load(tmp_path / "twins").set_index("model", drop=False)


def test_the_first_of_equal_models_stands_for_all(table):
    assert table.loc["t0001", "same_as"] == "t0000"
    assert table.loc["t0001", "left_out"] == TWIN
    assert list(table.index[table["candidate"]]) == ["t0000", "t0002", "t0003", "t0004", "t0005"]
    assert table.attrs["left_out"] == {TWIN: ["t0001"]}


def test_a_model_that_is_left_out_stands_for_no_other(tmp_path):
    """Of three equal models the first and the last were too slow when they were measured."""
    late = ("infeasible", "complete", "infeasible")
    trials = [trial(f"t{i:04d}", "aa", target=0.7 + i / 10, status=status) for i, status in enumerate(late)]
    write_sweep(tmp_path / "s", [baseline_trial(), *trials])
    table = analysis.load(tmp_path / "s").set_index("model", drop=False)
    assert list(table.index[table["candidate"]]) == ["t0001"]
    assert table.loc[["t0000", "t0001", "t0002"], "same_as"].tolist() == ["", "", "t0001"]
    assert analysis.table.finish(table.reset_index(drop=True))["candidate"].sum() == 1


def test_another_seed_and_models_whose_weights_nobody_named_are_models_of_their_own(table):
    assert set(table.loc[["t0000", "t0002", "t0003", "t0004", "t0005"], "same_as"]) == {""}


def test_a_table_without_weights_is_read_as_before(table, tmp_path):
    file = tmp_path / "table.csv"
    table.drop(columns=["weights_sha256", "same_as", "left_out", "candidate"]).to_csv(file, index=False)
    assert analysis.load(file)["candidate"].sum() == 6
