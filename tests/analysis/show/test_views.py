"""Figures, report and what is published: the record first, then the files, then MLflow."""

import html
import json
import re
from html.parser import HTMLParser

import matplotlib.collections
import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import analysis
from analysis import text
from analysis.choose import constraints as hard
from analysis.choose import select
from analysis.choose.verbs import parse_verb
from analysis.front.anchors import anchors_for
from analysis.front.progress import progress
from analysis.runs import table as runs_table
from analysis.runs import widths
from analysis.show import figures, page, report
from analysis.show.publish import publish
from gcp_core.schema import FRONT_HYPERVOLUME
from tests.analysis.synthetic import a_plan, baseline_trial, finals_of, some_trials, write_sweep

GOALS = {"val_accuracy": "max", "macs": "min"}


def test_a_view_holds_every_sound_point_and_turns_constraints_into_lines(df):
    limits = [hard.parse("macs <= 50%"), hard.parse("accuracy_drop <= 2"), hard.parse("latency_ms <= 1")]
    view = figures.front_view(df, "macs", chosen="t0000", constraints=limits)
    assert view.points["role"].value_counts()["baseline"] == 1
    assert len(view.points) == 24 + 1, "broken trials are not drawn"
    assert view.points.set_index("trial").loc["t0000", "role"] == "chosen"
    # 50 % of 4 M MACs; 97 % - 2 points; latency is not an axis of this view.
    assert view.limits == (
        ("macs", 2_000_000.0, "macs <= 50 % of the baseline"),
        ("val_accuracy", 95.0, "accuracy_drop <= 2 points"),
    )
    assert (view.x_scale, view.x_prefix) == (1e6, "M")


@pytest.fixture
def three(df):
    """The sweep with latency as a third objective, at odds with the MACs: fronts of two and of three differ."""
    df.attrs["objectives"] = {"val_accuracy": "max", "macs": "min", "latency_ms": "min"}
    df["latency_ms"] = df["latency_ms"].where(df["kind"] == "baseline", 4e6 / df["macs"])
    df["latency_low_ms"], df["latency_high_ms"] = 0.97 * df["latency_ms"], 1.03 * df["latency_ms"]
    return df


def test_with_three_objectives_tile_plot_and_table_show_one_front(three, tmp_path):
    goals = three.attrs["objectives"]
    expected = set(analysis.pareto.distinct(three, goals)["trial"])
    assert expected > set(analysis.pareto.front(three, GOALS)["trial"]), "or this test shows nothing"
    for column in ("macs", "params", "latency_ms"):
        view = figures.front_view(three, column)
        drawn = set(view.points.loc[view.points["role"] == "front", "trial"])
        assert drawn == {model for _, model in view.front} == expected
        labels = figures.draw_front(view).axes[0].get_legend_handles_labels()[1]
        assert f"front of val_accuracy, macs, latency_ms ({len(expected)} of 24 trials)" in labels
        assert "best along these two axes" in labels
    text = report.write(three, tmp_path).page.read_text()
    assert f"<b>{len(expected)}</b> on the front" in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    wanted = [{"name": name, "better": better} for name, better in goals.items()]
    assert data["views"] == {"macs": wanted, "params": wanted, "latency_ms": wanted}
    for entry in data["trials"]:  # the page holds the same latencies for equal as the table does
        assert entry["latency_low_ms"] < entry["latency_ms"] < entry["latency_high_ms"]
    assert set(pd.read_csv(tmp_path / "front.csv")["trial"]) == expected


def test_a_sweep_of_two_objectives_has_a_front_of_its_own_along_another_cost(df):
    assert figures.goals_of_view(df, "macs", "val_accuracy") == GOALS
    assert figures.goals_of_view(df, "params", "val_accuracy") == {"val_accuracy": "max", "params": "min"}


@pytest.fixture
def counted(df):
    """The sweep with accuracies that were counted on 337 images."""
    accuracy = (df["val_accuracy"] * 3.37).round() / 3.37
    table = df.assign(val_accuracy=accuracy, val_images=337.0, accuracy_drop=np.nan)
    table.attrs = df.attrs
    return runs_table.finish(table)


def test_figures_tables_and_page_show_the_interval_of_the_validation_images(counted, tmp_path):
    view = figures.front_view(counted)
    rows = view.points[view.points["role"] == "front"]
    assert (rows["val_accuracy_low"] < rows["val_accuracy"]).all()
    assert (rows["val_accuracy"] < rows["val_accuracy_high"]).all()
    axes = figures.draw_front(view).axes[0]
    assert "95 % interval (validation images)" in axes.get_legend_handles_labels()[1]
    bars = [c for c in axes.collections if isinstance(c, matplotlib.collections.LineCollection)]
    drawn = {tuple(np.round(path.vertices[:, 1], 6)) for c in bars for path in c.get_paths()}
    assert drawn >= {
        tuple(np.round(ends, 6)) for ends in rows[["val_accuracy_low", "val_accuracy_high"]].to_numpy()
    }
    low, high = axes.get_ylim()
    assert low <= rows["val_accuracy_low"].min()
    assert rows["val_accuracy_high"].max() <= high, "no bar leaves the view"
    header, cells = text.trials_cells(counted[counted["candidate"]].head(1), [])
    first = counted[counted["candidate"]].iloc[0]
    said = f"{first['val_accuracy_low']:.1f}-{first['val_accuracy_high']:.1f}"
    assert cells[0][header.index("95 % interval")] == said
    page_text = report.write(counted, tmp_path).page.read_text()
    data = json.loads(page_text.split('id="data">')[1].split("</script>")[0])
    entry = next(e for e in data["trials"] if e["trial"] == first["trial"])
    assert entry["val_accuracy_low"] == pytest.approx(first["val_accuracy_low"])


