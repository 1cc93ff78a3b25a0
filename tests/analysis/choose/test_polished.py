"""``select --polish``: the command for what was chosen; and what a config can say of a polished model."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from analysis.cli.program import main
from tests.analysis.synthetic import path_baseline, path_of, some_trials, write_sweep

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "schemas" / "select.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("polished") / "two words"
    polished = dataclasses.replace(path_of("t0000"), polished={(2, 30): 2.0})
    write_sweep(folder, [path_baseline(0), polished, some_trials(1, first=1)[0]], name="paths")
    return folder


def call(*words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_for_the_chosen_snapshot_is_printed_ready_to_type(folder):
    command = f"gcp-sweep polish '{folder}' t0000@3 train.epochs=12"
    code, out, _ = call("select", folder, "--id", "t0000@3", "--polish", "12")
    assert code == 0
    assert out.splitlines()[-1] == f"polish it: {command}"
    code, out, _ = call("select", folder, "--id", "t0000@3", "--polish", "12", "--json")
    answer, schema = json.loads(out), json.loads(SCHEMA.read_text())
    jsonschema.validate(answer, schema)
    assert answer["polish"] == command
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({k: v for k, v in answer.items() if k != "polish"}, schema)
    assert json.loads(call("select", folder, "--id", "t0000@3", "--json")[1])["polish"] is None


def test_the_command_names_the_folder_as_one_would_type_it_here(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    _, out, _ = call("select", folder.name, "--id", "t0000@3", "--polish", "12")
    assert "gcp-sweep polish 'two words' t0000@3 train.epochs=12" in out


def test_of_a_sweep_that_is_known_by_name_only_the_place_is_left_to_the_user(folder):
    uri = f"sqlite:///{folder}/mlflow.db"
    code, out, err = call("select", "paths", "--tracking-uri", uri, "--id", "t0000@3", "--polish", "12")
    assert code == 0, err
    assert "gcp-sweep polish STORAGE/paths t0000@3 train.epochs=12" in out


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("t0001", "t0001: belongs to a single trial: only snapshots of paths can be polished"),
        ("t0000@2+30", "t0000@2+30: is already polished (gcp-sweep polish SWEEP t0000@2 train.epochs=12"),
    ],
)
def test_what_cannot_be_polished_is_refused_and_nothing_is_written(folder, tmp_path, model, said):
    words = ["--csv", tmp_path / "one.csv", "--write-config", tmp_path / "one.yaml"]
    code, _, err = call("select", folder, "--id", model, "--polish", "12", *words)
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())


def test_no_number_of_epochs_below_one_is_taken(folder):
    code, _, err = call("select", folder, "--id", "t0000@3", "--polish", "0")
    assert code == 2
    assert "x>=1" in err


def test_a_polished_model_is_selected_and_its_number_of_epochs_is_in_the_answer(folder):
    answer = json.loads(call("select", folder, "--best", "accuracy", "--json")[1])
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    chosen = answer["chosen"][0]
    assert (chosen["model"], chosen["level"], chosen["polish"]) == ("t0000@2+30", 2, 30)
    assert answer["runners_up"][0]["polish"] is None


def test_its_config_reproduces_the_snapshot_and_says_which_command_polishes_it(folder, tmp_path):
    written = {}
    for model in ("t0000@2+30", "t0000@2"):
        file = tmp_path / f"{model}.yaml"
        assert call("select", folder, "--id", model, "--write-config", file)[0] == 0
        written[model] = file.read_text()
    assert yaml.safe_load(written["t0000@2+30"]) == yaml.safe_load(written["t0000@2"])
    assert yaml.safe_load(written["t0000@2"])["name"] == "paths-t0000-2"
    head = [line for line in written["t0000@2+30"].splitlines() if line.startswith("#")]
    assert head == [
        "# The path that ends with the snapshot t0000@2 of sweep paths on seeds the search has not seen.",
        "#   gcp-sweep run t0000@2+30.yaml",
        "# It leads to t0000@2, of which t0000@2+30 was made: no config polishes. Afterwards, for every path:",
        "#   gcp-sweep polish runs/paths-t0000-2 t0000@2 train.epochs=30",
    ]
