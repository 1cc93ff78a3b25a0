"""The ``--json`` answers about a sweep validate against their schemas in docs/schemas/sweep; these can refuse."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

import sweeps.commands.replay
from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.driver.launch import Sweep
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.storage.objects import StoreError
from tests.sweeps.inline import RUNNER, config, drive, new_conductor

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas" / "sweep"
DEMO = str(Path(__file__).parents[2] / "configs" / "digits_single.yaml")


def _check(name: str, answer: dict[str, Any]) -> None:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(answer, schema)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checked = config(tmp_path_factory.mktemp("runs"), {"model.name": "third-broken"})
    conductor, _, _ = new_conductor(checked)
    drive(conductor)
    place = Path(checked.folder)
    write_config(place, checked)
    write_entry(place, Entry("0123456789ab", checked.name, None, "e", "run", checked.digest(), "complete"))
    return place


def _answer(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "words",
    [["status"], ["status", "--failed"], ["stop"], ["clean", "--dry-run"], ["clean", "--keep", "front"]],
)
def test_the_answer_about_a_sweep_validates(folder: Path, words: list[str]) -> None:
    _check(words[0], _answer(words[0], str(folder), *words[1:]))


def test_the_answer_of_replay_validates(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.commands.replay.replay, "__defaults__", (None, RUNNER))
    _check("replay", _answer("replay", str(folder), "b0000"))


def test_the_answer_of_plan_validates(tmp_path: Path) -> None:
    small = [DEMO, f"storage={tmp_path}", "search.trials=3", "train.epochs=8"]
    _check("plan", _answer("plan", *small, "--untimed"))


def test_the_answer_of_check_validates(tmp_path: Path) -> None:
    small = [DEMO, f"storage={tmp_path}", "search.trials=3", "train.epochs=8"]
    _check("check", _answer("check", *small))


def test_the_answer_of_run_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = {"charts": "#/experiments/1/runs"}
    sweep = Sweep(
        tmp_path,
        "x",
        "0123456789ab",
        "sqlite:////x/mlflow.db",
        "run",
        "complete",
        "",
        {"complete": 3},
        0,
        views,
        3,
    )
    monkeypatch.setattr("sweeps.driver.launch.run", lambda config, launch: sweep)
    answer = _answer("run", DEMO)
    assert answer["exit_code"] == 0
    _check("run", answer)


def test_every_command_has_a_schema_and_no_other_has_one() -> None:
    assert {file.stem for file in SCHEMAS.glob("*.json")} == set(main.commands)


def test_the_answer_of_methods_validates() -> None:
    done = CliRunner().invoke(main, ["methods", "--json"])
    assert done.exit_code == 0, done.output
    _check("methods", json.loads(done.stdout))


def test_a_schema_refuses_an_answer_with_a_missing_or_unknown_part(folder: Path) -> None:
    answer = _answer("stop", str(folder))
    for broken in ({**answer, "extra": 1}, {k: v for k, v in answer.items() if k != "state"}):
        with pytest.raises(jsonschema.ValidationError):
            _check("stop", broken)


@pytest.mark.parametrize(
    ("error", "code", "where"),
    [
        (ConfigError("no such key", "prune.x", "prune.y"), 2, "prune.x"),
        (StoreError("the store does not answer"), 1, ""),
        (OSError(errno.ENOSPC, "No space left on device", "runs"), 1, ""),
        (KeyboardInterrupt(), 1, ""),
    ],
)
def test_an_error_is_an_answer_too(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, where: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("sweeps.driver.launch.run", fails)
    done = CliRunner().invoke(main, ["run", DEMO, "--json"])
    assert done.exit_code == code, done.output
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, json.loads((SCHEMAS.parent / "error.json").read_text()))
    assert answer["where"] == where
    assert answer["error"] in done.stderr
