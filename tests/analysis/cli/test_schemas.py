"""Every ``--json`` answer validates against its schema in docs/schemas, and the schemas can refuse."""

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from analysis.cli.program import main

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schemas"


def check(answer: dict) -> None:
    schema = json.loads((SCHEMAS / f"{answer['answer']}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(answer, schema)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["front"], 0),
        (["front", "--all", "--objective", "val_accuracy", "--objective", "latency_ms"], 0),
        (["select", "macs <= 60%", "--knee"], 0),
        (["select", "--top", "3"], 0),
        (["select", "macs <= 1%", "latency_ms <= 0.001", "--best", "accuracy"], 3),
        (["report", "--where", "macs <= 60%", "--out", "OUT"], 0),
        (["compare", "--by", "prune.criterion", "--equal", "trials"], 0),
    ],
)
def test_the_answer_of_a_command_validates(sweep, tmp_path, command, code):
    words = [str(tmp_path) if word == "OUT" else word for word in command]
    done = CliRunner().invoke(main, [words[0], str(sweep), *words[1:], "--json"])
    assert done.exit_code == code, done.output
    check(json.loads(done.stdout))


def test_a_schema_refuses_an_answer_with_a_missing_or_unknown_part(sweep):
    answer = json.loads(CliRunner().invoke(main, ["front", str(sweep), "--json"]).stdout)
    for broken in ({**answer, "extra": 1}, {k: v for k, v in answer.items() if k != "front"}):
        with pytest.raises(jsonschema.ValidationError):
            check(broken)


def test_every_command_with_json_has_a_schema():
    commands = {name for name, c in main.commands.items() if any("--json" in p.opts for p in c.params)}
    assert commands | {"nothing_feasible", "error"} == {path.stem for path in SCHEMAS.glob("*.json")}


@pytest.mark.parametrize(
    ("command", "code", "where"),
    [
        (["front", "nowhere"], 2, "nowhere"),
        (["select", "SWEEP", "macs <= 50", "--best", "accuracy"], 2, "'macs <= 50'"),
        (["select", "SWEEP", "--id", "t0003", "--csv", "FILE/x.csv"], 1, "FILE/x.csv"),
    ],
)
def test_an_error_is_an_answer_too_with_one_line_on_stderr(sweep, tmp_path, command, code, where):
    (tmp_path / "file").write_text("mine")

    def filled(word):
        return word.replace("SWEEP", str(sweep)).replace("FILE", str(tmp_path / "file"))

    done = CliRunner().invoke(main, [*map(filled, command), "--json"])
    assert done.exit_code == code, done.output
    answer = json.loads(done.stdout)
    schema = json.loads((SCHEMAS / "error.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(answer, schema)
    assert answer["where"] == filled(where)
    assert answer["error"] in done.stderr
    assert done.stderr.count("\n") == 1
