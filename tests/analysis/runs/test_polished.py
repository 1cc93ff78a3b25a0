"""Polished models: rows of their own to choose from, and no observation of the setting that they were made of."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import analysis
from analysis.choose import advice
from analysis.choose.select import choose
from analysis.choose.verbs import parse_verb
from analysis.evidence import compare, noise
from analysis.evidence.assurance import assurance
from analysis.evidence.importance import importance
from analysis.evidence.spending import costs_of
from analysis.front import pareto
from analysis.front.anchors import anchors_for
from analysis.front.progress import progress
from analysis.runs import models, store, table
from analysis.show import figures, report
from gcp_core.errors import ConfigError
from gcp_core.schema import Tag
from tests.analysis.synthetic import log_trial, path_baseline, path_of, write_sweep

pytestmark = pytest.mark.integration

GOALS = {"val_accuracy": "max", "macs": "min"}
#: 0.5 of the MACs are left of @2: 30 epochs cost 15 dense ones.
POLISHED = "t0000@2+30"


def some_paths(**more):
    """Two settings on two seeds."""
    return [
        dataclasses.replace(path_of("t0000"), **more),
        path_of("t0001", shift=-0.7, interval=4, levels=5),
        path_of("t0002", 1, shift=-0.3),
        path_of("t0003", 1, shift=-1.0, interval=4),
    ]


BASELINES = [path_baseline(0), path_baseline(1, 96.8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("polished") / "paths"
    write_sweep(folder, [*BASELINES, *some_paths(polished={(2, 30): 2.0, (2, 60): 2.5, (0, 10): 1.0})])
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same sweep, nothing polished; not to be changed."""
    folder = tmp_path_factory.mktemp("plain") / "paths"
    write_sweep(folder, [*BASELINES, *some_paths()])
    return folder


@pytest.fixture(scope="module")
def _tables(folder, plain):
    return analysis.load(folder), analysis.load(plain)


@pytest.fixture
def df(_tables):
    return _tables[0].copy()


@pytest.fixture
def without(_tables):
    return _tables[1].copy()


def test_a_polished_model_is_a_row_behind_its_snapshot(df, without):
    names = list(df.loc[df["trial"] == "t0000", "model"])
    assert names == [
        "t0000@0",
        "t0000@0+10",
        "t0000@1",
        "t0000@2",
        POLISHED,
        "t0000@2+60",
        *(f"t0000@{k}" for k in (3, 4, 5, 6)),
    ]
    row = models.row_of(df, POLISHED)
    assert (row["trial"], row["level"], row["polish"], row["kind"]) == ("t0000", 2, 30, "trial")
    assert row["candidate"]
    source = models.row_of(df, "t0000@2")
    assert row["train_cost"] == pytest.approx(source["train_cost"] + 15)
    assert row["accuracy_drop"] == pytest.approx(source["accuracy_drop"] - 2.0)
    assert df["polish"].dtype == "Int64"
    assert without["polish"].isna().all()
    assert table.IDENTITY[3:5] == ("level", "polish")


def test_it_is_chosen_like_any_other_model_and_counted_as_one(df, without):
    choice = choose(df, [], parse_verb({"best": "accuracy"}))
    assert choice.model == "t0000@2+60"
    assert choose(df, [], parse_verb({"id": POLISHED})).model == POLISHED
    assert "t0000@2+60" in set(pareto.front(df, GOALS)["model"])
    assert "t0000@2" not in set(pareto.front(df, GOALS)["model"])
    counted, before = table.counts(df), table.counts(without)
    assert counted["trials"] == before["trials"] == 4
    assert counted["models"] == before["models"] + 3


def test_the_deepest_model_of_a_path_is_its_own_snapshot(df):
    deep = dataclasses.replace(path_of("t0009", 9, levels=3), polished={(2, 5): 1.0})
    last = models.one_per_trial(df)
    assert list(last["model"]) == ["b0000", "b0001", "t0000@6", "t0001@4", "t0002@6", "t0003@6"]
    assert deep.polish(2, 5).trial == "t0009@2+5"


def test_what_a_polish_has_added_is_counted_from_its_snapshot_and_the_path_goes_on_from_its_own(df, without):
    spent, before = costs_of(df, "train_cost"), costs_of(without, "train_cost")
    by_name = dict(zip(df["model"], spent))
    assert by_name[POLISHED] == pytest.approx(15.0)
    assert by_name["t0000@2+60"] == pytest.approx(30.0)
    assert by_name["t0000@0+10"] == pytest.approx(10.0)
    own = models.of_the_search(df)
    assert np.allclose(spent[own.index], before)
    done = progress(df, GOALS, anchors_for(df, GOALS))
    hours = progress(without, GOALS, anchors_for(without, GOALS))["device_hours"].iloc[-1]
    assert list(done["model"])[-3:] == [POLISHED, "t0000@2+60", "t0000@0+10"]
    assert done["device_hours"].iloc[-1] == pytest.approx(hours + 0.001 * 100)


