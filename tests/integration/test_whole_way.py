"""From a config to an exported model, through the two programs' commands only, as a user goes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.programs import call, process, run_sweep

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
CONFIG = """
name: way
data: {name: digits, val_share: 0.25, train_images: 400}
model: {name: vgg_tiny, width: 0.25}
train: {epochs: 4, batch_size: 64}
prune: {interval: 1, ratio: {choice: [0.2, 0.4]}, target: {low: 0.3, high: 0.6, step: 0.1}, until: 1.0}
search: {trials: 4, concurrency: 2}
confirm: {seeds: 1}
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of four trials."""
    return run_sweep(tmp_path_factory.mktemp("way"), CONFIG)


def runs_of(sweep: Path, kind: str = "trial") -> list[dict]:
    """What MLflow itself says about the children, read without any code of ours."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{sweep}/mlflow.db")
    table = mlflow.search_runs(experiment_names=["way"])
    return table[table["tags.kind"] == kind].to_dict("records")


def dominates(a: dict, b: dict) -> bool:
    accuracy, macs = "metrics.final/val_accuracy", "metrics.final/macs"
    no_worse = a[accuracy] >= b[accuracy] and a[macs] <= b[macs]
    return no_worse and (a[accuracy] > b[accuracy] or a[macs] < b[macs])


def test_the_front_is_the_brute_force_front_of_what_mlflow_holds(sweep):
    runs = runs_of(sweep)
    assert [run["tags.status"] for run in runs] == ["complete"] * 4
    expected = {run["tags.trial.id"] for run in runs if not any(dominates(other, run) for other in runs)}
    answer = json.loads(process("gcp-analyze", "front", str(sweep), "--json"))
    assert {row["trial"] for row in answer["front"]} == expected
    tagged = {run["tags.trial.id"] for run in runs if run["tags.pareto.front"] == "true"}
    assert tagged == expected


def test_the_front_is_confirmed_on_a_fresh_seed_and_confirm_runs_stay_off_the_front(sweep):
    front = [run for run in runs_of(sweep) if run["tags.pareto.front"] == "true"]
    confirm = runs_of(sweep, "confirm")
    assert sorted(run["tags.config_id"] for run in confirm) == sorted(run["tags.config_id"] for run in front)
    assert {(run["tags.seed"], run["status"]) for run in confirm} == {("1", "FINISHED")}
    assert not any(run.get("tags.pareto.front") == "true" for run in confirm)
    assert sorted(run["tags.seed"] for run in runs_of(sweep, "baseline")) == ["0", "1"]


def test_an_exported_model_reproduces_accuracy_and_macs_in_a_fresh_process(sweep, tmp_path):
    out = tmp_path / "model"
    call("gcp-analyze", "export", str(sweep), "macs <= 90%", "--best", "accuracy", "--out", str(out))
    manifest = json.loads((out / "manifest.json").read_text())
    code = """
import sys
import torch
from torch.utils.flop_counter import FlopCounterMode
from gcp_core.checkpoint import load_model
from gcp_core.training.evaluation import evaluate_folder
torch.set_num_threads(1)
model = load_model(sys.argv[1])
with FlopCounterMode(display=False) as counter:
    model(torch.zeros(1, 1, 8, 8))
print(counter.get_total_flops() / 2, evaluate_folder(sys.argv[1]).accuracy, evaluate_folder(sys.argv[1], "test").accuracy)
program = torch.export.load(sys.argv[1] + "/model.pt2").module()
x = torch.randn(5, 1, 8, 8)
print(float((program(x) - model(x)).abs().max() / model(x).abs().max()))
"""
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers, difference = done.stdout.splitlines()
    finals = manifest["finals"]
    assert [float(n) for n in numbers.split()] == [
        finals["macs"],
        finals["val_accuracy"],
        finals["test_accuracy"],
    ]
    assert float(difference) <= 1e-5


def test_a_tampered_weight_is_refused_and_nothing_is_written(sweep, tmp_path):
    answer = json.loads(call("gcp-analyze", "select", str(sweep), "--cheapest", "macs", "--json"))
    weights = sweep / "trials" / answer["chosen"][0]["trial"] / "model" / "weights.pt"
    content = weights.read_bytes()
    half = len(content) // 2
    weights.write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    try:
        call(
            "gcp-analyze",
            "export",
            str(sweep),
            "--cheapest",
            "macs",
            "--out",
            str(tmp_path / "model"),
            code=1,
        )
        assert not (tmp_path / "model").exists()
    finally:
        weights.write_bytes(content)


def test_a_second_run_finds_the_finished_sweep(sweep):
    folder = sweep.parent
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("trials/*/model/weights.pt")}
    assert "complete" in call("gcp-sweep", "run", str(folder / "way.yaml"), f"storage={folder}")
    assert before == {path: path.stat().st_mtime_ns for path in sweep.glob("trials/*/model/weights.pt")}
