"""What `bench` measured, on the report's page: the chosen model first, no claim that noise explains, all escaped."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from analysis.choose.recommend import MEASURE
from analysis.cli.program import main
from analysis.runs import table
from analysis.ship import measured
from analysis.show import report
from analysis.show.speed import speeds
from gcp_core.errors import ConfigError
from tests.analysis.show import tables
from tests.analysis.show.tables import SHA, line, put, result
from tests.analysis.synthetic import baseline_trial, some_trials, write_sweep


@pytest.fixture
def df(tmp_path):
    return tables.of_rows(
        tmp_path, [tables.baseline(), *tables.rows_of("t0001", tables.PATHS["t0001"])], runs=False
    )


def section(page: str) -> str:
    return page.partition('<section id="speed">')[2].partition("</section>")[0]


def test_without_a_result_there_is_no_section(df):
    assert not section(report.html(df))


def test_dense_and_pruned_stand_side_by_side_with_intervals_and_the_accuracy_in_eight_bits(df, tmp_path):
    put(tmp_path / "bench", result())
    (found,) = speeds(df, "t0001@2").models
    same = "no measurable change"
    assert found.times.header[:4] == ["runtime", "batch", "what pruning changes", "unpruned, ms"]
    assert [list(map(str, row)) for row in found.times.rows] == [
        ["torch", "1", "30 % less time", "2.00 (1.98-2.02)", "1.40 (1.39-1.41)", "0.700 (0.690-0.710)"],
        ["ONNX Runtime", "1", "20 % less time", "2.00 (1.98-2.02)", "1.60 (1.58-1.62)", "0.800 (0.790-0.810)"],
        ["ONNX Runtime, int8", "1", same, "2.00 (1.98-2.02)", "1.99 (1.97-2.01)", "0.995 (0.985-1.005)"],
        ["torch", "64", "30 % less time", "2.00 (1.98-2.02)", "1.40 (1.39-1.41)", "0.700 (0.690-0.710)"],
    ]  # fmt: skip
    assert found.times.right == [False, True, False, True, True, True]
    assert [list(row) for row in found.accuracies.rows] == [
        ["torch", "97.00 %", "96.10 %", "-"],
        ["ONNX Runtime, int8", "97.00 %", "95.70 %", "-0.40 points"],
    ]
    shown = section(report.html(df))
    assert "a processor" in shown
    assert "500 validation images" in shown
    assert "Not measured: OpenVINO: openvino is not installed" in shown


@pytest.mark.parametrize(
    ("middle", "said"),
    [(0.01812, "0.0181 (0.0163-0.0199)"), (0.1234, "0.123 (0.111-0.136)"), (39.44, "39.4 (35.5-43.4)"),
     (412.3, "412 (371-454)"), (0.0, "0 (0-0)")],
)  # fmt: skip
def test_a_time_has_three_digits_that_count(df, tmp_path, middle, said):
    times = {"median_ms": middle, "low_ms": 0.9 * middle, "high_ms": 1.1 * middle}
    put(tmp_path / "bench", result(timed=[line(**times)]))
    assert speeds(df, "").models[0].times.rows[0][4] == said


def test_the_card_has_the_measured_latency_and_no_longer_asks_to_measure_it(df, tmp_path):
    before = report.html(df)
    assert MEASURE in before
    chosen = before.partition("<h2>")[2].partition("</h2>")[0]
    put(tmp_path / "bench", result(chosen))
    after = report.html(df)
    assert MEASURE not in after
    assert "<b>30 % less</b>" in after
    assert "1.4 of 2 ms, batch 1" in after
    put(tmp_path / "bench", result(chosen, timed=[line(share=0.995)]))
    assert "<b>no measurable change</b>" in report.html(df)


def test_the_chosen_model_comes_first_and_an_unknown_one_is_named_as_such(df, tmp_path):
    for model in ("t0001@1", "t0001@3", "other"):
        put(tmp_path / "bench", result(model), f"{model}.json")
    found = speeds(df, "t0001@3").models
    assert [one.model for one in found] == ["t0001@3", "other", "t0001@1"]
    assert [one.note for one in found] == ["", "This sweep has no model of that name.", ""]


def test_a_result_of_other_weights_is_marked_and_does_not_reach_the_card(df, tmp_path):
    put(tmp_path / "bench", result("t0001@3"))
    put(tmp_path / "trials" / "t0001" / "snapshots" / "03", {"sha256": "b" * 64}, "manifest.json")
    found = speeds(df, "t0001@3")
    assert found.models[0].note == "The model's weights have changed since: measure it again."
    assert found.chosen is None
    put(tmp_path / "trials" / "t0001" / "snapshots" / "03", {"sha256": SHA}, "manifest.json")
    assert speeds(df, "t0001@3").chosen is not None


def test_a_result_belongs_to_the_sweep_whose_weights_it_names(tmp_path):
    parts = []
    for name, sha, share in (("first", SHA, 0.7), ("second", "b" * 64, 0.5)):
        rows = [tables.baseline(), *tables.rows_of("t0001", tables.PATHS["t0001"])]
        part = tables.of_rows(tmp_path / name, [row | {"sweep": name} for row in rows], runs=False)
        part.attrs["sweeps"][0]["name"] = name
        put(tmp_path / name / "trials" / "t0001" / "snapshots" / "03", {"sha256": sha}, "manifest.json")
        put(
            tmp_path / name / "bench",
            result("t0001@3", sha256=sha, timed=[line(share=share)]),
            "t0001@3.json",
        )
        parts.append(part)
    both = table.concat(parts)
    for sweep, share in (("first", 0.7), ("second", 0.5)):
        found = speeds(both, "t0001@3", sweep=sweep)
        assert found.chosen.single().share.middle == share
        assert [one.note for one in found.models] == ["", ""], "neither has changed"


def test_names_with_html_are_escaped(df, tmp_path):
    bad = "<img src=x onerror=alert(1)>"
    values = result(bad, dense=bad, machine={bad: bad}, skipped={bad: bad})
    values["timed"] = [line(bad)]
    values["accuracies"][0]["runtime"] = bad
    put(tmp_path / "bench", values, "<b>.json")
    put(tmp_path / "bench", "{", "<i>.json")
    shown = section(report.html(df))
    assert "&lt;img src=x" in shown
    assert "&lt;i&gt;.json" in shown
    assert "<img" not in shown
    assert "<i>" not in shown


BROKEN = [
    ("{", "is not JSON"),
    ("[]", "has format None, expected 1"),
    (result(format=2), "has format 2, expected 1"),
    ({"format": 1}, "'model' is missing"),
    (result(timed=[line(median_ms=float("nan"))]), "nan is not a number"),
    (result(timed=[line(median_ms="2")]), "'2' is not a number"),
    (result(timed=[line(batch_size=0)]), "0 is not a whole number above 0"),
    (result(timed=None), "is not a result of bench"),
    (result(machine=[]), "is not a result of bench"),
]


@pytest.mark.parametrize(("content", "said"), BROKEN)
def test_a_broken_file_is_refused_by_name_and_does_not_cost_the_page(df, tmp_path, content, said):
    file = put(tmp_path / "bench", content)
    put(tmp_path / "bench", result("t0001@3"), "t0001@3.json")
    with pytest.raises(ConfigError, match="bench") as error:
        measured.read(file)
    assert said in error.value.message
    shown = section(report.html(df))
    assert "Left out: t0001@2.json" in shown
    assert "30 % less time" in shown


def test_report_takes_results_from_elsewhere_and_refuses_broken_ones(tmp_path):
    write_sweep(tmp_path / "sweep", [baseline_trial(), *some_trials(3)])
    page = tmp_path / "sweep" / "report" / "report.html"
    broken, other = put(tmp_path, "{", "broken.json"), put(tmp_path, result("t0001"), "other.json")
    done = CliRunner().invoke(main, ["report", str(tmp_path / "sweep"), "--bench", str(broken)])
    assert done.exit_code == 2
    assert f"{broken}: is not JSON" in done.stderr
    assert "measure again with `gcp-analyze bench`" in done.stderr
    assert not page.exists()
    done = CliRunner().invoke(main, ["report", str(tmp_path / "sweep"), "--bench", str(other)])
    assert done.exit_code == 0, done.output
    assert "30 % less time" in section(page.read_text())