def test_without_the_number_of_images_nothing_is_made_up(df):
    assert df["val_accuracy_low"].isna().all()
    labels = figures.draw_front(figures.front_view(df)).axes[0].get_legend_handles_labels()[1]
    assert not [label for label in labels if "interval" in label]
    assert "95 % interval" not in text.trials_cells(df[df["candidate"]], [])[0]


@pytest.mark.usefixtures("rendered")
def test_every_figure_is_written_as_png_svg_and_csv(df, tmp_path):
    view = figures.front_view(df, "params")
    files = figures.save(figures.draw_front(view), view.points, tmp_path, "front_params")
    assert [f.name for f in files] == ["front_params.png", "front_params.svg", "front_params.csv"]
    assert all(f.stat().st_size > 500 for f in files)
    again = pd.read_csv(files[2])
    assert list(again.columns) == [
        "sweep", "model", "trial", "level", "role", "criterion", "params", "val_accuracy",
    ]  # fmt: skip
    assert len(again) == len(view.points)


def test_the_axes_name_unit_and_better_direction(df):
    axes = figures.draw_front(figures.front_view(df, "macs")).axes[0]
    assert axes.get_xlabel() == "Multiply-adds per image (M MACs)   ← better"
    assert axes.get_ylabel() == "Validation accuracy (%)   better →"


def test_drawing_leaves_pyplot_alone(df):
    import sys

    figures.draw_front(figures.front_view(df, "macs"))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_progress_is_the_hypervolume_of_the_front_so_far(df):
    scales = anchors_for(df, GOALS)
    history = progress(df, GOALS, scales)
    ordered = df.sort_values(["ended", "trial"])
    ordered = ordered[ordered["candidate"]]
    for n in (1, 7, 24):
        expected = analysis.pareto.hypervolume(ordered.head(n), GOALS, scales).value
        assert history["hypervolume"].iloc[n - 1] == pytest.approx(expected, abs=1e-12)
    assert (np.diff(history["hypervolume"]) >= 0).all()
    # 24 trials, the baseline and five of the six broken ones cost 0.002 h each; the last candidate ends
    # before the latter.
    assert history["device_hours"].iloc[-1] == pytest.approx(25 * 0.002)


def test_layer_widths_go_from_before_the_first_to_after_the_last_event():
    found = widths.layer_widths({"plans": [a_plan().to_dict()]})
    assert [(w.layer, w.before, w.after) for w in found] == [("features.0", 32, 20), ("features.10", 64, 16)]


class _Page(HTMLParser):
    """Collects what a browser would fetch, the links, ids and script elements."""

    def __init__(self):
        super().__init__()
        self.fetched, self.links, self.ids = [], [], set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.fetched += [values[n] for n in ("src", "href", "srcset", "data", "poster") if n in values]


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory):
    table = analysis.load(sweep)
    limits = [hard.parse("macs <= 50%")]
    choice = select.choose(table, limits, parse_verb({"best": "accuracy"}))
    return report.write(table, tmp_path_factory.mktemp("report"), choice=choice, constraints=limits), choice


def _scripts() -> str:
    """The scripts of the page that is written; ``live.js`` is added where it is served, and asks the server for news."""
    names = sorted(f.name for f in page.TEMPLATES.iterdir() if f.name.endswith(".js"))
    return "".join(page.source(name) for name in names if name != "live.js")


def test_the_report_loads_nothing_from_outside(written):
    parsed = _Page()
    text = written[0].page.read_text()
    parsed.feed(text)
    assert parsed.fetched == ["data:,"]
    style = page.source("style.css").strip()
    script = page.source("report.js").strip()
    scripts = _scripts()
    assert not re.search(r"@import|url\(\s*['\"]?http", style)
    assert "import(" not in scripts
    assert "fetch(" not in scripts
    assert "innerHTML" not in scripts, "text enters the page as text"
    assert style in text
    assert script in text
    assert text.replace(script, "").count("<script") >= 2


def test_every_file_the_report_links_to_lies_beside_it(written):
    parsed = _Page()
    parsed.feed(written[0].page.read_text().split("<script", 1)[0])
    relative = [link for link in parsed.links if not link.startswith("http")]
    assert len(relative) >= 14
    for link in relative:
        assert (written[0].page.parent / link).is_file(), link


