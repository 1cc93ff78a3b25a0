"""The commands: exit codes, messages, JSON."""

import dataclasses
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

import analysis
from analysis.cli.program import main
from analysis.cli.shared import guarded
from gcp_core.schema import Tag
from tests.analysis.synthetic import (
    FakeTrial,
    baseline_trial,
    broken_trials,
    config_for,
    finals_of,
    some_trials,
    write_sweep,
)


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_front_prints_the_front_the_baseline_and_who_was_left_out(sweep):
    done = run("front", sweep)
    assert done.exit_code == 0
    front = analysis.pareto.front(analysis.load(sweep), {"val_accuracy": "max", "macs": "min"})
    for trial in front["trial"]:
        assert f"\n{trial} " in done.stdout
    assert "b0000" in done.stdout
    assert (
        f"{len(front)} of 24 finished trials on the front of macs (min), val_accuracy (max)." in done.stdout
    )
    assert "left out: 1 diverged: the loss was not finite [t0025]" in done.stdout


def test_front_json_equals_the_python_answer(sweep):
    answer = json.loads(run("front", sweep, "--json").stdout)
    df = analysis.load(sweep)
    front = analysis.pareto.front(df, {"val_accuracy": "max", "macs": "min"})
    assert {t["trial"] for t in answer["front"]} == set(front["trial"])
    assert answer["front"][0]["config"]["prune.interval"] in (1, 2, 3, 4)
    assert answer["hypervolume"]["points"] == len(front)


def test_front_takes_other_objectives_ranks_and_csv(sweep, tmp_path):
    csv = tmp_path / "front.csv"
    done = run(
        "front",
        sweep,
        "--objective",
        "val_accuracy",
        "--objective",
        "params:min",
        "--all",
        "--csv",
        csv,
        "--json",
    )
    answer = json.loads(done.stdout)
    assert answer["objectives"] == {"val_accuracy": "max", "params": "min"}
    assert len(answer["front"]) == 24
    assert max(t["pareto_rank"] for t in answer["front"]) > 1
    assert len(csv.read_text().splitlines()) == 25
    assert run("front", sweep, "--objective", "epochs").exit_code == 2


def test_select_echoes_constraints_and_explains_the_choice(sweep):
    done = run("select", sweep, "macs <= 50%", "accuracy_drop <= 3", "--best", "accuracy")
    assert done.exit_code == 0
    assert "constraint: macs <= 50 % of the baseline\nconstraint: accuracy_drop <= 3 points\n" in done.stdout
    assert "<- chosen" in done.stdout
    df = analysis.load(sweep)
    rows = df[df["candidate"] & (df["macs_kept"] <= 0.5) & (df["accuracy_drop"] <= 3)]
    best = rows.loc[rows["val_accuracy"].idxmax(), "trial"]
    assert f"{best} has the highest validation accuracy" in done.stdout


def test_nothing_feasible_is_exit_code_3_with_the_numbers(sweep):
    done = run("select", sweep, "macs <= 1%", "accuracy_drop <= 3", "--best", "accuracy", "--json")
    assert done.exit_code == 3
    assert "alone removes 24 of 24" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["removals"][0]["removed"] == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select", "SWEEP", "mac <= 50%", "--best", "accuracy"], 'did you mean "macs"?'),
        (["select", "SWEEP", "macs <= 50%"], "say how to choose"),
        (["select", "SWEEP", "--best", "accuracy", "--knee"], "only one rule at a time"),
        (["select", "nowhere", "--knee"], "a sweep's folder, or its name with --tracking-uri"),
        (["export", "SWEEP", "--id", "t0000", "--out", "SWEEP"], "exists and is not an earlier export"),
        (["select", "SWEEP", "--top", "0"], "0 is not in the range"),
        (["select", "SWEEP", "--bset", "accuracy"], "--best"),
        (["select", "SWEEP", "--best", "acuracy"], 'did you mean "accuracy"?'),
        (["select", "SWEEP", "--cheapest", "mac"], 'did you mean "macs"?'),
        (["select", "SWEEP", "--best", "test_accuracy"], "a choice must not use test accuracy"),
        (["select", "SWEEP", "accuracy_drop <= 1%", "--knee"], "it is counted in points: accuracy_drop <= 1"),
        (["select", "SWEEP", "accuracy >= 0.92", "--knee"], "write 92"),
        (["compare", "SWEEP", "--by", "prune.criterium"], 'did you mean "prune.criterion"?'),
        (["compare", "SWEEP", "--by", "model.name"], "nothing to compare"),
        (["compare", "SWEEP", "--by", "prune.criterion", "--equal", "hours"], "cannot be held equal"),
        (["front", "SWEEP", "--objective", "macs:down"], "is not NAME:max or NAME:min"),
    ],
)
def test_bad_usage_is_exit_code_2_with_a_hint(sweep, arguments, message):
    done = run(*[str(sweep) if a == "SWEEP" else a for a in arguments])
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_a_sweep_without_a_finished_trial_is_exit_code_3(tmp_path):
    write_sweep(tmp_path / "bad", [baseline_trial(), *broken_trials(0)])
    done = run("front", tmp_path / "bad")
    assert done.exit_code == 3
    assert "1 failed: raised an error" in done.stderr


