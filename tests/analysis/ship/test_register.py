"""Into the registry: LoggedModel, version, alias and lineage; loading runs no pickle and needs no torch."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)

import analysis
from analysis.choose import constraints as hard
from analysis.cli.program import main
from analysis.ship import export
from analysis.ship.export import Exported
from analysis.ship.register import _same_weights, alias_for, check_alias, check_name, register
from gcp_core.errors import ConfigError
from gcp_core.schema import Tag
from tests.analysis.conftest import CONFIG
from tests.analysis.synthetic import FakeTrial, baseline_trial, some_trials, write_sweep

pytestmark = pytest.mark.integration

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "schemas" / "register.json"


@pytest.fixture
def proven(export_run) -> Exported:
    """The export of t0000, as ``export`` returned it."""
    folder, done = export_run
    answer = json.loads(done.stdout)
    return Exported(folder, "t0000", (), answer["proof"], answer["sha256"])


def one_model_sweep(folder: Path, proven: Exported, uri: str | None = None) -> str:
    """A sweep whose trial t0000 is the exported model; returns the store's URI."""
    finals = {name: float(proven.proof[name]) for name in ("val_accuracy", "test_accuracy", "macs", "params")}
    trial = FakeTrial("t0000", CONFIG, finals)
    base = FakeTrial("b0000", CONFIG.baseline(), {**finals, "macs": 2 * finals["macs"]}, "baseline")
    return write_sweep(folder, [base, trial], uri=uri)


def row_of(df, trial="t0000"):
    return df[df["trial"] == trial].iloc[0]


def test_a_registered_model_has_signature_example_requirements_lineage_and_alias(proven, tmp_path):
    uri = one_model_sweep(tmp_path / "reg", proven)
    df = analysis.load(tmp_path / "reg")
    client = MlflowClient(uri, uri)
    before = client.get_run(row_of(df)["run_id"]).info
    done = register(df, row_of(df), proven, name="digits", alias="macs-50")
    assert (done.version, done.uri, done.new, done.moved_from) == ("1", "models:/digits@macs-50", True, "")

    version = client.get_model_version_by_alias("digits", "macs-50")
    entry = df.attrs["sweeps"][0]
    expected = {
        "sweep.id": entry["id"], "sweep.run_id": entry["parent_run_id"], "trial.id": "t0000", "seed": "0",
        "config_id": CONFIG.config_id(), "weights_sha256": proven.sha256, "macs_kept": "0.5",
    }  # fmt: skip
    assert expected.items() <= version.tags.items()
    assert version.run_id == row_of(df)["run_id"]
    assert "pruned while training: t0000" in version.description

    model = client.get_logged_model(done.model_id)
    assert str(model.status) == "READY"
    assert model.tags[Tag.NOTE] == version.description, "the model's own page has the card too"
    assert model.source_run_id == version.run_id
    assert model.params["prune.criterion"] == "l1"
    assert {m.key: m.value for m in model.metrics}["final/macs"] == proven.proof["macs"]
    files = Path(model.artifact_location.removeprefix("file://"))
    described = yaml.safe_load((files / "MLmodel").read_text())
    inputs = json.loads(described["signature"]["inputs"])
    assert inputs[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 1, 8, 8]}, "the batch is free"
    assert set(described["flavors"]) == {"python_function", "onnx"}
    assert {p.name for p in (files / "extra_files").iterdir()} == {
        "weights.pt",
        "manifest.json",
        "proof.json",
        "MODEL_CARD.md",
    }
    needed = (files / "requirements.txt").read_text()
    assert all(f"\n{package}==" in f"\n{needed}" for package in ("mlflow", "onnx", "onnxruntime", "numpy"))
    assert "torch" not in needed
    after = client.get_run(version.run_id).info
    assert (after.status, after.end_time) == (before.status, before.end_time), "the run is not opened again"