def test_every_element_the_script_asks_for_exists(written):
    parsed = _Page()
    parsed.feed(written[0].page.read_text().split("<script", 1)[0])
    script = _scripts()
    wanted = set(re.findall(r"\$\('([\w-]+)'\)", script)) | set(
        re.findall(r"getElementById\('([\w-]+)'", script)
    )
    parsed.ids.add("data")  # a script element, cut off above
    assert len(wanted) > 25
    assert wanted - parsed.ids == set()


def test_the_report_says_choice_reason_widths_health_and_links(written):
    text = written[0].page.read_text()
    body, rest = text.split('<script type="application/json" id="data">')
    assert written[1].reason in html.unescape(body)
    assert "diverged: the loss was not finite" in body
    assert "bn1 has no channels" in body
    data = json.loads(rest.split("</script>")[0])
    chosen = next(t["key"] for t in data["trials"] if t["chosen"])
    assert data["widths"]["of"][chosen] == {"features.0": 20, "features.10": 16}
    assert len(data["trials"]) == 24
    assert sum(t["chosen"] for t in data["trials"]) == 1
    assert data["trials"][0]["link"].startswith("http://127.0.0.1:5000/#/experiments/")
    assert data["varying"] == ["prune.criterion", "prune.interval", "prune.ratio", "prune.target"]


def test_names_from_outside_cannot_break_the_page(sweep, tmp_path):
    table = analysis.load(sweep)
    table.loc[table["left_out"].notna(), "error"] = "</script><img src=x>"
    table.loc[table["candidate"], "trial"] = "<i>" + table["trial"] + "</i>"
    table.attrs["sweeps"][0]["name"] = "<b>"
    text = report.write(table, tmp_path).page.read_text()
    assert "<title>Report: &lt;b&gt;</title>" in text
    assert "<td>&lt;/script&gt;&lt;img src=x&gt;</td>" in text
    assert "<img src=x>" not in text
    assert "</i>" not in text.split("<script")[0]
    data = text.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["trials"][0]["trial"].startswith("<i>")


def test_publish_tags_exactly_the_front_and_attaches_figures_and_note(tmp_path):
    folder = tmp_path / "pub"
    uri = write_sweep(folder, [baseline_trial(), *some_trials(8)])
    done = publish(folder)
    df = analysis.load(folder)
    client = MlflowClient(uri)
    experiment = df.attrs["sweeps"][0]["experiment_id"]
    tagged = client.search_runs([experiment], "tags.`pareto.front` = 'true'")
    expected = set(analysis.pareto.front(df, GOALS)["trial"])
    assert {r.info.run_name for r in tagged} == expected == set(done.front)
    assert done.tags_changed == 8
    parent = client.get_run(df.attrs["sweeps"][0]["parent_run_id"])
    assert parent.data.metrics[FRONT_HYPERVOLUME] == pytest.approx(done.hypervolume)
    assert f"## Front: {len(expected)} of 8 finished trials" in parent.data.tags["mlflow.note.content"]
    names = {a.path for a in client.list_artifacts(parent.info.run_id, "front")}
    assert {"front/front_macs.png", "front/front_macs.csv", "front/front.csv"} <= names


def test_publishing_again_changes_only_what_changed(tmp_path):
    folder = tmp_path / "again"
    trials = some_trials(5)
    uri = write_sweep(folder, [baseline_trial(), *trials])
    first = publish(folder)
    assert publish(folder).tags_changed == 0
    # A late trial that beats everything takes the front from all others.
    client = MlflowClient(uri)
    df = analysis.load(folder)
    run = df.set_index("trial").loc["t0004", "run_id"]
    for name, value in finals_of(0.05, 99.0).items():
        client.log_metric(run, f"final/{name}", value, step=21)
    client.set_terminated(run, "FINISHED")
    second = publish(folder)
    assert second.front == ("t0004",)
    assert second.tags_changed >= len(set(first.front) - {"t0004"})
    tagged = client.search_runs([df.attrs["sweeps"][0]["experiment_id"]], "tags.`pareto.front` = 'true'")
    assert [r.info.run_name for r in tagged] == ["t0004"]


def test_publish_without_a_finished_trial_writes_nothing(tmp_path):
    folder = tmp_path / "none"
    uri = write_sweep(folder, [baseline_trial()])
    assert publish(folder).front == ()
    assert not (folder / "report").exists()
    parent = json.loads((folder / "sweep.json").read_text())["parent_run_id"]
    assert MlflowClient(uri).list_artifacts(parent) == []
    assert FRONT_HYPERVOLUME not in MlflowClient(uri).get_run(parent).data.metrics


def test_points_are_coloured_by_criterion_only_where_it_varies(df):
    def colours_of_points(table):
        axes = figures.draw_front(figures.front_view(table)).axes[0]
        return {
            matplotlib.colors.to_hex(c[:3]) for points in axes.collections for c in points.get_facecolors()
        }

    mixed = df.assign(**{"prune.criterion": ["frs", "l1"] * 15 + ["frs"]})
    used = {figures.CRITERION_COLOURS["frs"].lower(), figures.CRITERION_COLOURS["l1"].lower()}
    assert used <= colours_of_points(mixed)
    assert figures.TRIAL.lower() not in colours_of_points(mixed)
    assert figures.TRIAL.lower() in colours_of_points(df.assign(**{"prune.criterion": "frs"}))