def test_a_running_sweep_is_answered_with_a_note(tmp_path):
    write_sweep(tmp_path / "now", [baseline_trial(), *some_trials(3)], running=True)
    done = run("front", tmp_path / "now")
    assert done.exit_code == 0
    assert "sweep now is still running" in done.stderr


def test_sweeps_that_answer_different_questions_are_compared_only_by_force(sweep, tmp_path):
    trials = [baseline_trial(), *some_trials(4, seed=3)]
    for trial in trials:
        config = trial.config
        trial.config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=40))
    write_sweep(tmp_path / "longer", trials)
    refused = run("compare", sweep, tmp_path / "longer")
    assert refused.exit_code == 2
    assert "do not answer the same question" in refused.stderr
    assert "baseline train.epochs: 40 (longer) / 20 (synthetic)" in refused.stderr
    assert "--force" in refused.stderr
    forced = run("compare", sweep, tmp_path / "longer", "--force", "--equal", "trials")
    assert forced.exit_code == 0, forced.output
    assert "fewer than 6 paired seeds decide nothing: undecided" in forced.stdout


def test_report_writes_nothing_to_the_tracking_store_unless_asked(tmp_path):
    folder = tmp_path / "quiet"
    uri = write_sweep(folder, [baseline_trial(), *some_trials(3)])
    done = run("report", folder, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["published"] is None
    assert (folder / "report" / "report.html").is_file()
    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "quiet"]
    for seen in client.search_runs([experiment.experiment_id]):
        assert not [tag for tag in seen.data.tags if tag.startswith("pareto")], seen.info.run_name
        assert client.list_artifacts(seen.info.run_id) == []


def test_a_limit_without_a_verb_stands_on_the_page(sweep, tmp_path):
    done = run(
        "report",
        sweep,
        "--where",
        "macs <= 50%",
        "--where",
        "accuracy_drop <= 2",
        "--out",
        tmp_path,
        "--json",
    )
    answer = json.loads(done.stdout)
    df = analysis.load(sweep)
    kept = df[df["candidate"] & (df["macs_kept"] <= 0.5) & (df["accuracy_drop"] <= 2)]
    assert answer["constraints"] == ["macs <= 50 % of the baseline", "accuracy_drop <= 2 points"]
    assert answer["feasible"] == len(kept)
    page = (tmp_path / "report.html").read_text()
    assert "<code>macs &lt;= 50 % of the baseline</code> <code>accuracy_drop &lt;= 2 points</code>" in page
    assert f"{len(kept)} of 24 finished trials satisfy them." in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    lines = {line["column"]: line["value"] for line in data["limits"]}
    assert lines == {"macs": 2_000_000.0, "val_accuracy": 95.0}
    nothing = run("report", sweep, "--where", "macs <= 1%", "--out", tmp_path)
    assert nothing.exit_code == 0, nothing.output
    page = (tmp_path / "report.html").read_text()
    assert "0 of 24 finished trials satisfy it." in page
    assert "alone removes 24 of 24 (nearest miss: " in page


def test_where_nothing_is_feasible_there_is_a_page_that_says_so_and_exit_code_3(sweep, tmp_path):
    done = run("report", sweep, "--where", "macs <= 1%", "--best", "accuracy", "--out", tmp_path)
    assert done.exit_code == 3
    page = (tmp_path / "report.html").read_text()
    assert "No finished model keeps the limits" in page
    assert "alone removes 24 of 24 (nearest miss: " in page


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("t0024", "failed: raised an error"),
        ("t0026", "stopped: stopped early; its values have a lower fidelity"),
        ("b0000", "it is a baseline run"),
    ],
)
def test_a_model_that_is_left_out_is_refused_by_id_with_the_reason(sweep, model, why):
    done = run("select", sweep, "--id", model, "--json")
    assert done.exit_code == 3
    assert done.stderr == f"nothing feasible: {model}: cannot be chosen: {why}\n"
    assert json.loads(done.stdout)["removals"] == []


