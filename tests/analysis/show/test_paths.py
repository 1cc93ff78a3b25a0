"""Paths in figures, report and MLflow: lines through snapshots, tags on their runs, widths of the chosen one."""

import json

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import analysis
from analysis.choose.select import choose
from analysis.choose.verbs import parse_verb
from analysis.front import pareto
from analysis.runs import store
from analysis.runs.artifacts import sweep_of
from analysis.runs.models import row_of
from analysis.runs.widths import layer_widths, manifest_of
from analysis.show import figures, page, report
from analysis.show.publish import publish
from gcp_core.schema import Tag
from tests.analysis.show.test_overlap import overlaps
from tests.analysis.synthetic import path_baseline, path_of, some_trials, write_sweep

GOALS = {"val_accuracy": "max", "macs": "min"}
PATH_LABEL = "path, from its dense phase on"


def test_a_figure_draws_a_thin_line_through_the_snapshots_of_every_path(of_paths):
    view = figures.front_view(of_paths, chosen="t0000@2")
    drawn = figures.draw_front(view)
    lines = [line for line in drawn.axes[0].lines if line.get_linewidth() < 1 and len(line.get_xdata()) > 2]
    assert len(lines) == 4, "confirm runs are no points"
    assert sorted(len(line.get_xdata()) for line in lines) == [5, 7, 7, 7]
    rows = of_paths[of_paths["trial"] == "t0000"]
    ours = next(line for line in lines if line.get_ydata()[0] == rows["val_accuracy"].iloc[0])
    assert np.allclose(ours.get_xdata(), rows["macs"] / view.x_scale), "in their order, the dense one first"
    labels = drawn.axes[0].get_legend_handles_labels()[1]
    assert labels.count(PATH_LABEL) == 1
    assert f"front ({len(view.front)} of 26 models)" in labels
    assert "chosen: t0000@2" in [t.get_text() for t in drawn.axes[0].texts]
    assert overlaps(drawn) == []


def test_a_figure_of_single_trials_has_no_line_and_speaks_of_trials(df):
    labels = figures.draw_front(figures.front_view(df)).axes[0].get_legend_handles_labels()[1]
    assert PATH_LABEL not in labels
    assert "front (7 of 24 trials)" in labels


def test_the_data_of_a_figure_tell_the_paths_apart(of_paths, tmp_path):
    view = figures.front_view(of_paths)
    again = pd.read_csv(figures.save(figures.draw_front(view), view.points, tmp_path, "front_macs")[2])
    assert list(again.loc[again["trial"] == "t0001", "level"]) == [0, 1, 2, 3, 4]
    assert set(again.loc[again["role"] == "front", "model"]) == {model for _, model in view.front}
    assert again["model"].is_unique


@pytest.fixture(scope="module")
def written(paths, tmp_path_factory):
    df = analysis.load(paths)
    choice = choose(df, [], parse_verb({"id": "t0000@3"}))
    return df, report.write(df, tmp_path_factory.mktemp("report"), choice=choice)


def test_the_report_has_an_entry_a_link_and_the_widths_of_a_snapshot(written):
    df, files = written
    text = files.page.read_text()
    body, rest = text.split('<script type="application/json" id="data">')
    assert "<h2>t0000@3</h2>" in body
    assert "<b>26</b> finished models of 4 trials" in body
    widths = layer_widths(manifest_of(df, row_of(df, "t0000@3")))
    assert next((w.layer, w.before, w.after) for w in widths) == ("features.0", 32, 20), (
        "three events of four channels"
    )
    data = json.loads(rest.split("</script>")[0])
    assert data["word"] == "model"
    key = next(e["key"] for e in data["trials"] if e["model"] == "t0000@3")
    assert data["widths"]["of"][key]["features.0"] == 20
    assert data["widths"]["layers"][0] == {"layer": "features.0", "before": 32}
    entry = next(e for e in data["trials"] if e["model"] == "t0000@3")
    run = row_of(df, "t0000@3")["run_id"]
    assert entry["link"].endswith(f"/runs/{run}")
    assert (entry["trial"], entry["level"], entry["chosen"]) == ("t0000", 3, True)
    assert {e["model"] for e in data["trials"]} == set(df.loc[df["candidate"], "model"])
    front = pd.read_csv(files.page.parent / "front.csv")
    assert set(front["model"]) <= set(pareto.front(df, GOALS)["model"])


def test_the_script_of_the_page_draws_paths_from_what_it_is_given(written):
    script = page.source("front.js") + page.source("models.js")
    assert "trails(all, spot)" in script
    for name in ("r.level", "r.trial", "r.sweep", "r.model"):
        assert name in script
    data = written[1].page.read_text().split('id="data">')[1].split("</script>")[0]
    assert all({"level", "trial", "sweep", "model"} <= set(entry) for entry in json.loads(data)["trials"])


def test_a_path_that_failed_is_named_in_the_health_of_the_sweep(tmp_path):
    failed = path_of("t0000", levels=4)
    failed.status = "failed"
    write_sweep(tmp_path / "failed", [path_baseline(), failed])
    df = analysis.load(tmp_path / "failed")
    text = report.write(df, tmp_path / "report").page.read_text()
    assert "1 path failed after snapshots, which stay: t0000" in text


def test_the_filter_in_mlflow_shows_exactly_the_models_of_the_front(tmp_path):
    folder = tmp_path / "pub"
    uri = write_sweep(
        folder, [path_baseline(), path_of("t0000"), path_of("t0001", 1, shift=-0.5), *some_trials(2, first=2)]
    )
    client = MlflowClient(uri)
    records = store.read_records(store.find(folder))
    path_run = records.loc[
        records["tag:trial.id"].isna() & (records["param:train.schedule"] == "cycles"), "run_id"
    ].iloc[0]
    client.set_tag(path_run, Tag.FRONT, "true")  # from a time when it had no snapshot
    done = publish(folder)
    df = analysis.load(folder)
    experiment = sweep_of(df, df.iloc[0])["experiment_id"]
    tagged = client.search_runs([experiment], "tags.`pareto.front` = 'true'")
    assert {run.data.tags.get(Tag.MODEL_ID, run.info.run_name) for run in tagged} == set(done.front)
    assert set(done.front) == set(pareto.distinct(df, GOALS)["model"])
    assert any("@" in model for model in done.front)
    assert client.get_run(path_run).data.tags[Tag.FRONT] == "false"
    ranks = {
        r.info.run_name: r.data.tags.get(Tag.RANK)
        for r in client.search_runs([experiment], "tags.kind = 'snapshot'")
    }
    assert ranks["t0000@1"] == "1"
    assert all(ranks[f"t0001@{k}"] not in (None, "1") for k in range(7))
    assert publish(folder).tags_changed == 0
    note = client.get_run(store.find(folder).parent_run_id).data.tags[Tag.NOTE]
    assert f"## Front: {len(done.front)} of 16 finished models" in note
    assert "| t0000@1 |" in note
