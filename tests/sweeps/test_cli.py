"""Exit codes, one-line errors, JSON, and what ``--help`` must not load."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from click.testing import CliRunner, Result

from sweeps.cli import _exit_code, main
from sweeps.commands.closing import closing_words
from sweeps.driver.launch import Sweep
from sweeps.records.folder import Entry, write_config, write_entry
from tests.sweeps.inline import config, drive, new_conductor

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs" / "digits_single.yaml")


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("words", [[], ["run"], ["plan"], ["check"], ["status"], ["trial"]])
def test_help_loads_neither_torch_nor_ray_nor_mlflow_nor_optuna(words: list[str]) -> None:
    code = (
        "import sys\nfrom sweeps.cli import main\n"
        f"try: main({[*words, '--help']!r})\nexcept SystemExit as end: assert end.code == 0\n"
        "loaded = {'torch', 'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize(
    ("program", "module", "extra"),
    [("gcp-sweep", "sweeps.cli", "sweep"), ("gcp-analyze", "analysis.cli.program", "analysis")],
)
def test_a_program_that_was_installed_without_its_extra_names_it(
    program: str, module: str, extra: str
) -> None:
    """``pip install .`` brings both programs, and nothing that they need."""
    code = f"import sys\nsys.modules['click'] = None\nfrom {module} import main\n"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (1, "")
    assert (
        said.stderr
        == f"error: {program} was installed without what it needs (pip install 'gcp-sweep[{extra}]')\n"
    )


@pytest.mark.parametrize("verb", ["run", "plan", "check", "trial"])
def test_a_misspelt_key_is_one_line_and_exit_code_2(verb: str, tmp_path: Path) -> None:
    result = _call(verb, DEMO, "prune.intervall=3", f"storage={tmp_path}")
    assert result.exit_code == 2
    assert result.stderr == 'error: prune.intervall: unknown key (value 3) (did you mean "interval"?)\n'
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_json_too() -> None:
    result = _call("plan", DEMO, "search.trials=0", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "error": "0 is not a whole number >= 1",
        "where": "search.trials",
        "hint": "a sweep needs at least one trial",
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "tracking.uri=http://127.0.0.1:9",
            "tracking.uri: the tracking server http://127.0.0.1:9 does not answer",
        ),
        ("tracking.uri=mlruns", "tracking.uri: 'mlruns' is not the address of a tracking server"),
        ("storage=/proc/1", "storage: /proc/1 cannot be written"),
    ],
)
def test_a_place_that_cannot_be_used_is_exit_code_2_and_leaves_nothing(
    override: str, message: str, tmp_path: Path
) -> None:
    result = _call("run", DEMO, f"storage={tmp_path}", override)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_config_is_exit_code_2_and_offers_new(tmp_path: Path) -> None:
    checked = config(tmp_path)
    Path(checked.folder).mkdir()
    write_config(Path(checked.folder), checked)
    file = tmp_path / "config.yaml"
    file.write_text((Path(checked.folder) / "config.yaml").read_text())
    result = _call("run", str(file), "train.epochs=9")
    assert result.exit_code == 2
    assert "the sweep exists with a different config: train.epochs: 2 -> 9" in result.stderr
    assert "--new" in result.stderr


def test_an_unknown_verb_or_option_is_exit_code_2() -> None:
    assert _call("sweep").exit_code == 2
    assert _call("run", DEMO, "--fast").exit_code == 2


def _played(tmp_path: Path, **overrides: object) -> Path:
    checked = config(tmp_path, overrides)
    conductor, _, _ = new_conductor(checked)
    drive(conductor)
    folder = Path(checked.folder)
    write_config(folder, checked)
    write_entry(
        folder, Entry("0123456789ab", checked.name, None, checked.name, "run", checked.digest(), "complete")
    )
    return folder


def test_status_counts_trials_and_lists_failures_with_their_logs(tmp_path: Path) -> None:
    folder = _played(tmp_path, **{"model.name": "third-broken", "search.trials": 20})
    state = json.loads(_call("status", str(folder), "--json").stdout)
    assert (state["trials"], state["planned"], state["baselines"]) == (20, 20, {"complete": 1})
    assert sum(state["statuses"].values()) == 20
    assert len(state["failures"]) == state["statuses"]["failed"] > 0
    assert all(Path(failure["log"]).name == "traceback.txt" for failure in state["failures"])
    text = _call("status", str(folder), "--failed")
    assert text.exit_code == 0
    assert "failed: ValueError: no such thing at target" in text.stdout


def test_status_of_a_folder_without_a_sweep_is_exit_code_2(tmp_path: Path) -> None:
    result = _call("status", str(tmp_path))
    assert result.exit_code == 2
    assert "there is no sweep in this folder (a sweep's folder is STORAGE/NAME)" in result.stderr


def _sweep(state: str = "complete", unwritten: int = 0, **statuses: int) -> Sweep:
    uri = "sqlite:////elsewhere/runs/x/mlflow.db"
    return Sweep(Path("/elsewhere/runs/x"), "x", "id", uri, "run", state, "", statuses, unwritten)


@pytest.mark.parametrize(
    ("sweep", "code"),
    [
        (_sweep(complete=3, failed=1), 0),
        (_sweep("failed", failed=3), 1),
        (_sweep("interrupted", complete=1), 1),
        (_sweep(complete=3, unwritten=2), 1),
        (_sweep(failed=3), 1),
        (_sweep(infeasible=3), 3),
        (replace(_sweep(infeasible=3), feasible=5), 0),  # models on the way of paths that went too deep
        (replace(_sweep(failed=3), feasible=5), 1),
        (replace(_sweep("interrupted", infeasible=3), feasible=5), 1),
    ],
)
def test_the_exit_code_says_how_the_sweep_ended(sweep: Sweep, code: int) -> None:
    assert _exit_code(sweep) == code


def test_the_closing_words_say_what_to_type_next() -> None:
    text = closing_words(_sweep(complete=3, failed=1), "gcp-sweep run x.yaml")
    for words in (
        "gcp-analyze front /elsewhere/runs/x",
        "gcp-sweep status /elsewhere/runs/x --failed",
        "mlflow ui --backend-store-uri sqlite:////elsewhere/runs/x/mlflow.db",
        "optuna-dashboard /elsewhere/runs/x/journal.log",
    ):
        assert words in text
    assert "continue:" not in text
    assert "continue:  gcp-sweep run x.yaml" in closing_words(_sweep("interrupted"), "gcp-sweep run x.yaml")


def test_paths_that_end_as_infeasible_have_models_to_look_at() -> None:
    text = closing_words(replace(_sweep(infeasible=3), feasible=5), "again", of_paths=True)
    assert "a path counts by its last model; 5 of the models keep all constraints" in text
    assert "gcp-analyze front /elsewhere/runs/x" in text
    assert "gcp-analyze front" not in closing_words(_sweep(infeasible=3), "again", of_paths=True)


def test_what_the_closing_words_say_to_type_can_be_pasted() -> None:
    uri = "sqlite:////else where/x/mlflow.db"
    sweep = replace(_sweep(complete=3, failed=1), folder=Path("/else where/x"), tracking_uri=uri)
    text = closing_words(sweep, "again")
    for words in (
        "gcp-analyze front '/else where/x'",
        "gcp-analyze select '/else where/x' \"macs <= 50%\" --best accuracy",
        "gcp-analyze report '/else where/x'",
        "gcp-sweep status '/else where/x' --failed",
        "mlflow ui --backend-store-uri 'sqlite:////else where/x/mlflow.db'",
        "optuna-dashboard '/else where/x/journal.log'",
    ):
        assert words in text
    assert "optuna-dashboard 'postgresql://db/x?host=/run'" in closing_words(
        sweep, "again", "postgresql://db/x?host=/run"
    )


def test_run_says_how_to_continue_on_the_same_cluster_with_the_same_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my config.yaml"
    file.write_text(Path(DEMO).read_text())
    monkeypatch.setattr("sweeps.driver.launch.run", lambda config, launch: _sweep("interrupted"))
    given = ["run", str(file), "search.trials=2", f"storage={tmp_path}", "--address", "auto"]
    result = _call(*given, "--new")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("continue:")]
    assert shlex.split(line.removeprefix("continue:")) == [
        "gcp-sweep",
        *given[:4],
        "name=x",
        "--address",
        "auto",
    ]


VIEWS = {"models, best first": "#/experiments/1/runs?viewStateShareKey=a", "charts": "#/experiments/1/runs?b"}


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("sqlite:////elsewhere/runs/x/mlflow.db", "http://127.0.0.1:5000"),
        ("https://ml.test/", "https://ml.test"),
    ],
)
def test_the_closing_words_end_in_the_addresses_of_the_views(uri: str, host: str) -> None:
    text = closing_words(replace(_sweep(complete=3), tracking_uri=uri, views=VIEWS), "again")
    assert f"    models, best first: {host}/#/experiments/1/runs?viewStateShareKey=a" in text
    assert f"    charts:             {host}/#/experiments/1/runs?b" in text
    assert "Columns:" not in text


def test_without_a_view_the_closing_words_say_what_to_click() -> None:
    text = closing_words(_sweep(complete=3), "again")
    assert "experiment x, Runs: type tags.kind = 'trial' into the search field" in text
    assert "viewStateShareKey" not in text
    assert "tags.kind = 'snapshot'" in closing_words(_sweep(complete=3), "again", of_paths=True)


def test_a_trial_by_itself_says_where_it_takes_a_gpu_that_its_sweep_would_not_give_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    ended = SimpleNamespace(status="stopped", error="", finals={})
    monkeypatch.setattr("gcp_core.training.run_trial", lambda *_, **__: ended)
    assert "note: this trial takes a GPU; in a sweep with resources.gpus 0" in _call("trial", DEMO).stderr
    assert _call("trial", DEMO, "resources.gpus=1").stderr == ""


def test_a_path_in_this_process_tells_its_models() -> None:
    words = [DEMO, "data.train_images=200", "model.width=0.125", "train.schedule=cycles", "train.epochs=null",
             "prune.until=null", "prune.start=2", "prune.interval=1", "prune.ratio=0.5", "prune.target=0.7"]  # fmt: skip
    result = _call("trial", *words, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [s["level"] for s in answer["snapshots"]] == [0, 1, 2]
    assert answer["snapshots"][-1]["weights_sha256"] == answer["weights_sha256"]
    assert answer["snapshots"][2]["finals"]["macs_removed"] >= 0.75
    assert "@1: " in result.stderr
    assert "epoch   2: val accuracy" in result.stderr
    schema = json.loads((ROOT / "docs" / "schemas" / "sweep" / "trial.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(answer, schema)
