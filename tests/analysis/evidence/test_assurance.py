"""What replicates and fresh seeds say about a front, in words, in JSON and in the report."""

import dataclasses
import json

import pandas as pd
import pytest
from click.testing import CliRunner

import analysis
from analysis.cli.program import main
from analysis.evidence import noise
from analysis.evidence.assurance import assurance
from analysis.show import report
from tests.analysis.cli.test_schemas import check
from tests.analysis.evidence.tables import runs
from tests.analysis.synthetic import baseline_trial, reseeded, some_trials, write_sweep

GOALS = {"val_accuracy": "max", "macs": "min"}
#: Accuracies of the fresh seeds relative to the search's: mean -0.5, standard deviation 0.1.
FRESH = (-0.6, -0.5, -0.4)


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory):
    """Six single-seed trials; the best of them (by accuracy) was run again on three fresh seeds."""
    trials = some_trials(6, seed=5)
    best = max(trials, key=lambda t: t.finals["val_accuracy"])
    again = [
        reseeded(best, f"c{i:04d}", 10 + i, best.finals["val_accuracy"] + d, kind="confirm")
        for i, d in enumerate(FRESH)
    ]
    folder = tmp_path_factory.mktemp("sure") / "confirmed"
    write_sweep(folder, [baseline_trial(), *trials, *again])
    return folder, best


def test_confirm_runs_never_enter_the_front_but_tell_mean_and_spread(confirmed):
    folder, best = confirmed
    df = analysis.load(folder)
    assert df["candidate"].sum() == 6
    front = set(analysis.pareto.front(df, GOALS)["trial"])
    assert {best.trial} <= front <= {f"t{i:04d}" for i in range(6)}
    (found,) = noise.confirmations(df)
    assert (found.trial, found.n) == (best.trial, 3)
    assert found.drop == pytest.approx(0.5)
    # t(2) at 90 % = 1.8856: half width 1.8856 x 0.1 / sqrt(3)
    assert found.high - found.low == pytest.approx(2 * 1.8856 * 0.1 / 3**0.5, abs=1e-4)
    sure = assurance(df, GOALS)
    assert sure.std["val_accuracy"] == pytest.approx(0.1)
    assert sure.replicated == 1
    assert len(sure.groups) == 6, "configurations, not runs"
    assert sure.groups.set_index("config_id").loc[best.config.config_id(), "n"] == 4