def test_a_twin_is_refused_by_id_with_the_name_of_the_first(tmp_path):
    weights = {Tag.WEIGHTS: "aa"}
    twins = [
        FakeTrial(f"t{i:04d}", config_for(target=0.7 + i / 10), finals_of(0.4, 80.0), tags=weights)
        for i in (0, 1)
    ]
    write_sweep(tmp_path / "twins", [baseline_trial(), *twins])
    done = run("export", tmp_path / "twins", "--id", "t0001", "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "t0001: cannot be chosen: the same model as an earlier trial's (choose t0000)" in done.stderr


def test_a_sweep_without_a_finished_trial_has_a_page_that_says_so(tmp_path):
    write_sweep(tmp_path / "none", [baseline_trial(), *broken_trials(0)])
    done = run("report", tmp_path / "none", "--where", "macs <= 50%", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["feasible"] == 0
    page = (tmp_path / "none" / "report" / "report.html").read_text()
    assert "No model is finished" in page
    assert "1 diverged: the loss was not finite" in page


def test_near_ties_are_left_out_of_tables_figures_and_tags_and_band_brings_them_back(tmp_path):
    trials = [FakeTrial(f"t{i:04d}", config_for(target=0.5 + i / 100), finals_of(kept, accuracy))
              for i, (kept, accuracy) in enumerate([(0.5, 90.0), (0.498, 80.0), (0.3, 75.0)])]  # fmt: skip
    uri = write_sweep(tmp_path / "near", [baseline_trial(), *trials])
    done = run("front", tmp_path / "near")
    assert "2 of 3 finished trials on the front" in done.stdout
    assert "near-ties left out, a better trial costs practically the same: t0001 (t0000)" in done.stdout
    answer = json.loads(run("front", tmp_path / "near", "--json").stdout)
    assert [t["trial"] for t in answer["front"]] == ["t0002", "t0000"]
    assert answer["near_ties"] == {"t0001": "t0000"}
    everything = json.loads(run("front", tmp_path / "near", "--band", "0", "--json").stdout)
    assert [t["trial"] for t in everything["front"]] == ["t0002", "t0001", "t0000"]
    assert everything["hypervolume"] == answer["hypervolume"], "the number is that of the whole front"

    def shown(*options):
        assert run("report", tmp_path / "near", *options).exit_code == 0
        folder = tmp_path / "near" / "report"
        table = set(pd.read_csv(folder / "front.csv")["trial"])
        points = pd.read_csv(folder / "front_macs.csv")
        assert set(points.loc[points["role"] == "front", "trial"]) == table
        return table, (folder / "report.html").read_text()

    table, page = shown("--publish")
    assert table == {"t0000", "t0002"}
    assert "at practically the same cost): t0001 (t0000)." in page
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("near").experiment_id
    tagged = client.search_runs([experiment], "tags.`pareto.front` = 'true'")
    assert {seen.info.run_name for seen in tagged} == table
    assert shown("--band", "0")[0] == {"t0000", "t0001", "t0002"}


def test_the_hypervolume_says_its_anchors_and_the_old_one_stands_beside_it(sweep, tmp_path):
    said = run("front", sweep).stdout
    assert "val_accuracy from 87.00 % to 97.00 % (10 points below the mean baseline, to it)" in said
    answer = json.loads(run("front", sweep, "--json").stdout)["hypervolume"]
    assert f"hypervolume {answer['value']:.4f} of the box" in said
    assert f"hypervolume {answer['from_chance']:.4f} with accuracy from chance" in said
    assert answer["value"] < answer["from_chance"]
    old = json.loads(run("front", sweep, "--usable", "chance", "--json").stdout)["hypervolume"]
    assert (old["value"], old["from_chance"]) == (answer["from_chance"], None)
    assert run("front", sweep, "--usable", "0").exit_code == 2
    assert run("report", sweep, "--usable", "5", "--out", tmp_path).exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert "5 points below the mean baseline, to it" in page
    assert f"with accuracy from chance it is {answer['from_chance']:.3f}" in page


def test_a_band_that_is_no_share_is_refused(sweep):
    done = run("front", sweep, "--band", "5")
    assert done.exit_code == 2
    assert "did you mean 5%?" in done.stderr
    assert run("front", sweep, "--band", "much").exit_code == 2


def test_test_accuracy_makes_no_front(sweep):
    refused = run("front", sweep, "--objective", "test_accuracy:max", "--objective", "macs:min")
    assert refused.exit_code == 2
    assert "test accuracy cannot be an objective" in refused.stderr
    assert run("front", sweep, "--objective", "accuracy:max", "--objective", "macs").exit_code == 0


@pytest.mark.usefixtures("rendered")
def test_report_writes_the_page_and_publishes(tmp_path):
    folder = tmp_path / "rep"
    write_sweep(folder, [baseline_trial(), *some_trials(6)])
    done = run("report", folder, "--best", "accuracy", "--where", "macs <= 90%", "--publish", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (folder / "report" / "report.html").is_file()
    assert answer["page"] == str(folder / "report" / "report.html")
    assert len(answer["published"]["front"]) >= 1
    # The figures show the choice, although publishing drew them without one.
    assert "chosen" in (folder / "report" / "front_macs.csv").read_text()


def test_what_has_no_parent_run_is_not_published_and_nothing_is_written(sweep, tmp_path):
    write_sweep(tmp_path / "other", [baseline_trial(), *some_trials(3)])
    run("front", sweep, "--csv", tmp_path / "front.csv")
    for given, why in (
        ((sweep, tmp_path / "other"), "--publish: 2 sweeps have no run of their own in MLflow"),
        ((tmp_path / "front.csv",), "--publish: a file has no run in MLflow"),
    ):
        refused = run("report", *given, "--publish", "--out", tmp_path / "page")
        assert (refused.exit_code, why in refused.stderr) == (2, True), refused.output
        assert not (tmp_path / "page").exists()


def test_no_baseline_is_said(tmp_path):
    write_sweep(tmp_path / "alone", some_trials(4))
    done = run("front", tmp_path / "alone")
    assert done.exit_code == 0
    assert "no baseline: drops and shares of the baseline are unknown" in done.stdout
    refused = run("select", tmp_path / "alone", "macs <= 50%", "--best", "accuracy")
    assert refused.exit_code == 2
    assert "needs a finished baseline" in refused.stderr
    report = run("report", tmp_path / "alone", "--no-publish")
    assert report.exit_code == 0, report.output


WRITERS = [
    ("front", "--csv", ()),
    ("select", "--csv", ("--id", "t0003")),
    ("select", "--write-config", ("--id", "t0003")),
    ("advise", "--write", ()),
    ("compare", "--out", ()),
    ("report", "--out", ()),
    ("export", "--out", ("--id", "t0003")),
    ("bench", "--out", ("--id", "t0003")),
]


@pytest.mark.parametrize(("command", "option", "words"), WRITERS)
def test_a_path_below_a_file_is_one_line_and_exit_code_1_before_the_work(
    tmp_path, monkeypatch, command, option, words
):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("analysis.runs.load.load", lambda *_, **__: pytest.fail("read first"))
    path = tmp_path / "file" / "x.csv"
    done = CliRunner().invoke(main, [command, "nowhere", *words, option, str(path)])
    assert done.exit_code == 1, done.output
    assert done.stderr == f"error: {path}: cannot be written: {tmp_path / 'file'} is not a folder\n"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_written_to_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != tmp_path)
    done = CliRunner().invoke(main, ["front", "nowhere", "--csv", str(tmp_path / "new" / "f.csv")])
    assert done.exit_code == 1
    assert done.stderr.endswith(f"f.csv: cannot be written: {tmp_path} is read-only here\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "f.csv"), "f.csv: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_writing_that_fails_late_is_one_line_and_exit_code_1(sweep, tmp_path, monkeypatch, error, said):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_csv", fails)
    done = CliRunner().invoke(main, ["front", str(sweep), "--csv", str(tmp_path / "f.csv")])
    assert (done.exit_code, done.stderr) == (1, f"error: {said}\n")


@pytest.mark.parametrize("own", [None, "9"])
def test_a_server_that_is_away_is_asked_for_half_a_minute_or_as_often_as_the_user_said(own, monkeypatch):
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(name, own)
    seen = []
    guarded(lambda: seen.append(os.environ[name]))()
    assert seen == [own or "4"]
    assert os.environ.get(name) == own, "whoever runs commands in one process keeps what there was"


@pytest.mark.parametrize(("command", "words"), [("front", ()), ("select", ("--id", "t0003"))])
def test_folders_above_a_csv_are_made(sweep, tmp_path, command, words):
    file = tmp_path / "new" / "folder" / "f.csv"
    assert CliRunner().invoke(main, [command, str(sweep), *words, "--csv", str(file)]).exit_code == 0
    assert "t0003" in file.read_text() or command == "front"


def test_json_never_contains_nan(sweep):
    def refuse(word):
        raise AssertionError(word)

    for command in (["front", sweep, "--json", "--all"], ["select", sweep, "--top", "3", "--json"]):
        json.loads(run(*command).stdout, parse_constant=refuse)