def test_nothing_is_learned_about_settings_from_a_polished_model(df, without):
    """Noise, importance, comparisons and advice are as if nobody had polished anything."""
    of = ["prune.interval"]
    pd.testing.assert_frame_equal(
        noise.replicates(df, ["val_accuracy", "macs"]), noise.replicates(without, ["val_accuracy", "macs"])
    )
    assert assurance(df, GOALS).lines() == assurance(without, GOALS).lines()
    found = [compare.compare(t, of[0], equal="train_cost").volumes for t in (df, without)]
    pd.testing.assert_frame_equal(*found)
    pairs = [compare.paired_tests(t, of[0]) for t in (df, without)]
    assert str(pairs[0]) == str(pairs[1])
    curves = [compare.growth(t, of[0], "train_cost") for t in (df, without)]
    pd.testing.assert_frame_equal(*curves)
    gaps = [advice.gaps(t, GOALS, anchors_for(t, GOALS))["width"] for t in (df, without)]
    assert np.allclose(*gaps)


def test_importance_is_of_paths_as_they_were_searched(tmp_path):
    trials = [path_of(f"t{i:04d}", shift=float(i % 4), interval=2 + i % 4, levels=4) for i in range(12)]
    write_sweep(tmp_path / "a", [path_baseline(0), *trials])
    trials[3] = dataclasses.replace(trials[3], polished={(3, 30): 9.0, (1, 30): 9.0})
    write_sweep(tmp_path / "b", [path_baseline(0), *trials])
    first, second = (importance(analysis.load(tmp_path / name), repeats=3) for name in "ab")
    pd.testing.assert_frame_equal(first, second)


def test_the_thin_line_of_a_path_goes_through_its_snapshots_only(df, tmp_path):
    view = figures.front_view(df, chosen=POLISHED)
    axes = figures.draw_front(view).axes[0]
    lines = [line for line in axes.lines if line.get_linewidth() < 1 and len(line.get_xdata()) > 2]
    assert sorted(len(line.get_xdata()) for line in lines) == [5, 7, 7, 7]
    heights = {y for line in lines for y in line.get_ydata()}
    polished = df.loc[df["polish"].notna(), "val_accuracy"]
    assert not heights & set(polished)
    assert set(view.points["model"]) >= {POLISHED, "t0000@2+60"}, "they are points of their own"
    page = report.write(df, tmp_path / "page").page.read_text()
    assert '"polish": 30' in page or '"polish":30' in page
    assert "missing(r.polish)" in page


def test_names_of_what_is_not_there_say_what_is(df):
    for name, said in (
        ("t0000@2+31", "t0000@2 has not been polished for 31 epochs"),
        ("t0000@9+30", "the path has 7 snapshots, t0000@0 .. t0000@6"),
        ("t0000@9", "the path has 7 snapshots, t0000@0 .. t0000@6"),
        ("t0000", "is a path with 7 snapshots, t0000@0 .. t0000@6"),
    ):
        with pytest.raises(ConfigError) as info:
            models.row_of(df, name)
        assert said in str(info.value)
    with pytest.raises(ConfigError, match=r"gcp-sweep polish SWEEP t0000@2 train\.epochs=31"):
        models.row_of(df, "t0000@2+31")


def test_a_table_in_a_file_keeps_it_also_where_only_the_name_tells(df, tmp_path):
    df.to_csv(tmp_path / "whole.csv", index=False)
    df.drop(columns="polish").to_csv(tmp_path / "older.csv", index=False)
    for name in ("whole", "older"):
        again = analysis.load(tmp_path / f"{name}.csv")
        assert dict(zip(again["model"], again["polish"].fillna(0))) == dict(
            zip(df["model"], df["polish"].fillna(0))
        )


def test_the_cache_sees_a_model_that_was_polished_long_after_its_path_ended(plain, tmp_path):
    own = shutil.copytree(plain, tmp_path / "paths")
    assert POLISHED not in set(analysis.load(own)["model"])
    ref = store.find(own)
    client, records = MlflowClient(ref.tracking_uri), store.read_records(ref)
    mine = records[(records["tag:kind"] == "trial") & (records["tag:mlflow.runName"] == "t0000")]
    tags = {Tag.SWEEP_NAME: ref.name, Tag.SWEEP_ID: ref.id, Tag.SCHEMA: "1"}
    polished = dataclasses.replace(path_of("t0000"), polished={(2, 30): 2.0})
    log_trial(
        client, ref.experiment_id, mine["run_id"].iloc[0], polished.polish(2, 30), tags, 1_800_000_000_000
    )
    for _ in range(2):
        seen = analysis.load(own)
        assert POLISHED in set(seen["model"])
        pd.testing.assert_frame_equal(seen, analysis.load(own, cache=False))


def test_a_cache_that_has_seen_it_is_not_written_again(folder):
    analysis.load(folder)
    ref = store.find(folder)
    from analysis.runs.cache import cache_file

    before = cache_file(ref).stat().st_mtime_ns
    analysis.load(folder)
    assert cache_file(ref).stat().st_mtime_ns == before