def test_front_says_noise_what_is_ruled_out_and_confirmation(confirmed):
    folder, best = confirmed
    done = CliRunner().invoke(main, ["front", str(folder)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    # MACs of the fresh seeds are those of the search: no spread.
    assert (
        "noise: runs that differ only by their seed spread by 0 MACs (macs), 0.10 points (val_accuracy), pooled over "
        "1 configuration"
    ) in lines
    assert any(line.startswith("robust front, means less one standard error: t0") for line in lines)
    (sure,) = [line for line in lines if line.startswith("surely not on the front: ")]
    out = int(sure.split(": ")[1].split(" of ")[0])
    assert sure.endswith(
        f"of 6 configurations (each wrong with at most 5 %); these seeds cannot tell which of the other {6 - out} are"
    )
    said = f"{best.trial} was selected at {best.finals['val_accuracy']:.2f} %; 3 fresh seeds give "
    assert next(line for line in lines if line.startswith(said)).endswith(": 0.50 points less")
    assert lines[0].split()[-1] == "seeds"
    (row,) = [line for line in lines if line.startswith(best.trial + " ") and "was selected" not in line]
    assert row.split()[-1] == "4", "one of the search, three fresh ones"
    answer = json.loads(CliRunner().invoke(main, ["front", str(folder), "--json"]).stdout)
    check(answer)
    assert answer["noise"]["known"]
    assert answer["noise"]["confirmed"][0]["drop"] == pytest.approx(0.5)
    assert sum(c["ruled_out"] for c in answer["noise"]["configurations"]) == out


def test_a_configuration_whose_seeds_are_of_the_search_and_of_confirm_runs_is_one_configuration():
    search = runs([("a", s, 90.0 + s, 10.0) for s in range(3)])
    fresh = runs([("a", 10 + s, 89.0 + s, 10.0) for s in range(3)], kind="confirm").assign(candidate=False)
    df = pd.concat([search, fresh], ignore_index=True)
    df.attrs = search.attrs
    sure = assurance(df, GOALS)
    assert sure.groups["n"].tolist() == [6]
    assert sure.replicated == 1


def test_the_robust_front_is_named_where_macs_are_no_objective(confirmed):
    folder, _ = confirmed
    words = ["front", str(folder), "--objective", "accuracy", "--objective", "params"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("robust front")]
    groups = assurance(analysis.load(folder), {"val_accuracy": "max", "params": "min"}).groups
    cheapest_first = groups[groups["robust"]].sort_values("params")
    assert said.split(": ")[1] == ", ".join(
        f"{model} (n = {n})" for model, n in zip(cheapest_first["model"], cheapest_first["n"])
    )


@pytest.mark.parametrize("objective", ["macs", "latency_ms"])
def test_a_front_without_a_finished_trial_says_so_whatever_it_is_the_front_of(tmp_path, objective):
    file = tmp_path / "failed.csv"
    file.write_text("trial,status,val_accuracy,macs,params\nt0000,failed,,,\n")
    done = CliRunner().invoke(main, ["front", str(file), "--objective", "accuracy", "--objective", objective])
    assert done.exit_code == 3, done.output
    assert "the sweep has no finished trial" in done.stderr
    assert "1 failed: raised an error" in done.stderr


def test_a_front_names_the_models_that_have_no_value_of_an_objective(tmp_path):
    file = tmp_path / "some.csv"
    file.write_text(
        "trial,status,val_accuracy,macs,params,latency_ms\nt0000,complete,90,50,5,2\nt0001,complete,91,60,6,\n"
        "t0002,failed,,,,\n"
    )
    words = ["front", str(file), "--objective", "accuracy", "--objective", "latency_ms"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "left out: 1 no finite latency_ms [t0001]" in done.stdout
    answer = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    check(answer)
    assert answer["left_out"] == {"failed: raised an error": ["t0002"], "no finite latency_ms": ["t0001"]}


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ("", "no baseline: drops and shares"),
        ("b0000,baseline,failed,,,\n", "no baseline has finished: drops and shares"),
        ("b0000,baseline,complete,97,100,10\n", ""),
    ],
)
def test_a_front_says_that_no_baseline_has_finished_also_where_one_has_failed(tmp_path, baseline, said):
    file = tmp_path / "one.csv"
    file.write_text(f"trial,kind,status,val_accuracy,macs,params\nt0000,trial,complete,90,50,5\n{baseline}")
    done = CliRunner().invoke(main, ["front", str(file)])
    assert done.exit_code == 0, done.output
    assert said in done.stdout
    assert ("no baseline" in done.stdout) == bool(said)
    page = report.html(analysis.load(file))
    assert ("<b>No baseline finished</b>" in page) == bool(said)


def test_without_replicates_the_front_warns_instead(sweep):
    done = CliRunner().invoke(main, ["front", str(sweep)])
    assert "how sure: not known (no configuration was run with more than one seed" in done.stdout
    assert "overstates accuracy" in done.stdout
    answer = json.loads(CliRunner().invoke(main, ["front", str(sweep), "--json"]).stdout)
    assert answer["noise"]["known"] is False
    assert answer["noise"]["configurations"] == []


def test_the_report_shows_selected_against_confirmed_with_figure_and_table(confirmed, tmp_path):
    folder, best = confirmed
    written = report.write(analysis.load(folder), tmp_path / "report")
    text = written.page.read_text().split('<script type="application/json"')[0]
    assert "<h2>Selected and confirmed</h2>" in text
    assert f"<td>{best.trial}</td>" in text.split("Selected and confirmed")[1]
    assert {"confirmed.png", "confirmed.svg", "confirmed.csv"} <= {file.name for file in written.files}
    row = pd.read_csv(tmp_path / "report" / "confirmed.csv").iloc[0]
    assert row["selected"] - row["mean"] == pytest.approx(0.5)


@pytest.mark.usefixtures("rendered")
def test_every_figure_of_the_report_has_its_csv(confirmed, tmp_path):
    written = report.write(analysis.load(confirmed[0]), tmp_path / "r")
    pictures = {file.stem for file in written.files if file.suffix == ".png"}
    tables = {file.stem for file in written.files if file.suffix == ".csv"}
    assert {"front_macs", "front_params", "front_latency_ms", "hypervolume_trials", "confirmed"} <= pictures
    assert pictures <= tables
    assert all(file.stat().st_size > 500 for file in written.files if file.suffix in (".png", ".svg"))


def test_a_front_trial_whose_other_seeds_rule_it_out_is_marked(tmp_path):
    """A lucky seed stands on the front of single trials; three others show that its configuration is beaten."""
    solid, lucky = some_trials(2, seed=5)
    trials = [reseeded(solid, f"t{i:04d}", i, 95.0 + d) for i, d in enumerate((-0.1, 0.0, 0.1, 0.0))]
    worse = dataclasses.replace(lucky, finals={**lucky.finals, "macs": solid.finals["macs"]})
    seen = (95.2, 80.1, 80.0, 79.9)
    for i, accuracy in enumerate(seen, start=4):
        again = reseeded(worse, f"t{i:04d}", i - 4, accuracy)
        trials.append(dataclasses.replace(again, finals={**again.finals, "macs": solid.finals["macs"]}))
    more = [
        reseeded(t, f"c{i:04d}", 10 + i, 97.0 + 0.01 * i)
        for i, t in enumerate([some_trials(3, seed=9)[2]] * 12)
    ]
    write_sweep(tmp_path / "s", [baseline_trial(), *trials, *more])
    done = CliRunner().invoke(main, ["front", str(tmp_path / "s"), "--all"])
    rows = {
        line.split()[0]: line for line in done.stdout.splitlines() if line[:1] in "tc" and " rank " in line
    }
    assert " yes " in rows["t0004"]
    assert " yes " not in rows["t0000"]
