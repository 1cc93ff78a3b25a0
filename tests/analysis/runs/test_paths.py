"""A path in the table: a row per snapshot, whatever became of the path; found quickly, cached, and nothing twice."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import analysis
from analysis.runs import models, store, table
from gcp_core.errors import ConfigError
from gcp_core.schema import Tag
from tests.analysis.synthetic import (
    FakePath,
    FakeTrial,
    baseline_trial,
    log_run,
    log_trial,
    path_baseline,
    path_of,
    some_trials,
    write_sweep,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of one path, one that failed after three snapshots, one without any, a single trial, baselines."""
    folder = tmp_path_factory.mktemp("paths") / "paths"
    failed = dataclasses.replace(
        path_of("t0002", 2, levels=3), status="failed", error="ModelError: no channels"
    )
    early = dataclasses.replace(path_of("t0003", 3, levels=0), status="diverged", error="loss is nan")
    strict = dataclasses.replace(path_of("t0001", 1, shift=-0.5), infeasible=(5, 6))
    confirm = path_of("c0000", 7, kind="confirm")
    single = some_trials(1, first=4)
    twin = dataclasses.replace(baseline_trial(), trial="b0002")
    write_sweep(
        folder,
        [path_baseline(0), path_baseline(1), twin, path_of("t0000"), strict, failed, early, *single, confirm],
    )
    return folder


@pytest.fixture
def df(folder):
    return analysis.load(folder)


def test_a_path_is_a_row_per_snapshot_and_a_single_trial_is_its_own_model(df):
    rows = df[df["trial"] == "t0000"]
    assert list(rows["model"]) == [f"t0000@{level}" for level in range(7)]
    assert list(rows["level"]) == list(range(7))
    assert df["level"].dtype == "Int64"
    assert set(rows["kind"]) == {"trial"}
    assert rows["train_cost"].iloc[0] == 4.0
    assert rows["train_cost"].is_monotonic_increasing
    single = df[df["trial"] == "t0004"].iloc[0]
    assert single["model"] == "t0004"
    assert pd.isna(single["level"])
    assert not df["model"].duplicated().any()
    assert set(df.loc[df["trial"] == "c0000", "kind"]) == {"confirm"}
    assert (df["trial"] == "c0000").sum() == 7


def test_what_became_of_a_path_does_not_hide_its_finished_snapshots(df):
    rows = df[df["trial"] == "t0002"]
    assert list(rows["model"]) == ["t0002@0", "t0002@1", "t0002@2"]
    assert rows["candidate"].all()
    assert set(rows["status"]) == {"complete"}
    assert set(rows["trial_status"]) == {"failed"}
    assert set(rows["error"]) == {"ModelError: no channels"}
    assert models.unfinished_paths(df) == {"failed": ["t0002"]}


def test_a_path_without_a_snapshot_stays_with_its_status(df):
    row = df[df["trial"] == "t0003"].iloc[0]
    assert (row["model"], row["status"], row["candidate"]) == ("t0003", "diverged", False)
    assert df.attrs["left_out"] == {
        "infeasible: trained or refused, violates a constraint": ["t0001@5", "t0001@6"],
        "diverged: the loss was not finite": ["t0003"],
    }


def test_trials_are_counted_once_and_their_models_beside_them(df):
    assert table.counts(df) == {
        "trials": 5, "models": 7 + 7 + 3 + 1 + 1, "candidates": 7 + 5 + 3 + 1, "complete": 3, "diverged": 1, "failed": 1,
        "baselines": 3, "confirms": 1,
    }  # fmt: skip


def test_a_path_is_paired_with_the_baseline_of_about_its_own_compute(df):
    rows = df.set_index("model")
    assert rows.loc["t0000@3", "baseline_trial"] == "b0000"
    assert rows.loc["t0000@3", "baseline_val_accuracy"] == 97.0
    assert rows.loc["t0001@3", "baseline_trial"] == "b0001"
    assert rows.loc["t0000@3", "accuracy_drop"] == pytest.approx(97.0 - rows.loc["t0000@3", "val_accuracy"])
    assert rows.loc["t0000@3", "macs_kept"] == pytest.approx(0.35)
    # The single trial has a twin that trains as it does, in the same sweep and seed.
    assert rows.loc["t0004", "baseline_trial"] == "b0002"
    assert np.isnan(rows.loc["t0002@0", "baseline_macs"]), "there is no baseline with seed 2"


