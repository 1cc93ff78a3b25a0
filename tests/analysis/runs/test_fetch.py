"""Files that lie behind a tracking server: fetched once, and never taken for missing because nobody answers."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact import artifact_repository_registry as registry
from mlflow.tracking import MlflowClient

import analysis
from analysis.cli.program import main
from analysis.errors import SweepNotFound, Unreachable
from analysis.evidence.compare import check_comparable
from analysis.runs import artifacts, fetch, store
from analysis.ship import register
from analysis.ship.checkpoints import collect, from_sweep
from analysis.ship.export import Exported
from analysis.show import publish
from analysis.show.report import html
from gcp_core.errors import ConfigError
from gcp_core.schema import ARTIFACT_MANIFEST, ARTIFACT_WEIGHTS
from tests.analysis.show import tables

URI = "http://mlflow.team:5000"


class Bucket:
    """An object store that counts what it is asked; it holds ``files`` of every run, or does not answer."""

    def __init__(self, files: dict[str, bytes], away: Exception | None = None) -> None:
        self.files, self.away, self.downloads = files, away, []

    def __call__(self, place: str, **_uris: str) -> Bucket:
        return self

    def list_artifacts(self, path: str) -> list[SimpleNamespace]:
        if self.away is not None:
            raise self.away
        return [SimpleNamespace(path=name) for name in self.files if name.startswith(f"{path}/")]

    def download_artifacts(self, name: str, folder: str) -> str:
        self.downloads.append(name)
        file = Path(folder) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.files[name])
        return str(file)


@pytest.fixture
def room(monkeypatch, tmp_path):
    """Where this test's process keeps what it fetches."""
    monkeypatch.setattr(fetch.tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    monkeypatch.setattr(fetch, "_fetched", {})
    fetch._room.cache_clear()
    yield tmp_path
    fetch._room.cache_clear()


@pytest.fixture
def behind(monkeypatch, room):
    """Puts a store behind the server, whose runs all have their place in it."""
    run = SimpleNamespace(info=SimpleNamespace(artifact_uri="s3://bucket/1/run/artifacts"))
    monkeypatch.setattr(store, "client_for", lambda uri: SimpleNamespace(get_run=lambda run_id: run))

    def put(bucket: Bucket) -> Bucket:
        monkeypatch.setattr(registry, "get_artifact_repository", bucket)
        return bucket

    return put


def remote(tmp_path) -> pd.DataFrame:
    """Three paths and a baseline of a sweep that was read by name."""
    df = tables.paths(tmp_path / "elsewhere")
    df.attrs["sweeps"] = [{**df.attrs["sweeps"][0], "folder": None, "tracking_uri": URI}]
    return df


class NoCredentials(Exception):
    """As the clients of object stores have them: no error of MLflow, nor of the system."""


AWAY = [
    NoCredentials("Unable to locate credentials"),
    ConnectionError("connection refused"),
    MlflowException("API request failed"),
]


@pytest.mark.parametrize("away", AWAY, ids=lambda error: type(error).__name__)
def test_files_of_a_store_that_does_not_answer_are_not_called_missing(behind, tmp_path, away):
    """Who reads that they are gone trains the model again."""
    df = remote(tmp_path)
    behind(Bucket({}, away))
    with pytest.raises(Unreachable, match=str(away)) as caught:
        collect(df, df.iloc[-1], tmp_path / "work")
    assert "replay" not in str(caught.value)
    behind(Bucket({}))
    with pytest.raises(ConfigError, match="neither in the sweep's folder nor in MLflow"):
        collect(df, df.iloc[-1], tmp_path / "work")


def test_a_run_that_was_purged_has_no_files(behind):
    behind(Bucket({}, MlflowException("Run 'a' not found", error_code=RESOURCE_DOES_NOT_EXIST)))
    assert fetch.fetch_artifact(URI, None, "a", ARTIFACT_MANIFEST) is None


def test_a_file_is_fetched_once_into_a_folder_that_goes_with_the_process(behind, room, monkeypatch):
    ends = []
    monkeypatch.setattr(atexit, "register", lambda *call, **how: ends.append((call, how)))
    bucket = behind(Bucket({ARTIFACT_MANIFEST: b"{}", ARTIFACT_WEIGHTS: b"w"}))
    for _ in range(2):
        for name in (ARTIFACT_MANIFEST, ARTIFACT_WEIGHTS):
            file = fetch.fetch_artifact(URI, None, "run1", name)
            assert file.read_bytes() == bucket.files[name]
    assert bucket.downloads == [ARTIFACT_MANIFEST, ARTIFACT_WEIGHTS]
    assert fetch.fetch_artifact(URI, None, "run1", "model/none.txt") is None
    assert [place.name for place in room.iterdir()] == ["gcp-analyze-"], "nothing lies beside it"
    assert ends == [((shutil.rmtree, room / "gcp-analyze-"), {"ignore_errors": True})]


def test_a_bench_downloads_the_baseline_once(behind, tmp_path):
    """It asks first whether its files are there."""
    df = remote(tmp_path)
    weights = b"w"
    manifest = json.dumps({"sha256": hashlib.sha256(weights).hexdigest()}).encode()
    bucket = behind(Bucket({ARTIFACT_MANIFEST: manifest, ARTIFACT_WEIGHTS: weights}))
    found = from_sweep(df, df[df["trial"] == "t0000"].iloc[-1], tmp_path / "work")
    assert found.baseline is not None
    assert len(bucket.downloads) == 4, "two files of two runs"


def test_a_report_asks_a_store_that_is_away_no_more_after_its_first_silence(tmp_path, monkeypatch, caplog):
    """Each question waits for minutes, and there are hundreds."""
    asked = []

    def silent(*where):
        asked.append(where)
        raise Unreachable("nobody answers", URI)

    monkeypatch.setattr(artifacts, "fetch_artifact", silent)
    df = remote(tmp_path)
    page = html(df)
    assert len(asked) == 2, "once for the widths of layers, once for the courses"
    assert "nobody answers" in page
    assert "courses of training" in caplog.text
    assert "widths of layers" in caplog.text


def test_a_comparison_says_why_it_does_not_know_whether_the_images_are_equal(tmp_path, monkeypatch, caplog):
    def silent(*where):
        raise Unreachable("nobody answers", URI)

    monkeypatch.setattr(artifacts, "fetch_artifact", silent)
    one = remote(tmp_path)
    both = pd.concat([one, one.assign(sweep="other")], ignore_index=True)
    both.attrs = {
        **one.attrs,
        "sweeps": [one.attrs["sweeps"][0], {**one.attrs["sweeps"][0], "name": "other"}],
    }
    check_comparable(both.assign(**{"data.path": "same"}))
    assert "nobody answers" in caplog.text


def test_a_table_needs_no_files_and_says_what_it_does_not_know_without(sweep, monkeypatch, caplog):
    def silent(*where):
        raise Unreachable("nobody answers", URI)

    monkeypatch.setattr(fetch, "fetch_artifact", silent)
    df = analysis.load("synthetic", tracking_uri=f"sqlite:///{sweep}/mlflow.db", cache=False)
    assert df["candidate"].any()
    assert df.attrs["chance"] == 0.0
    assert "its classes and validation images are not known" in caplog.text


@pytest.mark.parametrize("asked", [["--no-cache"], []])
def test_a_server_that_goes_away_while_a_sweep_is_read_is_one_line(sweep, monkeypatch, tmp_path, asked):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real = MlflowClient.search_runs

    def search(self, ids, query="", **options):
        if "kind` = 'sweep'" in query:
            return real(self, ids, query, **options)
        raise MlflowException("API request failed: connection refused\nand more")

    monkeypatch.setattr(MlflowClient, "search_runs", search)
    words = ["front", "synthetic", "--tracking-uri", f"sqlite:///{sweep}/mlflow.db", *asked]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1, done.output
    assert "MLflow is away or refuses: API request failed: connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_is_away_is_not_said_to_have_no_such_run(sweep, monkeypatch):
    def away(self, run_id):
        raise MlflowException("API request failed")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "get_run", away)
        with pytest.raises(Unreachable, match="MLflow is away or refuses: API request failed"):
            store.find(sweep)
    monkeypatch.setattr(store.json, "loads", lambda text: {"id": "1", "name": "x", "parent_run_id": "0" * 32})
    with pytest.raises(SweepNotFound, match="MLflow has no run 0000"):
        store.find(sweep)


