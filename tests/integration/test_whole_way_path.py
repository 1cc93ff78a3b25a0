"""The snapshot that `make demo` would choose, as a user goes: chosen, exported, proven, registered, cleaned, replayed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.config.sweep_config import load_config
from tests.integration.programs import call, invoke, sweep_in_process
from tests.proofs import proven_here

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
#: The demo's in small: two paths of four snapshots.
CONFIG = """
name: way
data: {name: digits, val_share: 0.25, train_images: 600}
model: {name: vgg_tiny, width: 0.25}
train: {schedule: cycles, batch_size: 32}
prune: {start: {choice: [3, 4]}, interval: 2, levels: [0.3, 0.55, 0.75], min_channels: 2, min_share: 0.03}
search: {sampler: grid, trials: null, concurrency: 2, min_gain: 0, keep: all}
"""
#: The demo's question.
CHOICE = ("macs <= 50%", "accuracy_drop <= 30", "--best", "accuracy")
#: Run where nothing of ours is imported: what a consumer of the registry does.
CONSUMER = """
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.onnx.load_model(sys.argv[2])
import onnxruntime
session = onnxruntime.InferenceSession(model.SerializeToString())
sample = np.load(sys.argv[3])
(logits,) = session.run(None, {session.get_inputs()[0].name: sample["inputs"]})
print(json.dumps({
    "difference": float(np.abs(logits - sample["logits"]).max() / np.abs(sample["logits"]).max()),
    "ours": sorted({name.split(".")[0] for name in sys.modules} & {"gcp_core", "sweeps", "analysis", "torch"}),
}))
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two paths."""
    storage = tmp_path_factory.mktemp("storage")
    (storage / "way.yaml").write_text(CONFIG)
    return sweep_in_process(load_config(storage / "way.yaml", {"storage": str(storage)}))


@pytest.fixture(scope="module")
def chosen(sweep: Path) -> dict:
    """What `select` answers to the demo's question."""
    (row,) = json.loads(call("gcp-analyze", "select", str(sweep), *CHOICE, "--json"))["chosen"]
    return row


def test_the_chosen_model_is_a_snapshot_of_a_path(chosen):
    assert chosen["model"] == f"{chosen['trial']}@{chosen['level']}"
    assert chosen["macs_kept"] <= 0.5


def test_its_export_is_proven_in_a_fresh_process(sweep, chosen, tmp_path):
    out = tmp_path / "model"
    said = call("gcp-analyze", "export", str(sweep), *CHOICE, "--out", str(out))
    assert f"exported {chosen['model']} to {out}" in said
    code = """
import json, sys
from gcp_core.checkpoint import load_model
from gcp_core.records.checkpoint import weights_digest
from gcp_core.training.evaluation import evaluate_folder
import torch
torch.set_num_threads(1)
print(json.dumps([
    weights_digest(load_model(sys.argv[1]).state_dict()),
    evaluate_folder(sys.argv[1]).accuracy,
    evaluate_folder(sys.argv[1], "test").accuracy,
]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    digest, val, test = json.loads(done.stdout)
    assert digest == json.loads((out / "manifest.json").read_text())["weights_sha256"]
    assert (val, test) == (chosen["val_accuracy"], chosen["test_accuracy"])


def test_it_is_registered_once_with_its_name_and_a_consumer_gets_its_logits(sweep, chosen, tmp_path):
    from mlflow.tracking import MlflowClient

    for word in ("registered way version 1", "already registered: way version 1"):
        with proven_here():
            assert f"{word} as models:/way@macs-50" in call("gcp-analyze", "register", str(sweep), *CHOICE)
    store = f"sqlite:///{sweep}/mlflow.db"
    (version,) = MlflowClient(store).search_model_versions("name = 'way'")
    manifest = json.loads(
        (
            sweep / "trials" / chosen["trial"] / "snapshots" / f"{chosen['level']:02d}" / "manifest.json"
        ).read_text()
    )
    assert (version.tags["model.id"], version.run_id) == (chosen["model"], chosen["run_id"])
    assert version.tags["weights_sha256"] == manifest["sha256"]
    out = tmp_path / "model"
    with proven_here():
        call("gcp-analyze", "export", str(sweep), *CHOICE, "--out", str(out))
    words = [sys.executable, "-c", CONSUMER, store, "models:/way@macs-50", str(out / "sample.npz")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["difference"] <= 1e-5
    assert found["ours"] == []


def test_it_is_replayed_bit_by_bit_and_brought_back_after_it_was_cleaned(sweep, chosen, tmp_path):
    model = chosen["model"]
    weights = sweep / "trials" / chosen["trial"] / "snapshots" / f"{chosen['level']:02d}" / "weights.pt"
    content = weights.read_bytes()
    first = json.loads(call("gcp-sweep", "replay", str(sweep), model, "--json"))
    assert (first["equal"], first["model"], first["restored"]) == (True, model, [])

    registered = set(sweep.glob("mlartifacts/**/model.onnx"))
    call("gcp-sweep", "clean", str(sweep), "--keep", "none")
    assert set(sweep.glob("mlartifacts/**/model.onnx")) == registered, "what is registered stays"
    assert len(registered) == 1
    for verb in (["export", "--out", str(tmp_path / "no")], ["register", "--name", "other"]):
        done = invoke("gcp-analyze", verb[0], str(sweep), *CHOICE, *verb[1:])
        assert done.exit_code == 2, done.stderr
        assert f"gcp-sweep replay {sweep} {model}" in done.stderr
    assert not (tmp_path / "no").exists()
    again = json.loads(call("gcp-sweep", "replay", str(sweep), model, "--json"))
    assert (again["equal"], again["restored"]) == (True, [model])
    assert weights.read_bytes() == content
    with proven_here():
        call("gcp-analyze", "export", str(sweep), "--id", model, "--out", str(tmp_path / "model"))