def test_registering_twice_sets_aliases_and_makes_no_second_version(proven, tmp_path):
    uri = one_model_sweep(tmp_path / "twice", proven)
    df = analysis.load(tmp_path / "twice")
    register(df, row_of(df), proven, name="digits", alias="macs-50")
    again = register(df, row_of(df), proven, name="digits", alias="champion")
    assert (again.version, again.new) == ("1", False)
    other = Exported(proven.folder, "t0000", (), proven.proof, "other weights")
    moved = register(df, row_of(df), other, name="digits", alias="macs-50")
    assert (moved.version, moved.moved_from) == ("2", "1")
    aliases = MlflowClient(uri, uri).get_registered_model("digits").aliases
    assert {name: str(number) for name, number in aliases.items()} == {"macs-50": "2", "champion": "1"}


def test_the_command_answers_in_its_schema(proven, tmp_path, monkeypatch):
    one_model_sweep(tmp_path / "cli", proven)
    monkeypatch.setattr(export, "export", lambda *a, **k: proven)
    words = ["register", str(tmp_path / "cli"), "macs <= 60%", "--cheapest", "macs"]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    assert (answer["model"], answer["alias"], answer["new"]) == ("cli", "macs-60", True)
    assert (
        "already registered: cli version 1 as models:/cli@macs-60" in CliRunner().invoke(main, words).stdout
    )
    refused = CliRunner().invoke(main, [*words, "--alias", "v1"])
    assert refused.exit_code == 2
    assert "error: --alias: 'v1' is a name that MLflow keeps for itself" in refused.stderr


def test_the_alias_is_the_point_asked_for_else_the_share_kept(df):
    row = df[df["trial"] == "t0003"].iloc[0]
    assert alias_for(row, [hard.parse("accuracy_drop <= 1"), hard.parse("macs <= 50%")]) == "macs-50"
    assert alias_for(row, [hard.parse("latency_ms < 40%")]) == "latency-ms-40"
    # An alias says "at most": 50.4 % is not within macs-50. 100 * 0.07 is a little more than 7 in binary.
    for kept, alias in (
        (0.504, "macs-51"),
        (0.496, "macs-50"),
        (0.5, "macs-50"),
        (0.07, "macs-7"),
        (0.004, "macs-1"),
    ):
        assert alias_for(row.where(row.index != "macs_kept", kept), [hard.parse("macs <= 2M")]) == alias
    with pytest.raises(ConfigError, match=r"t0003: has no baseline to name its operating point by.*--alias"):
        alias_for(row.copy().where(row.index != "macs_kept"), [])


def mlflow_takes(alias):
    _validate_model_alias_name(alias)
    _validate_model_alias_name_reserved(alias)


@pytest.mark.parametrize("limit", ["macs <= 12.5%", "latency_ms < 0.00001%", "params <= 33.333%"])
def test_every_alias_made_of_a_limit_is_one_that_mlflow_takes(df, limit):
    alias = alias_for(df.iloc[3], [hard.parse(limit)])
    mlflow_takes(alias)
    check_alias(alias)
    assert alias == {"m": "macs-12_5", "l": "latency-ms-1e-05", "p": "params-33_333"}[limit[0]]


@pytest.mark.parametrize(
    "alias", ["macs-12.5", "two words", "latest", "Latest", "v1", "V12", "a" * 256, "a/b"]
)
def test_an_alias_that_mlflow_refuses_is_refused_before_the_proof(modelled, monkeypatch, alias):
    with pytest.raises(MlflowException):
        mlflow_takes(alias)
    monkeypatch.setattr(export, "export", lambda *_, **__: pytest.fail("proven first"))
    words = ["register", str(modelled), "--id", "t0000", "--alias", alias]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2, refused.output
    assert refused.stderr.startswith(f"error: --alias: {alias!r} is ")