def test_a_front_that_cannot_be_published_is_one_line(sweep, monkeypatch, tmp_path):
    def away(*words, **options):
        raise MlflowException("API request failed")

    monkeypatch.setattr("analysis.show.publish.publish", away)
    done = CliRunner().invoke(main, ["report", str(sweep), "--publish", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert "MLflow is away or refuses: API request failed" in done.stderr


def giving(away: Exception) -> tuple[SimpleNamespace, list[str]]:
    """A client whose store takes no files, and how the models ended that it was told of."""
    ends: list[str] = []

    def refuse(*_what: str) -> None:
        raise away

    run = SimpleNamespace(info=SimpleNamespace(experiment_id="1"))
    client = SimpleNamespace(
        get_run=lambda run_id: run,
        create_logged_model=lambda *what, **how: SimpleNamespace(model_id="m-1"),
        log_model_artifacts=refuse,
        log_artifact=refuse,
        finalize_logged_model=lambda model, end: ends.append(end),
    )
    return client, ends


@pytest.mark.parametrize("away", AWAY, ids=lambda error: type(error).__name__)
def test_a_store_that_takes_no_files_is_one_line_for_register_and_publish(tmp_path, monkeypatch, away):
    client, ends = giving(away)
    df = remote(tmp_path)
    (tmp_path / register.CARD).write_text("card")
    monkeypatch.setattr(register, "_write_model", lambda *what: None)
    exported = Exported(tmp_path, "t0000", (), {}, "0")
    with pytest.raises(Unreachable, match=f"digits: MLflow does not take its files: {away}"):
        register._log(client, df, df.iloc[-1], exported, "digits", {})
    assert ends == ["FAILED"]
    monkeypatch.setattr(publish, "client_for", lambda uri: client)
    ref = store.SweepRef("id", "name", URI, "1", "parent", None, {})
    with pytest.raises(Unreachable, match=f"name: MLflow does not take its files: {away}"):
        publish._attach(ref, [tmp_path / register.CARD], "", 0.5, 1)


def test_a_server_that_goes_away_while_a_model_is_registered_is_no_bad_usage(tmp_path, monkeypatch):
    def away(*_what: str) -> None:
        raise MlflowException("API request failed")

    df = remote(tmp_path)
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr(register, "check_place", lambda df, row: {"tracking_uri": URI})
    monkeypatch.setattr(register, "client_for", lambda uri: SimpleNamespace(get_run=away))
    with pytest.raises(Unreachable, match="MLflow is away or refuses: API request failed"):
        register.register(
            df, df.iloc[-1], Exported(tmp_path, "t0000", (), {}, "0"), name="digits", alias="macs-50"
        )
