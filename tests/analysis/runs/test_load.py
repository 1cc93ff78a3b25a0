"""Reading a sweep: typed columns, paired baselines, nobody dropped in silence."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

import analysis
from analysis import load as load_function
from analysis.cli.program import main
from analysis.errors import SweepNotFound
from analysis.evidence import noise
from analysis.runs import table
from analysis.runs.store import find, read_records
from gcp_core.errors import DataError
from gcp_core.schema import FINALS, SCHEMA_VERSION, Tag
from tests.analysis.synthetic import baseline_trial, log_run, reseeded, some_trials, write_sweep


def test_every_run_is_a_row_with_typed_columns(df):
    assert len(df) == 24 + 1 + 6
    assert df["prune.interval"].dtype == "Int64"
    assert df["prune.ratio"].dtype == "float64"
    assert df["train.channels_last"].dtype == "boolean"
    assert df["seed"].dtype == "Int64"
    assert set(df["prune.criterion"].dropna()) == {"frs", "l1", "random"}
    assert df.loc[df["kind"] == "baseline", "prune.interval"].isna().all()
    assert [c for c in FINALS if c in df.columns] == list(FINALS)
    assert df.attrs["objectives"] == {"val_accuracy": "max", "macs": "min"}
    assert df.attrs["chance"] == 10.0


def test_the_front_equals_one_computed_from_mlflow_by_hand(df, sweep):
    runs = MlflowClient(f"sqlite:///{sweep}/mlflow.db").search_runs(
        [df.attrs["sweeps"][0]["experiment_id"]], "tags.kind = 'trial' and tags.status = 'complete'"
    )
    points = {
        r.info.run_name: (r.data.metrics.get("final/val_accuracy"), r.data.metrics.get("final/macs"))
        for r in runs
    }
    points = {k: v for k, v in points.items() if np.isfinite(v).all() and abs(v[1]) < 1e300}
    by_hand = {
        name
        for name, (accuracy, macs) in points.items()
        if not any(a >= accuracy and m <= macs and (a, m) != (accuracy, macs) for a, m in points.values())
    }
    assert set(analysis.pareto.front(df, {"val_accuracy": "max", "macs": "min"})["trial"]) == by_hand
    assert len(by_hand) >= 4


def test_a_column_does_not_copy_the_names_of_who_is_left_out(df):
    assert df["val_accuracy"].attrs["left_out"] is df.attrs["left_out"]
    assert df[df["candidate"]].attrs["left_out"] is df.attrs["left_out"]
    assert json.dumps(df.attrs["left_out"]), "it is written into answers"


def test_who_is_left_out_is_counted_and_named(df):
    assert df.attrs["left_out"] == {
        "diverged: the loss was not finite": ["t0025"],
        "failed: raised an error": ["t0024"],
        "infeasible: trained or refused, violates a constraint": ["t0029"],
        "no finite macs": ["t0028"],
        "no finite val_accuracy": ["t0027"],
        "stopped: stopped early; its values have a lower fidelity": ["t0026"],
    }
    assert df["candidate"].sum() == 24
    assert table.counts(df) == {
        "trials": 30, "models": 30, "candidates": 24, "complete": 26, "stopped": 1, "infeasible": 1,
        "diverged": 1, "failed": 1, "baselines": 1, "confirms": 0,
    }  # fmt: skip
    assert "bn1 has no channels" in df.set_index("trial").loc["t0024", "error"]


def test_each_trial_is_paired_with_the_baseline_of_its_own_seed(tmp_path):
    trial = some_trials(1)[0]
    trials = [baseline_trial(0, 97.0), baseline_trial(1, 95.0), trial, reseeded(trial, "t0001", 1, 94.0)]
    del trials[3].finals["accuracy_drop"]
    write_sweep(tmp_path / "two", [*trials, reseeded(trial, "t0002", 2, 93.0)])
    rows = analysis.load(tmp_path / "two").set_index("trial")
    assert rows.loc["t0000", "baseline_trial"] == "b0000"
    assert rows.loc["t0001", "baseline_trial"] == "b0001"
    assert rows.loc["t0001", "accuracy_drop"] == pytest.approx(1.0)
    assert rows.loc["t0001", "accuracy_delta"] == pytest.approx(-1.0)
    assert np.isnan(rows.loc["t0002", "baseline_macs"]), "there is no baseline with seed 2"


def test_the_interval_of_a_latency_holds_both_ways_to_read_it(tmp_path):
    trials = [baseline_trial(), *some_trials(2)]
    # 0.5 of a baseline that takes 1.5 ms is 0.75 ms; its own process, on a busier machine, saw 0.9.
    trials[1].finals.update(latency_ms=0.9, latency_share=0.5, latency_noise=0.1)
    write_sweep(tmp_path / "s", trials)
    df = analysis.load(tmp_path / "s").set_index("trial")
    row = df.loc[trials[1].trial]
    assert (row["latency_low_ms"], row["latency_high_ms"]) == pytest.approx((0.75 * 0.9, 0.9 * 1.1))
    assert df.loc["b0000", ["latency_low_ms", "latency_high_ms"]].tolist() == pytest.approx([1.5, 1.5])


def test_a_sweep_is_found_by_name_id_and_parent_run(sweep):
    uri = f"sqlite:///{sweep}/mlflow.db"
    entry = json.loads((sweep / "sweep.json").read_text())
    for word in (entry["name"], entry["id"], entry["parent_run_id"]):
        assert find(word, tracking_uri=uri).parent_run_id == entry["parent_run_id"]


def test_a_sweep_is_found_behind_the_first_page_of_a_store(sweep, tmp_path, monkeypatch):
    """MLflow answers 1,000 experiments at a time; here it answers two."""
    moved = shutil.copytree(sweep, tmp_path / "crowded")
    uri = f"sqlite:///{moved}/mlflow.db"
    client, search = MlflowClient(uri), MlflowClient.search_experiments
    for number in range(5):
        client.create_experiment(f"other-{number}")
    monkeypatch.setattr(
        MlflowClient,
        "search_experiments",
        lambda self, *words, **options: search(self, *words, **{"max_results": 2, **options}),
    )
    entry = json.loads((moved / "sweep.json").read_text())
    for word in (entry["name"], entry["id"], entry["parent_run_id"]):
        assert find(word, tracking_uri=uri).parent_run_id == entry["parent_run_id"]


def test_a_moved_folder_still_finds_its_own_database(sweep, tmp_path):
    moved = shutil.copytree(sweep, tmp_path / "elsewhere")
    assert find(moved).tracking_uri == f"sqlite:///{moved}/mlflow.db"


def test_an_unknown_sweep_is_refused_with_the_nearest_name(sweep, tmp_path):
    with pytest.raises(SweepNotFound, match='did you mean "synthetic"'):
        find("syntetic", tracking_uri=f"sqlite:///{sweep}/mlflow.db")
    with pytest.raises(SweepNotFound, match="no such folder"):
        find("nowhere")
    with pytest.raises(SweepNotFound, match=r"the folder has no sweep\.json"):
        find(tmp_path)
    with pytest.raises(SweepNotFound, match="no such SQLite store"):
        find("x", tracking_uri=f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists(), "asking must not create a store"


def test_an_empty_sweep_and_another_schema_version_are_refused(tmp_path):
    write_sweep(tmp_path / "empty", [])
    with pytest.raises(SweepNotFound, match="has no trials yet"):
        analysis.load(tmp_path / "empty")
    write_sweep(tmp_path / "future", [baseline_trial()], schema="7")
    with pytest.raises(DataError, match="written by schema 7; this version reads schema 1"):
        analysis.load(tmp_path / "future")


def test_the_cache_gives_the_same_table_and_sees_what_ended_since(sweep, tmp_path):
    folder = shutil.copytree(sweep, tmp_path / "cached")
    shutil.rmtree(folder / ".analysis", ignore_errors=True)
    direct = analysis.load(folder, cache=False)
    first, second = analysis.load(folder), analysis.load(folder)
    assert list((folder / ".analysis").glob("records-*.parquet"))
    pd.testing.assert_frame_equal(direct, first)
    pd.testing.assert_frame_equal(direct, second)
    # A failed trial runs again and ends well, later.
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run_id = direct.set_index("trial").loc["t0024", "run_id"]
    finals = {"val_accuracy": 99.0, "macs": 5e5, "params": 9e4}
    client.log_batch(
        run_id,
        [Metric(FINALS[n].key, v, 1, 20) for n, v in finals.items()],
    )
    client.set_tag(run_id, "status", "complete")
    client.set_terminated(run_id, "FINISHED")
    again = analysis.load(folder).set_index("trial")
    assert bool(again.loc["t0024", "candidate"])
    assert again.loc["t0024", "val_accuracy"] == 99.0
    assert len(again) == len(direct)


def test_the_cache_sees_what_a_driver_wrote_whose_clock_is_behind(tmp_path):
    write_sweep(tmp_path / "s", [baseline_trial(), *some_trials(3)])
    entry = analysis.load(tmp_path / "s").attrs["sweeps"][0]
    tags = {Tag.SWEEP_ID: entry["id"], Tag.SWEEP_NAME: entry["name"], Tag.SCHEMA: SCHEMA_VERSION}
    late = some_trials(1, seed=5, first=3)[0]
    # The last one ended at 210 seconds, this one by its own driver's clock at 130; the cache was written in between.
    start = 1_700_000_000_000 + 100_000
    (cache,) = (tmp_path / "s" / ".analysis").glob("records-*.parquet")
    os.utime(cache, (1_700_000_220, 1_700_000_220))
    place = MlflowClient(entry["tracking_uri"]), entry["experiment_id"], entry["parent_run_id"]
    log_run(*place, late, tags, start)
    assert set(analysis.load(tmp_path / "s")["trial"]) == {"b0000", "t0000", "t0001", "t0002", "t0003"}
    assert len(analysis.load(tmp_path / "s")) == 5


def test_the_cache_sees_what_was_deleted_and_what_was_restored(sweep, tmp_path):
    folder = shutil.copytree(sweep, tmp_path / "deleted")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    gone = analysis.load(folder).set_index("trial").loc[["t0003", "t0007"], "run_id"]
    client.delete_run(gone["t0003"])
    assert "t0003" not in set(analysis.load(folder)["trial"])
    shutil.rmtree(folder / ".analysis")  # a cache that never saw t0003 alive, or t0007 deleted
    assert "t0003" not in set(analysis.load(folder)["trial"])
    client.delete_run(gone["t0007"])
    client.restore_run(gone["t0003"])
    again = analysis.load(folder)
    assert {"t0003", "t0007"} & set(again["trial"]) == {"t0003"}
    pd.testing.assert_frame_equal(again, analysis.load(folder, cache=False))


def test_what_a_model_ran_on_is_a_column(tmp_path):
    trial = some_trials(1)[0]
    trial.tags[Tag.DEVICE] = "NVIDIA H100"
    write_sweep(tmp_path / "s", [baseline_trial(), trial])
    df = analysis.load(tmp_path / "s").set_index("trial")
    assert df["device"].to_dict() == {"b0000": "", trial.trial: "NVIDIA H100"}


def test_a_running_sweep_is_read_and_says_so(tmp_path):
    trials = some_trials(3)
    trials[2].status, trials[2].finals = "running", {}
    write_sweep(tmp_path / "now", [baseline_trial(), *trials], running=True)
    rows = analysis.load(tmp_path / "now")
    assert rows.attrs["sweeps"][0]["running"]
    assert rows.attrs["left_out"] == {"running: not finished": ["t0002"]}
    assert len(analysis.load(tmp_path / "now")) == 4, "the cache must not lose what still runs"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_in_a_file_reads_like_the_sweep_it_came_from(df, tmp_path, kind):
    file = tmp_path / f"table.{kind}"
    df.to_csv(file, index=False) if kind == "csv" else df.to_parquet(file)
    again = analysis.load(file)
    goals = {"val_accuracy": "max", "macs": "min"}
    assert list(analysis.pareto.front(again, goals)["trial"]) == list(
        analysis.pareto.front(df, goals)["trial"]
    )
    assert again["candidate"].sum() == 24


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_that_are_whole_numbers_are_text(tmp_path, kind):
    rows = {"trial": [0, 1, 2, 3], "val_accuracy": [90.0, 80.0, 70.0, 60.0], "macs": [4, 3, 2, 2]}
    other = pd.DataFrame({**rows, "params": [4, 3, 2, 1], "config_id": [7, 7, 8, None], "run_id": 5})
    file = tmp_path / f"2024.{kind}"
    other.to_csv(file, index=False) if kind == "csv" else other.to_parquet(file)
    df = analysis.load(file)
    assert [df[name].tolist() for name in ("trial", "model")] == [["0", "1", "2", "3"]] * 2
    assert set(df["sweep"]) == {"2024"}
    assert set(df["run_id"]) == {"5"}
    # Of whole numbers with a gap pandas makes floats, in the file already.
    assert df["config_id"].tolist() == (["7.0", "7.0", "8.0", "3"] if kind == "csv" else ["7", "7", "8", "3"])
    groups = noise.by_config(df, ["val_accuracy"])
    assert groups["trials"].tolist() == ["0, 1", "2", "3"]
    assert CliRunner().invoke(main, ["front", str(file)]).exit_code == 0


def test_the_page_of_a_table_whose_trials_are_whole_numbers_is_written(tmp_path):
    (tmp_path / "other.csv").write_text(
        "trial,val_accuracy,macs,params\n0,90,4000,40\n1,80,3000,30\n010,70,2000,20\n"
    )
    words = ["report", str(tmp_path / "other.csv"), "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert set(analysis.load(tmp_path / "other.csv")["trial"]) == {"0", "1", "010"}


def test_a_file_without_the_columns_is_refused_by_name(tmp_path):
    pd.DataFrame({"trial": ["a"], "macs": [1]}).to_csv(tmp_path / "bad.csv")
    with pytest.raises(DataError, match="columns missing: val_accuracy, params"):
        analysis.load(tmp_path / "bad.csv")


def test_several_sweeps_share_one_table(sweep, tmp_path):
    write_sweep(tmp_path / "other", [baseline_trial(), *some_trials(3, seed=9)])
    both = analysis.load([sweep, tmp_path / "other"])
    assert both["sweep"].value_counts().to_dict() == {"synthetic": 31, "other": 4}
    assert [entry["name"] for entry in both.attrs["sweeps"]] == ["synthetic", "other"]


def test_sweeps_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [(tmp_path / place / "demo").resolve() for place in ("before", "after")]
    for folder, accuracy in zip(folders, (97.0, 95.0)):
        write_sweep(folder, [baseline_trial(0, accuracy), *some_trials(3)])
    both = analysis.load(folders)
    assert both["sweep"].value_counts().to_dict() == {str(folder): 4 for folder in folders}
    assert [entry["name"] for entry in both.attrs["sweeps"]] == [str(folder) for folder in folders]
    assert table.counts(both)["trials"] == 6
    of_each = both.groupby("sweep")["baseline_val_accuracy"].unique().map(list).to_dict()
    assert of_each == {str(folders[0]): [97.0], str(folders[1]): [95.0]}, "no row has the other's baseline"


def test_a_sweep_that_is_given_twice_counts_once(sweep, df):
    again = analysis.load([sweep, sweep])
    assert again["model"].tolist() == df["model"].tolist()
    assert set(again["sweep"]) == {"synthetic"}
    assert len(again.attrs["sweeps"]) == 1


def test_parts_of_a_sweep_in_files_are_all_there(df, tmp_path):
    """A parquet file remembers which sweep its rows are of."""
    seeds = [tmp_path / "some.parquet", tmp_path / "others.parquet"]
    for file, part in zip(seeds, (df.iloc[:10], df.iloc[10:])):
        part.to_parquet(file)
    assert len(analysis.load(seeds)) == len(df)


def test_load_stays_a_function_whatever_is_imported_later():
    assert analysis.load is load_function
    assert callable(read_records)


def test_the_number_of_validation_images_is_recorded_else_found_in_the_accuracies(tmp_path):
    def counted(trials, images):
        for trial in trials:
            right = round(trial.finals["val_accuracy"] * images / 100)
            trial.finals["val_accuracy"] = 100 * right / images
        return trials

    write_sweep(tmp_path / "old", counted([baseline_trial(), *some_trials(6)], 337))
    df = analysis.load(tmp_path / "old")
    assert set(df["val_images"]) == {337.0}
    assert (df["val_accuracy_low"] < df["val_accuracy"]).all()
    # A recorded number is believed, also where the accuracies would allow a smaller one.
    manifest = tmp_path / "old" / "trials" / "b0000" / "model" / "manifest.json"
    manifest.write_text(json.dumps({"num_classes": 10, "val_images": 674}))
    assert set(analysis.load(tmp_path / "old")["val_images"]) == {674.0}