def test_of_several_baselines_a_path_takes_the_one_of_the_length_that_it_names(tmp_path):
    short = path_of("t0000", start=8)
    short.config = dataclasses.replace(short.config, baseline_epochs=None)
    of_short = dataclasses.replace(path_baseline(0, 95.0, short), trial="b0001")
    write_sweep(tmp_path / "two", [path_baseline(), of_short, short, path_of("t0001")])
    rows = analysis.load(tmp_path / "two").set_index("model")
    assert of_short.config.train.epochs == 8
    assert rows.loc["t0000@2", "baseline_trial"] == "b0001"
    assert rows.loc["t0001@2", "baseline_trial"] == "b0000"
    again = analysis.load([tmp_path / "two", tmp_path / "two"])
    assert set(again.loc[again["trial"] == "t0000", "baseline_trial"]) == {"b0001"}


def test_a_name_that_the_path_has_not_is_answered_with_those_it_has(df):
    assert models.row_of(df, "t0000@6")["level"] == 6
    for name, said in (
        ("t0000@9", r"t0000@9: the path has 7 snapshots, t0000@0 \.\. t0000@6"),
        ("t0000", r"t0000: is a path with 7 snapshots, t0000@0 \.\. t0000@6"),
        ("t0004@1", "t0004@1: is not a path, or has no snapshot yet"),
        ("t9999@1", "t9999@1: no such model"),
    ):
        with pytest.raises(ConfigError, match=said):
            models.row_of(df, name)


def test_what_a_snapshot_added_sums_up_to_what_the_path_took(df):
    hours = models.added(df, df["device_hours"])
    took = df.groupby("trial")["device_hours"].max().dropna()
    assert {"t0000", "t0001", "t0004"} <= set(took.index)
    for trial, whole in took.items():
        assert hours[df["trial"] == trial].sum() == pytest.approx(whole), trial
    assert (hours.dropna() > 0).all()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_paths_survives_a_file(df, tmp_path, kind):
    file = tmp_path / f"table.{kind}"
    df.to_csv(file, index=False) if kind == "csv" else df.to_parquet(file)
    again = analysis.load(file)
    for column in ("model", "trial", "level", "kind", "trial_status", "candidate", "baseline_trial"):
        assert [str(v) for v in again[column]] == [str(v) for v in df[column]], column


# --- reading --------------------------------------------------------------------------------------------------------


def grown(folder, trial: FakeTrial | FakePath, start: int) -> None:
    """Log one more trial into a sweep."""
    ref = store.find(folder)
    tags = {Tag.SWEEP_NAME: ref.name, Tag.SWEEP_ID: ref.id, Tag.SCHEMA: "1"}
    log_run(MlflowClient(ref.tracking_uri), ref.experiment_id, ref.parent_run_id, trial, tags, start)


@pytest.fixture
def own(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "own")
    shutil.rmtree(copy / ".analysis", ignore_errors=True)
    return copy


def test_the_cache_gives_the_same_table_of_paths(own):
    direct = analysis.load(own, cache=False)
    for _ in range(2):
        pd.testing.assert_frame_equal(analysis.load(own), direct)


def test_the_cache_sees_snapshots_that_ended_before_the_last_trial_that_it_knew(own):
    """A path of another worker: its snapshots are older than a trial in the cache, but reached MLflow later."""
    before = len(analysis.load(own))
    running = dataclasses.replace(path_of("t0005", 5, levels=2), status="running")
    grown(own, running, start=1_700_000_000_000)
    assert set(analysis.load(own)["model"]) >= {"t0005@0", "t0005@1"}
    pd.testing.assert_frame_equal(analysis.load(own), analysis.load(own, cache=False))
    assert len(analysis.load(own)) == before + 2


