"""Paths that rest: what the table, its cache and the report say of them."""

import dataclasses

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import analysis
from analysis.evidence import noise
from analysis.runs import models, store, table
from analysis.show import report, sections
from gcp_core.schema import Tag
from tests.analysis.synthetic import log_trial, path_baseline, path_of, some_trials, write_sweep

WHY = "t0001@2 promises 0.1 % of hypervolume per dense epoch, a new path 0.4; less than 0.2 is not worth it"


def sweep(folder):
    """t0000 met its target, t0001 rests, t0002 failed, t0003 was let end, t0004 rests where nobody wrote why."""
    rests = {Tag.ENDED: "paused", Tag.DECISION: WHY}
    trials = [
        dataclasses.replace(path_of("t0000"), tags={Tag.ENDED: "target", Tag.DECISION: ""}),
        dataclasses.replace(path_of("t0001", 1, levels=3, shift=-0.7), status="paused", tags=rests),
        dataclasses.replace(path_of("t0002", 2, levels=2, shift=-1), status="failed", error="ValueError: no"),
        dataclasses.replace(path_of("t0003", 3, levels=5, shift=-2), tags={Tag.ENDED: "constraint"}),
        dataclasses.replace(path_of("t0004", 4, levels=1), status="paused", tags={Tag.ENDED: "paused"}),
    ]
    write_sweep(folder, [path_baseline(0), *trials])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("resting") / "resting")


@pytest.fixture(scope="module")
def df(folder):
    return analysis.load(folder, cache=False)


def test_every_model_says_why_its_path_went_no_further(df):
    rests = df[df["trial"] == "t0001"]
    assert list(rests["model"]) == ["t0001@0", "t0001@1", "t0001@2"]
    assert set(rests["trial_status"]) == {"paused"}
    assert set(rests["path_ended"]) == {"paused"}
    assert set(rests["path_decision"]) == {WHY}
    assert set(rests["status"]) == {"complete"}
    assert rests["candidate"].all(), "a resting path's models count"
    said = df.drop_duplicates("trial").set_index("trial")[["path_ended", "path_decision"]].T.to_dict("list")
    assert said["t0000"] == ["target", ""]
    assert said["t0002"] == said["b0000"] == ["", ""]
    assert table.counts(df)["paused"] == 2
    assert models.unfinished_paths(df) == {"failed": ["t0002"]}, "resting is no way to break"


def test_a_table_file_keeps_why(df, tmp_path):
    df.to_csv(tmp_path / "trials.csv", index=False)
    again = analysis.load(tmp_path / "trials.csv")
    assert list(again["path_decision"]) == list(df["path_decision"])
    df.drop(columns=["path_ended", "path_decision"]).to_csv(tmp_path / "older.csv", index=False)
    older = analysis.load(tmp_path / "older.csv")
    assert set(older["path_ended"]) == {""}
    assert sections.paths(older) is None


def test_the_report_lists_the_paths_deepest_first_and_why_they_went_no_further(df, tmp_path):
    found = sections.paths(df)
    by_model = {row[0]: row for row in found.rows}
    assert [row[0] for row in found.rows] == ["t0000@6", "t0003@4", "t0001@2", "t0002@1", "t0004@0"]
    why = {name: row[-1] for name, row in by_model.items()}
    assert why == {
        "t0000@6": "its target is reached",
        "t0003@4": "it breaks a limit that more pruning cannot repair",
        "t0001@2": WHY,
        "t0002@1": "ValueError: no",
        "t0004@0": "it rests",
    }
    assert by_model["t0001@2"][1:3] == ["paused", "50.0 %"]
    assert sum(row[4] for row in found.rows) == len(analysis.pareto.front(df, df.attrs["objectives"]))
    page = report.write(df, tmp_path).page.read_text()
    assert "<h2>The paths</h2>" in page
    assert WHY in page


def test_single_trials_have_no_table_of_paths(tmp_path):
    write_sweep(tmp_path / "single", some_trials(3))
    single = analysis.load(tmp_path / "single")
    assert set(single["path_ended"]) == {""}
    assert sections.paths(single) is None


def test_the_cache_sees_a_resting_path_go_on_and_end(tmp_path):
    """It had ended for MLflow, and others ended after it."""
    own = sweep(tmp_path / "own")
    assert list(analysis.load(own).query("trial == 't0001'")["level"]) == [0, 1, 2]
    ref = store.find(own)
    client = MlflowClient(ref.tracking_uri)
    records = store.read_records(ref)
    path = records.loc[records["tag:mlflow.runName"] == "t0001", "run_id"].iloc[0]
    whole = path_of("t0001", 1, shift=-0.7)
    tags = {Tag.SWEEP_NAME: ref.name, Tag.SWEEP_ID: ref.id, Tag.SCHEMA: "1"}
    client.update_run(path, status="RUNNING")
    client.set_tag(path, Tag.STATUS, "running")
    log_trial(client, ref.experiment_id, path, whole.snapshot(3), tags, 1_699_999_000_000)
    rows = analysis.load(own).query("trial == 't0001'")
    assert (list(rows["level"]), set(rows["trial_status"])) == ([0, 1, 2, 3], {"running"})
    for name, value in ((Tag.STATUS, "complete"), (Tag.ENDED, "target"), (Tag.DECISION, "")):
        client.set_tag(path, name, value)
    client.set_terminated(path, "FINISHED", end_time=1_800_000_000_000)
    again = analysis.load(own)
    rows = again.query("trial == 't0001'")
    assert (set(rows["trial_status"]), set(rows["path_ended"])) == ({"complete"}, {"target"})
    pd.testing.assert_frame_equal(again, analysis.load(own, cache=False))


def test_a_confirmed_path_that_was_cut_short_confirms_the_snapshots_of_the_deeper_one(tmp_path):
    """Its cap on the epochs (and a target that was raised since) is no part of what names a configuration."""
    path, fresh = path_of("t0000"), path_of("c0000", 7, levels=4, shift=-0.2, kind="confirm")
    assert path.config.train.epochs is None
    cut = dataclasses.replace(fresh.config, train=dataclasses.replace(fresh.config.train, epochs=22))
    other = path_of("c0001", 8, levels=4, shift=-0.4, kind="confirm")
    runs = [path, dataclasses.replace(fresh, config=cut), dataclasses.replace(other, config=other.config)]
    write_sweep(tmp_path / "cut", [path_baseline(0), path_baseline(7), path_baseline(8), *runs])
    df = analysis.load(tmp_path / "cut", cache=False)
    confirmed = {one.model: one for one in noise.confirmations(df)}
    assert set(confirmed) == {f"t0000@{level}" for level in range(4)}
    assert {one.n for one in confirmed.values()} == {2}
    assert confirmed["t0000@3"].drop == pytest.approx(0.3)
    assert set(df.loc[df["trial"] == "c0000", "baseline_trial"]) == {"b0007"}
