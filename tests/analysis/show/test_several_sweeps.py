"""Several sweeps in one call: every sweep has a t0003, and what is said of one is not said of the other."""

import json

import pytest
from click.testing import CliRunner

import analysis
from analysis.choose.recommend import recommend
from analysis.choose.ties import tied
from analysis.cli.program import main
from analysis.runs import table
from analysis.show import figures
from analysis.show.first import first_screen
from tests.analysis.show.tables import KEPT, baseline, of_rows, rows_of

GOOD, POOR = (96.6, 96.8, 96.4, 95.4, 93.0), (95.0, 94.0, 93.0, 92.0, 90.0)


@pytest.fixture
def several(tmp_path):
    """Two sweeps with one path each, both named t0000; the snapshots of ``poor`` are worse at every cost."""
    tables = []
    for name, accuracies in (("good", GOOD), ("poor", POOR)):
        rows = [baseline(), *rows_of("t0000", accuracies)]
        part = of_rows(tmp_path / name, [row | {"sweep": name} for row in rows])
        part.attrs["sweeps"][0]["name"] = name
        tables.append(part)
    return table.concat(tables)


def test_a_front_figure_draws_the_front_of_the_sweep_that_has_it(several):
    view = figures.front_view(several)
    # The dense snapshot of good has less accuracy than the next one and costs more.
    assert view.front == view.steps == {("good", f"t0000@{level}") for level in (1, 2, 3, 4)}
    roles = view.points.set_index(["sweep", "model"])["role"]
    assert set(roles["poor"].drop("b0000")) == {"trial"}
    axes = figures.draw_front(view).axes[0]
    (steps,) = (line for line in axes.lines if str(line.get_label()).startswith("front"))
    assert steps.get_label() == "front (4 of 10 models)"
    assert list(steps.get_ydata()) == [93.0, 95.4, 96.4, 96.8]


def test_a_chosen_model_is_ringed_in_its_own_sweep(several):
    view = figures.front_view(several, chosen=("poor", "t0000@2"))
    assert figures.keys_of(view.points[view.points["role"] == "chosen"]) == [("poor", "t0000@2")]


def test_a_notebook_draws_fronts_and_paths_sweep_by_sweep(several):
    drawn = {trace.name: trace for trace in analysis.plots.front(several).data}
    assert list(drawn["front (4)"].y) == [93.0, 95.4, 96.4, 96.8]
    lines = {trace.name: list(trace.y) for trace in analysis.plots.paths(several).data}
    assert lines == {"good/t0000": list(GOOD), "poor/t0000": list(POOR)}


def test_near_ties_of_one_name_are_both_named(several):
    kept = {"t0000@3": 1.4e6, "t0000@4": 1.39e6}, {"t0000@3": 0.8e6, "t0000@4": 0.799e6}
    accuracy = {"t0000@3": 95.4, "t0000@4": 95.0}, {"t0000@3": 93.0, "t0000@4": 92.0}
    for i, sweep in enumerate(("good", "poor")):
        rows = (several["sweep"] == sweep) & several["level"].isin([3, 4])
        several.loc[rows, "macs"] = several.loc[rows, "model"].map(kept[i])
        several.loc[rows, "val_accuracy"] = several.loc[rows, "model"].map(accuracy[i])
    best = analysis.pareto.distinct(several, several.attrs["objectives"])
    assert best.attrs["near_ties"] == {"good/t0000@4": "good/t0000@3", "poor/t0000@4": "poor/t0000@3"}


def test_a_tie_of_another_sweep_may_have_the_name_of_the_choice(several):
    alike = several.assign(val_accuracy=96.0, val_accuracy_low=95.0, val_accuracy_high=97.0)
    rows = alike[alike["model"] == "t0000@4"]
    assert figures.keys_of(tied(rows, rows.iloc[0])) == [("poor", "t0000@4")]


def test_the_table_in_the_terminal_names_the_sweep_and_ranks_each_model(several, tmp_path):
    file = tmp_path / "both.csv"
    several.to_csv(file, index=False)
    done = CliRunner().invoke(main, ["front", str(file), "--all"])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    ranks = {(line[1], line[0]): line[-1] for line in lines if line and line[0].startswith("t0000@")}
    assert set(ranks) == {
        (sweep, f"t0000@{level}") for sweep in ("good", "poor") for level in range(len(KEPT))
    }
    assert (ranks["good", "t0000@4"], ranks["poor", "t0000@4"]) == ("1", "2")
    answer = json.loads(CliRunner().invoke(main, ["front", str(file), "--json"]).stdout)
    assert {(row["sweep"], row["model"]) for row in answer["front"]} == {
        ("good", f"t0000@{level}") for level in (1, 2, 3, 4)
    }


def test_the_card_says_which_sweep_its_model_is_of(several):
    # The baselines have 97 %: 96.4 % at half of the MACs is the cheapest within a point, and poor has none.
    card = first_screen(several, recommend(several))
    assert card.model == "t0000@2"
    assert card.origin.endswith(" Of sweep good.")
    alone = several[several["sweep"] == "good"].copy()
    alone.attrs = several.attrs | {"sweeps": several.attrs["sweeps"][:1]}
    assert "sweep" not in first_screen(alone, recommend(alone)).origin
