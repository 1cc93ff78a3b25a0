"""What a notebook shows: Plotly figures with the numbers of the table, and texts with its facts."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.choose.verbs import parse_verb
from gcp_core.errors import ConfigError


@dataclass(frozen=True)
class Ran:
    """Like what ``sweeps.run`` gives back: a path by the protocol, not by its class."""

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)


GOALS = {"val_accuracy": "max", "macs": "min"}


def trace(figure, start):
    """The one trace whose name begins so."""
    (found,) = [one for one in figure.data if (one.name or "").startswith(start)]
    return found


def test_importing_analysis_loads_no_plotly():
    code = "import analysis, sys; analysis.describe; assert 'plotly' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"describe", "plots"} <= set(analysis.__all__)


def test_the_front_in_a_notebook_is_the_front_of_the_table(df):
    best = analysis.pareto.distinct(df, GOALS).sort_values("macs")
    figure = analysis.plots.front(df, chosen=best["model"].iloc[0], limits=["macs <= 50%"])
    drawn = trace(figure, "front")
    # Multiply-adds are shown in millions.
    assert list(drawn.x) == pytest.approx(list(best["macs"] / 1e6), rel=1e-5)
    assert list(drawn.y) == pytest.approx(list(best["val_accuracy"]), rel=1e-5)
    assert list(trace(figure, "chosen").y) == pytest.approx([best["val_accuracy"].iloc[0]], rel=1e-5)
    assert len(trace(figure, "baseline").x) == 1
    # 50 % of the baseline's 4 M.
    assert [line.x0 for line in figure.layout.shapes] == [2.0]


def test_figures_are_small_and_standard_json(of_paths):
    for figure in (
        analysis.plots.front(of_paths),
        analysis.plots.paths(of_paths),
        analysis.plots.parallel(of_paths),
        analysis.plots.progress(of_paths),
    ):
        text = figure.to_json()
        assert len(text) < 30_000
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_parallel_coordinates_have_a_place_for_null_and_no_number_for_a_missing_one(df):
    models = df["candidate"]
    df["prune.method"] = None
    df.loc[df.index[models][:3], "prune.method"] = "gcp"
    df["prune.start"] = pd.array([None] * len(df), dtype="Int64")
    df.loc[df.index[models][:2], "prune.start"] = [2, 3]
    axes = {axis.label: axis for axis in analysis.plots.parallel(df).data[0].dimensions}
    assert list(axes["prune.method"].ticktext) == ["gcp", "null"]
    assert list(axes["prune.method"].values) == [0] * 3 + [1] * (int(models.sum()) - 3)
    assert list(axes["prune.start"].values[:3]) == [2, 3, None]


def test_paths_are_drawn_snapshot_by_snapshot(of_paths):
    rows = of_paths[(of_paths["trial"] == "t0001") & of_paths["candidate"]].sort_values("level")
    figure = analysis.plots.paths(of_paths, only=["t0001"])
    (drawn,) = figure.data
    assert list(drawn.x) == list(rows["epochs"])
    assert list(drawn.y) == pytest.approx(list(rows["val_accuracy"]), rel=1e-5)
    sizes = list(drawn.marker.size)
    assert sizes == sorted(sizes, reverse=True), "the dots shrink with the multiply-adds left"


def test_names_in_a_figure_are_escaped(df):
    df["model"] = df["model"].str.replace("t0000", "<i>t0000", regex=False)
    figure = analysis.plots.front(df)
    texts = [text for one in figure.data for text in (one.text or ())]
    assert any("&lt;i&gt;t0000" in text for text in texts)
    assert not any("<i>" in text for text in texts)


def test_unknown_names_are_refused_with_a_hint(df, of_paths):
    with pytest.raises(ConfigError, match="did you mean"):
        analysis.plots.front(df, chosen="t000")
    with pytest.raises(ConfigError, match="no paths"):
        analysis.plots.paths(df)
    with pytest.raises(ConfigError, match="did you mean"):
        analysis.plots.paths(of_paths, only=["t001"])
    with pytest.raises(ConfigError, match="trials"):
        analysis.plots.progress(df, by="trial")


def test_a_bar_of_the_importance_says_where_there_is_no_evidence(df):
    found = analysis.importance.importance(df)
    (bars,) = analysis.plots.importance(df).data
    assert dict(zip(bars.y, bars.x)) == pytest.approx(
        dict(zip(found["parameter"], found["importance"])), rel=1e-5
    )
    said = dict(zip(bars.y, bars.text))
    assert said == {r.parameter: "" if r.evidence else "no evidence" for r in found.itertuples()}


def test_a_sweep_in_words_has_its_counts_its_baseline_and_its_front(df):
    said = analysis.describe(df)
    best = analysis.pareto.distinct(df, GOALS).sort_values("macs")
    assert said.startswith(
        f"synthetic: 24 finished trials; {len(best)} on the front of macs (min) and val_accuracy (max)."
    )
    assert "The unpruned baseline has 97.00 % validation accuracy at 4.00 M MACs." in said
    assert f"down to {best['val_accuracy'].iloc[0]:.2f} %" in said
    assert "single-seed" in said, "how sure it is belongs to it"


def test_a_model_in_words_says_what_it_keeps_and_a_broken_one_why_it_is_out(df):
    said = analysis.describe(df, "t0000")
    row = df[df["model"] == "t0000"].iloc[0]
    assert f"It keeps {100 * row['macs_kept']:.1f} % of the MACs" in said
    left_out = df.loc[df["left_out"] != "", "model"]
    broken = next(model for model in left_out if model.startswith("t"))
    assert analysis.describe(df, broken).startswith(f"{broken} is not a candidate:")
    with pytest.raises(ConfigError, match="no such model"):
        analysis.describe(df, "t9999")


def test_a_choice_in_words_gives_the_reason_and_the_next_best(df):
    limits = [analysis.constraints.parse("macs <= 50%")]
    choice = analysis.select.choose(df, limits, parse_verb({"best": "accuracy"}))
    said = analysis.describe(choice)
    assert said.startswith(choice.reason)
    for model in choice.runners_up["model"]:
        assert f"  {model}: " in said


def test_what_a_run_gave_back_is_loaded_as_its_folder_is(sweep, df):
    assert analysis.load(Ran(sweep))["model"].tolist() == df["model"].tolist()
    assert len(analysis.load([Ran(sweep)])) == len(df)
