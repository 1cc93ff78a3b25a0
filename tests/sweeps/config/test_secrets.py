"""No secret gets past the config, and none gets into what a sweep writes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import Entry, write_entry
from sweeps.records.job import Outcome
from sweeps.tracking.children import as_param
from sweeps.worker.trial import run_job
from tests.sweeps.inline import config, new_conductor

WORD = "Xq7-sesame"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"tracking.uri": f"https://me:{WORD}@host"},
        "tracking.uri: holds a password",
        "MLFLOW_TRACKING_USERNAME",
    ),
    (
        {"tracking.uri": f"https://{WORD}@host"},
        "tracking.uri: holds a user name or key",
        "MLFLOW_TRACKING_TOKEN",
    ),
    (
        {"tracking.uri": f"https://host?token={WORD}"},
        "tracking.uri: holds 'token' in its query",
        "MLFLOW_TRACKING",
    ),
    (
        {"tracking.uri": f"mysql+pymysql://me:{WORD}@host/db"},
        "tracking.uri: holds a password",
        "leave it out",
    ),
    (
        {"ledger": f"postgresql://me@host/db?password={WORD}"},
        "ledger: holds 'password' in its query",
        "~/.pgpass",
    ),
    ({"ledger": f"postgresql://me:{WORD}@host/db"}, "ledger: holds a password", "PGPASSWORD"),
    (
        {"storage": f"s3://b/x?access_key={WORD}", "ledger": "l"},
        "storage: holds 'access_key'",
        "AWS_ACCESS_KEY_ID",
    ),
    (
        {"storage": f"abfs://c@a/x?sas_token={WORD}", "ledger": "l"},
        "storage: holds 'sas_token'",
        "AZURE_STORAGE",
    ),
    ({"storage": f"file://me:{WORD}@host/x", "ledger": "l"}, "storage: holds a password", "leave it out"),
    (
        {"tracking.password": WORD},
        "tracking.password: holds a secret by its name",
        "MLFLOW_TRACKING_PASSWORD",
    ),
    (
        {"prune.options": {"api_key": WORD}},
        "prune.options.api_key: holds a secret by its name",
        "environment",
    ),
    (
        {"data.path": {"choice": ["/a", f"s3://k:{WORD}@b"]}},
        "data.path.choice.1: holds a password",
        "environment",
    ),
    ({"somewhere": [f"https://me:{WORD}@host"]}, "somewhere.0: holds a password", "environment"),
]


@pytest.mark.parametrize(("overrides", "message", "remedy"), REFUSED)
def test_a_config_with_a_secret_is_refused_with_the_remedy_and_without_the_secret(
    overrides: dict[str, Any], message: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"name": "x"}, overrides)
    assert str(caught.value).startswith(f"{message}")
    assert "would be copied to the sweep's folder and to MLflow" in str(caught.value)
    assert remedy in caught.value.hint
    assert WORD not in str(caught.value)


def test_the_program_says_so_and_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"name: x\nstorage: {tmp_path}/runs\ntracking: {{uri: 'https://me:{WORD}@host'}}\n")
    for command in ("run", "check", "plan"):
        done = CliRunner().invoke(main, [command, str(file), "--json"])
        assert done.exit_code == 2
        assert "tracking.uri" in done.output
        assert WORD not in done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "word",
    ["ledger=postgresql://me@host/db", "storage=s3://bucket/x?region=eu", "tracking.uri=https://host:5000"],
)
def test_addresses_without_a_secret_are_welcome(word: str) -> None:
    path, _, value = word.partition("=")
    load_config({"name": "x"}, {"ledger": "l" if path == "storage" else None, path: value})


def leaky(config: Any, *, report: Any = None, checkpoint_dir: Any = None) -> None:
    """A runner whose errors, logs and prints name an address."""
    print(f"reading https://me:{WORD}@host")
    logging.getLogger("leaky").warning("at %s", f"s3://b?sig={WORD}")
    raise ConnectionError(f"https://me:{WORD}@host does not answer")


def test_nothing_that_a_trial_leaves_behind_holds_a_secret(tmp_path: Path) -> None:
    conductor, _, _ = new_conductor(config(tmp_path))
    job = conductor.next_job()
    outcome = run_job(job, f"{__name__}:leaky", lambda row: None)
    conductor.finish(job.trial_id, outcome)
    assert outcome.error == "ConnectionError: https://me:***@host does not answer"
    log = (Path(job.folder) / "trial.log").read_text()
    assert "reading https://me:***@host" in log
    assert "at s3://b?sig=***" in log
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or WORD not in path.read_text(errors="replace"), path


def test_records_and_params_are_written_without_secrets_whoever_made_them(tmp_path: Path) -> None:
    write_entry(
        tmp_path, Entry("1", "x", f"https://me:{WORD}@host", "x", "r", "d", message=f"s3://b?token={WORD}")
    )
    assert WORD not in (tmp_path / "sweep.json").read_text()
    assert as_param(f"https://me:{WORD}@host") == "https://me:***@host"
    assert WORD not in as_param([f"https://me:{WORD}@host"])
    assert Outcome("lost", error=f"password={WORD}").error == "password=***"