def test_the_cache_sees_a_path_grow_and_end(own):
    """Nothing but a running path and its first snapshots, then the rest of it."""
    fresh = own.parent / "growing"
    write_sweep(fresh, [dataclasses.replace(path_of("t0000", levels=2), status="running")])
    assert list(analysis.load(fresh)["model"]) == ["t0000@0", "t0000@1"]
    ref = store.find(fresh)
    client = MlflowClient(ref.tracking_uri)
    records = store.read_records(ref)
    path = records.loc[records["tag:kind"] == "trial", "run_id"].iloc[0]
    whole = path_of("t0000")
    tags = {Tag.SWEEP_NAME: ref.name, Tag.SWEEP_ID: ref.id, Tag.SCHEMA: "1"}
    log_trial(client, ref.experiment_id, path, whole.snapshot(2), tags, 1_699_999_000_000)
    assert list(analysis.load(fresh)["level"]) == [0, 1, 2]
    log_trial(client, ref.experiment_id, path, whole.snapshot(3), tags, 1_699_999_100_000)
    client.set_tag(path, Tag.STATUS, "complete")
    client.set_terminated(path, "FINISHED", end_time=1_700_000_090_000)
    again = analysis.load(fresh)
    assert list(again["level"]) == [0, 1, 2, 3]
    assert set(again["trial_status"]) == {"complete"}
    pd.testing.assert_frame_equal(again, analysis.load(fresh, cache=False))


def test_the_cache_sees_a_trial_that_ended_before_a_snapshot_that_it_knew(own):
    """What is newest is said by trials: the snapshots of a running path end while others are still to be written."""
    analysis.load(own)
    running = dataclasses.replace(path_of("t0005", 5, levels=2), status="running")
    grown(own, running, start=1_800_000_000_000)
    analysis.load(own)
    grown(own, some_trials(1, first=6)[0], start=1_700_009_000_000)
    assert "t0006" in set(analysis.load(own)["model"])


def test_a_path_that_was_deleted_takes_its_snapshots_with_it_and_brings_them_back(own):
    df = analysis.load(own)
    client = MlflowClient(store.find(own).tracking_uri)
    snapshot = df.set_index("model").loc["t0001@2", "run_id"]
    path = client.get_run(df.set_index("model").loc["t0000@0", "run_id"]).data.tags[Tag.PARENT]
    client.delete_run(path)
    client.delete_run(snapshot)
    again = analysis.load(own)
    assert set(df["model"]) - set(again["model"]) == {"t0001@2", *(f"t0000@{k}" for k in range(7))}
    pd.testing.assert_frame_equal(again, analysis.load(own, cache=False))
    client.restore_run(path)
    client.restore_run(snapshot)
    pd.testing.assert_frame_equal(analysis.load(own), df)


def test_a_whole_sweep_is_two_queries_however_many_paths_it_has(own, monkeypatch):
    asked = []
    runs = store._runs
    monkeypatch.setattr(
        store, "_runs", lambda c, e, query, view: asked.append(query) or runs(c, e, query, view)
    )
    records = store.read_records(store.find(own))
    assert len(asked) == 2
    assert len(models.model_records(records)) == len(records) - 4, (
        "the runs of four paths give way to their snapshots"
    )


@pytest.mark.parametrize(("known", "requests"), [(0, 1), (3000, 30), (2900, 1)])
def test_of_a_large_sweep_only_the_snapshots_of_paths_that_run_are_read_again(monkeypatch, known, requests):
    """Thirty paths run: a request for each, where reading all models of the sweep would take longer than that."""
    asked = []
    data = SimpleNamespace(metrics={}, params={"train.schedule": "cycles"}, tags={})

    def runs(client, experiments, query, view):
        asked.append(query)
        if "status = 'RUNNING'" in query:
            for n in range(30):
                info = SimpleNamespace(run_id=f"r{n}", status="RUNNING", start_time=0, end_time=None)
                yield SimpleNamespace(info=info, data=data)

    monkeypatch.setattr(store, "client_for", lambda uri: None)
    monkeypatch.setattr(store, "_runs", runs)
    ref = store.SweepRef("id", "name", "http://mlflow.team", "1", "parent", None, {})
    assert len(store.read_records(ref, newer_than=1, known=known)) == 30
    assert len(asked[3:]) == requests
    assert all(("kind` = 'snapshot'" in query) == (requests == 1) for query in asked[3:])