@pytest.mark.parametrize("name", ["team/digits", "digits:1", "..", ".", " "])
def test_a_name_that_mlflow_refuses_is_refused_before_the_proof(modelled, monkeypatch, name):
    with pytest.raises(MlflowException):
        _validate_model_name(name)
    monkeypatch.setattr(export, "export", lambda *_, **__: pytest.fail("proven first"))
    refused = CliRunner().invoke(
        main, ["register", str(modelled), "--id", "t0000", "--name", name, "--alias", "a"]
    )
    assert refused.exit_code == 2, refused.output
    assert refused.stderr.startswith(f"error: --name: {name!r} is no name of a registered model")


def test_a_name_with_a_quote_is_refused_as_it_would_end_the_filter():
    with pytest.raises(ConfigError, match="is no name of a registered model"):
        check_name("the team's")
    check_name("digits-demo.2 (new)")


def test_equal_weights_are_found_on_every_page_of_versions():
    pages = {None: (["a", "b"], "second"), "second": (["c"], None)}

    class Registry:
        def search_model_versions(self, query, page_token=None):
            names, after = pages[page_token]
            tags = [[ModelVersionTag("weights_sha256", name)] for name in names]
            return PagedList([ModelVersion("digits", "1", 0, tags=of_one) for of_one in tags], after)

    for sha in "abc":
        assert _same_weights(Registry(), "digits", sha).tags["weights_sha256"] == sha
    assert _same_weights(Registry(), "digits", "d") is None


def test_what_cannot_be_registered_is_refused(proven, tmp_path):
    write_sweep(tmp_path / "s", [baseline_trial(), *some_trials(3)])
    table = analysis.load(tmp_path / "s")
    table.to_csv(tmp_path / "table.csv", index=False)
    offline = analysis.load(tmp_path / "table.csv")
    with pytest.raises(ConfigError, match="is not in MLflow"):
        register(offline, row_of(offline), proven, name="m", alias="a")
    bare = Exported(tmp_path, "t0000", (), {}, "0")
    with pytest.raises(ConfigError, match=r"was exported without ONNX.*--onnx"):
        register(table, row_of(table), bare, name="m", alias="a")


CONSUMER = """
import sys
unpickled = []
sys.addaudithook(lambda event, a: unpickled.append(a) if event == "pickle.find_class" and not quiet else None)
quiet = True
import mlflow, numpy as np
uri, model, sample = sys.argv[1:]
mlflow.set_tracking_uri(uri)
quiet = False
loaded = mlflow.pyfunc.load_model(model)
stored = np.load(sample)
found = loaded.predict(stored["inputs"])["logits"]
assert not unpickled, unpickled
assert not {"torch", "gcp_core", "analysis"} & set(sys.modules)
assert loaded.input_example.shape == (1, 1, 8, 8)
print(np.abs(found - stored["logits"]).max() / np.abs(stored["logits"]).max())
"""


@pytest.mark.integration
def test_a_consumer_loads_the_alias_from_a_server_without_torch_and_without_unpickling(proven, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    shutil.copyfile(
        one_model_sweep(tmp_path / "empty", proven).removeprefix("sqlite:///"), tmp_path / "own.db"
    )
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/own.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    with (tmp_path / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "mlflow", "server", *where, *store]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_for(f"{uri}/health", server)
        MlflowClient(uri).create_experiment("remote")  # artifacts go through the server
        one_model_sweep(tmp_path / "remote", proven, uri=uri)
        df = analysis.load(tmp_path / "remote")
        done = register(df, row_of(df), proven, name="served", alias="macs-50")
        sample = str(proven.folder / "sample.npz")
        consumer = [sys.executable, "-c", CONSUMER, uri, done.uri, sample]
        told = subprocess.run(consumer, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert told.returncode == 0, told.stderr
        assert float(told.stdout.split()[-1]) <= 1e-5
        assert np.load(sample)["inputs"].shape == (8, 1, 8, 8)
    finally:
        server.terminate()
        server.wait(60)


def wait_for(url: str, server: subprocess.Popen) -> None:
    """Until the server answers; its end is a failure, its slowness is not."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server ended")
