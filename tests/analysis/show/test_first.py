"""The card of the report: its tag, what the model's name means, and what its bars show; the facts above it."""

from dataclasses import replace

import pytest

from analysis.choose import constraints as hard
from analysis.choose.recommend import recommend
from analysis.cli import answers
from analysis.runs.table import finish
from analysis.show import report
from analysis.show.first import first_screen
from analysis.show.payload import payload, run_link
from tests.analysis.show import tables


@pytest.fixture
def df(tmp_path):
    rows = [tables.baseline(), *tables.rows_of("t0001", tables.PATHS["t0001"])]
    return tables.of_rows(tmp_path / "own", rows, runs=False)


def card(df, model):
    """The card that says this row is the choice."""
    found = recommend(df)
    return first_screen(
        df, replace(found, choice=replace(found.choice, rows=df[df["model"] == model].iloc[:1]))
    )


def changed(df, **columns):
    table = df.assign(**columns)
    table.attrs = df.attrs
    return table


@pytest.mark.parametrize(
    ("model", "origin"),
    [
        ("t0001@0", "Trial t0001, before its first pruning step; trained for 4 epochs"),
        ("t0001@1", "Trial t0001, after its 1st pruning step; trained for 6 epochs"),
        ("t0001@2", "Trial t0001, after its 2nd pruning step; trained for 8 epochs"),
        ("t0001@3", "Trial t0001, after its 3rd pruning step; trained for 10 epochs"),
        ("t0001@4", "Trial t0001, after its 4th pruning step; trained for 12 epochs"),
    ],
)
def test_the_card_says_what_the_name_means_and_how_long_it_was_trained(df, model, origin):
    alone = changed(df, baseline_epochs=float("nan"), train_cost=float("nan"))
    assert card(alone, model).origin == f"{origin}."
    known = changed(df, baseline_epochs=36.0, train_cost=7.25)
    assert card(known, model).origin == f"{origin} (at the cost of 7.2 unpruned ones), its baseline for 36."


def test_what_is_missing_is_left_out_of_the_origin(df):
    single = changed(df, level=float("nan"), epochs=float("nan"))
    assert card(single, "t0001@2").origin == "Model at the end of trial t0001."
    polished = changed(df, polish=30.0, epochs=38.0, train_cost=float("nan"), baseline_epochs=float("nan"))
    assert card(polished, "t0001@2").origin == (
        "Trial t0001, after its 2nd pruning step, trained for another 30 epochs; trained for 38 epochs in all."
    )


def test_a_page_without_a_finished_model_takes_a_limit_on_what_nobody_has_measured_yet(tmp_path):
    rows = [{**tables.baseline(), "kind": "trial", "status": "failed", "error": "ValueError: no"}]
    df = tables.of_rows(tmp_path, rows)
    df.attrs["sweeps"][0] |= {"tracking_uri": ""}  # nobody answers there, and MLflow waits for minutes
    page = report.html(df, constraints=[hard.parse("latency_ms <= 50%")])
    assert "No model is finished" in page


def test_a_secret_in_a_tracking_address_gets_neither_into_links_nor_into_answers(df):
    address = "https://me:geheim99@mlflow.example/team?token=heimlich1"
    df.attrs["sweeps"][0] |= {"tracking_uri": address, "experiment_id": "1"}
    row = df[df["model"] == "t0001@2"].iloc[0].to_dict()
    assert run_link(df, row) == "https://mlflow.example/team/#/experiments/1/runs/runt00012"
    (said,) = answers.about(df)["sweeps"]
    assert said["tracking_uri"] == "https://me:***@mlflow.example/team?token=***"


def test_the_tag_says_whether_the_model_may_go_out(df):
    found = recommend(df)
    tags = [
        first_screen(df, replace(found, basis=basis, standing=standing, confirmed=confirmed)).tag
        for basis, standing, confirmed in (
            ("nearest", "miss", False),
            ("within", "open", False),
            ("within", "proven", False),
            ("within", "proven", True),
            ("within", "miss", True),
        )
    ]
    assert tags == [
        "Nearest miss: do not ship yet",
        "Recommended, not confirmed",
        "Recommended by default",
        "Recommended, confirmed",
        "Missed on fresh seeds: do not ship yet",
    ]


def test_a_bar_shows_what_is_removed(df):
    macs = card(df, "t0001@4").savings[0]
    assert (macs.words, macs.gone) == ("80.0 % fewer", pytest.approx(80))
    row = df["model"] == "t0001@4"
    grown = card(changed(df, macs=df["macs"].where(~row, 1.1 * tables.MACS)), "t0001@4").savings[0]
    assert (grown.words, grown.gone) == ("10.0 % more", 0.0)


@pytest.mark.parametrize(
    ("own", "share", "noise", "said"),
    [
        (
            6.0,
            0.6,
            0.02,
            ("40 % less", "6 of about 10 ms, batch 1", 60.0),
        ),  # on a slower node than the baseline's
        (2.0, 1.25, 0.02, ("25 % more", "2 of about 1.6 ms, batch 1", 125.0)),  # on a faster one
        (5.0, 0.97, 0.05, ("no measurable change", "5 of about 5.15 ms, batch 1", 97.0)),
        (2.5, None, None, ("50 % less", "2.5 of 5 ms, batch 1", 50.0)),  # a sweep of an earlier version
    ],
)
def test_the_latency_on_the_card_is_that_beside_the_unpruned_model(df, own, share, noise, said):
    """Not beside the baseline's latency (5 ms), which another process has measured, maybe on another machine."""
    latency = df["val_accuracy"].where(df["kind"] == "baseline").mul(0).add(5.0).fillna(own)
    table = changed(df, latency_ms=latency, latency_share=share, latency_noise=noise)
    shown = card(finish(table), "t0001@4").savings[2]
    assert (shown.words, shown.detail, pytest.approx(shown.share)) == said


def test_a_model_that_loses_just_as_much_as_the_slider_of_the_page_allows_is_shown(df):
    """97.4 - 97.1 is 0.30000000000001137 in binary, and the page compares with 0.3."""
    base = df["kind"] == "baseline"
    accuracy = df["val_accuracy"].mask(base, 97.4).mask(df["model"] == "t0001@1", 97.1)
    table = finish(changed(df, val_accuracy=accuracy, accuracy_drop=float("nan")))
    assert table.set_index("model").loc["t0001@1", "accuracy_drop"] > 0.3
    data = payload(table, recommend(table), None, (), 0.01)
    assert {r["model"]: r["accuracy_drop"] for r in data["trials"]}["t0001@1"] == 0.3


def test_the_head_names_the_data_and_the_network_and_explains_the_hypervolume(df):
    page = report.html(
        changed(df, **{"data.name": "parquet", "data.path": "/data/birds", "model.name": "tiny"})
    )
    assert "<b>birds (parquet)</b> data" in page
    assert "<b>tiny</b> network" in page
    assert "of 1 hypervolume" in page
    assert 'title="How much of the box' in page
