"""An export is proven in a fresh process, refused on any mismatch, and whole or absent."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

import analysis
from analysis.cli.program import main
from analysis.errors import VerificationError
from analysis.ship import export as ship_export
from analysis.ship import images, prove
from analysis.ship.export import compare, export, run_proof
from gcp_core.config import DataConfig
from gcp_core.data import load_splits
from gcp_core.errors import CheckpointError, ConfigError
from gcp_core.models.devices import processor

pytestmark = pytest.mark.integration

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "schemas" / "export.json"


@pytest.fixture
def sweep(modelled, tmp_path):
    """A copy that a test may damage; found by the database in the folder, so a moved sweep works too."""
    return shutil.copytree(modelled, tmp_path / "moved")


@pytest.fixture
def exported(export_run):
    """The export's folder and the JSON answer."""
    out, done = export_run
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


def test_export_replaces_an_earlier_one_by_weights_programs_sample_proof_and_card(exported):
    out, answer = exported
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    assert [p.name for p in out.parent.iterdir()] == ["out"], "no temporary folder is left"
    assert {p.name for p in out.iterdir()} == {
        "weights.pt", "manifest.json", "model.pt2", "model.onnx", "model.int8.onnx", "sample.npz", "proof.json",
        "MODEL_CARD.md",
    }  # fmt: skip
    assert answer["trial"] == "t0000"
    card = (out / "MODEL_CARD.md").read_text()
    assert "t0000 has the highest validation accuracy" in card
    assert "| features.3 | 5 | 8 |" in card


def test_the_fresh_process_measures_what_was_logged(exported, modelled):
    _, answer = exported
    logged = analysis.load(modelled).set_index("trial").loc["t0000"]
    measured = {c["name"]: c["measured"] for c in answer["checks"]}
    for name in ("macs", "params", "val_accuracy", "test_accuracy"):
        assert measured[name] == logged[name], name
    assert measured["ONNX val_accuracy"] == pytest.approx(logged["val_accuracy"], abs=0.3)
    assert measured["exported outputs"] <= 1e-5
    assert measured["ONNX outputs"] <= 1e-5


def test_the_model_in_8_bits_is_smaller_and_its_accuracy_stands_on_the_card(exported):
    out, answer = exported
    accuracy = answer["proof"]["int8_val_accuracy"]
    assert accuracy == pytest.approx(answer["proof"]["val_accuracy"], abs=15.0)
    assert f"| validation accuracy, int8 ONNX | {accuracy:.2f} % |" in (out / "MODEL_CARD.md").read_text()
    assert "int8" not in " ".join(c["name"] for c in answer["checks"]), "it is meant to differ"
    operators = {node.op_type for node in onnx.load(out / "model.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


@pytest.mark.parametrize(
    ("option", "package", "extra"),
    [("--int8", "onnxruntime", "onnx"), ("--openvino", "openvino", "openvino")],
)
def test_a_format_whose_package_is_missing_is_refused_before_anything_is_done(
    sweep, tmp_path, monkeypatch, option, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["export", str(sweep), "--id", "t0000", "--out", str(out), option])
    assert done.exit_code == 2
    assert f"{option}: needs {package}" in done.stderr
    assert f"pip install 'gcp-sweep[{extra}]'" in done.stderr
    assert not out.exists()


def test_the_exported_program_gives_the_sample_logits_without_this_package(exported, tmp_path):
    out, _ = exported
    code = f"""
import sys, numpy as np, torch
sample = np.load({str(out / "sample.npz")!r})
model = torch.export.load({str(out / "model.pt2")!r}).module()
with torch.no_grad():
    logits = model(torch.from_numpy(sample["inputs"]))
print(float((logits - torch.from_numpy(sample["logits"])).abs().max() / logits.abs().max()))
assert "gcp_core" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert float(done.stdout.split()[-1]) <= 1e-5
    assert np.load(out / "sample.npz")["inputs"].shape == (8, 1, 8, 8)


def test_one_changed_byte_of_the_weights_is_refused_and_nothing_is_written(sweep, tmp_path):
    weights = sweep / "trials" / "t0000" / "model" / "weights.pt"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["export", str(sweep), "--id", "t0000", "--out", str(out)])
    assert done.exit_code == 1
    assert "the weights were changed" in done.stderr
    assert "nothing was exported" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moved"]


def test_a_plan_that_does_not_fit_the_weights_is_refused_by_the_fresh_process(sweep, tmp_path):
    path = sweep / "trials" / "t0000" / "model" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["plans"] = []
    path.write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="the weights do not fit the architecture"):
        export(analysis.load(sweep), "t0000", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_logged_number_that_the_model_does_not_have_is_refused():
    import pandas as pd

    row = pd.Series({"macs": 100.0, "params": 10.0, "val_accuracy": 90.0, "test_accuracy": 89.0})
    proof = {
        "macs": 100, "params": 10, "val_accuracy": 90.0, "test_accuracy": 89.0, "same_place": True, "place": "cpu",
        "val_close_calls": 2, "val_images": 100, "test_close_calls": 1, "test_images": 50, "export_difference": 1e-7,
    }  # fmt: skip
    assert all(c.passed for c in compare(row, proof))
    for name, value in (("macs", 101), ("params", 9), ("val_accuracy", 90.5), ("export_difference", 2e-5)):
        failed = [c.name for c in compare(row, {**proof, name: value}) if not c.passed]
        assert failed == [name if name != "export_difference" else "exported outputs"]
    elsewhere = {**proof, "same_place": False, "place": "cuda"}
    # Two of 100 images are close calls: two points may differ elsewhere, three may not.
    assert all(c.passed for c in compare(row, {**elsewhere, "val_accuracy": 92.0}))
    assert not all(c.passed for c in compare(row, {**elsewhere, "val_accuracy": 93.0}))


@pytest.mark.parametrize(
    ("val_close", "test_close", "passed"), [(0, 3, True), (9, 0, False), (9, 2, False), (0, 4, True)]
)
def test_test_accuracy_is_judged_by_the_close_calls_of_the_test_images(val_close, test_close, passed):
    """89 % logged, 87.5 % now, of 200 images: three of them are others."""
    import pandas as pd

    row = pd.Series({"macs": 100.0, "params": 10.0, "val_accuracy": 90.0, "test_accuracy": 89.0})
    proof = {
        "macs": 100, "params": 10, "val_accuracy": 90.0, "test_accuracy": 87.5, "same_place": False, "place": "cuda",
        "val_close_calls": val_close, "val_images": 100, "test_close_calls": test_close, "test_images": 200,
        "export_difference": 1e-7,
    }  # fmt: skip
    verdicts = {c.name: c.passed for c in compare(row, proof)}
    assert verdicts == {
        "macs": True, "params": True, "val_accuracy": True, "test_accuracy": passed, "exported outputs": True
    }  # fmt: skip


def test_the_close_calls_of_both_splits_are_counted(modelled, tmp_path, monkeypatch):
    """With the limit at infinity every image is a close call."""
    monkeypatch.setattr(prove, "CLOSE", float("inf"))
    proof = prove.prove(modelled / "trials" / "t0000" / "model", tmp_path)
    assert (proof.val_close_calls, proof.test_close_calls) == (proof.val_images, proof.test_images)


class Over(Exception):
    """What was asked is known: the rest need not run."""


def test_close_calls_and_times_are_taken_in_float32(modelled, tmp_path, monkeypatch):
    """As the accuracies and the trial's own times are; cuDNN's own choice is TF32."""
    seen, batches = [], prove._batches

    def looked(*args):
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return batches(*args)

    def measured(*args, **more):
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        raise Over

    monkeypatch.setattr(prove, "_batches", looked)
    monkeypatch.setattr(prove, "measure_against", measured)
    with pytest.raises(Over):
        prove.prove(modelled / "trials" / "t0000" / "model", tmp_path)
    assert [one == "ieee" for one in seen] == [True, True, False, True], "two splits, a sample, the times"


@pytest.mark.parametrize("recorded", ["", "Some other processor", processor()])
def test_another_kind_of_processor_is_another_place(modelled, tmp_path, monkeypatch, recorded):
    folder = modelled / "trials" / "t0000" / "model"
    told = []

    def in_this_process(words):
        told.extend(words[2:])
        (tmp_path / "work").mkdir(exist_ok=True)
        assert prove.main([str(folder), str(tmp_path / "work"), *words[2:]]) == 0
        shutil.copyfile(tmp_path / "work" / "proof.json", Path(words[1]) / "proof.json")

    monkeypatch.setattr(ship_export, "in_fresh_process", in_this_process)
    df = analysis.load(modelled).assign(device=recorded)
    proof = export(df, "t0000", tmp_path / "out").proof
    assert told == (["--processor", recorded] if recorded else [])
    assert proof["same_place"] is (recorded != "Some other processor")
    assert proof["place"].endswith(f", {processor()}")


def test_a_folder_that_is_no_export_is_never_replaced(sweep, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("dear")
    with pytest.raises(ConfigError, match="exists and is not an earlier export"):
        export(analysis.load(sweep), "t0000", out)
    assert (out / "thesis.tex").read_text() == "dear"


def test_a_trial_whose_files_are_gone_is_named(sweep, tmp_path):
    shutil.rmtree(sweep / "trials" / "t0000")
    folder = sweep.rename(tmp_path / "two words")
    said = rf"its files are neither in .*`gcp-sweep replay '{folder}' t0000`"
    with pytest.raises(ConfigError, match=rf"t0000: model/weights\.pt: {said}"):
        export(analysis.load(folder), "t0000", tmp_path / "out")


def test_the_fresh_process_is_told_where_the_data_lies_here(tmp_path, monkeypatch):
    told = []

    def instead(command, **options):
        told.append(command)
        (tmp_path / "proof.json").write_text('{"macs": 1}')

    monkeypatch.setattr(subprocess, "run", instead)
    assert run_proof(tmp_path, onnx=True, data_path="/mnt/images") == {"macs": 1}
    run_proof(tmp_path, int8=True, openvino=True)
    run_proof(tmp_path)
    assert told[1][-2:] == ["--int8", "--openvino"]
    assert told[0][-3:] == ["--onnx", "--data-path", "/mnt/images"]
    assert told[2][-1] == str(tmp_path)


def test_data_that_is_not_the_trial_s_data_is_refused(modelled, tmp_path, monkeypatch):
    other = dataclasses.replace(load_splits(DataConfig("digits", val_share=0.25)), digest="0" * 12)
    monkeypatch.setattr(images, "load_splits", lambda data: other if data.path == "/mnt/other" else None)
    with pytest.raises(CheckpointError, match=r"the data now has digest \w+, the model was trained on \w+"):
        prove.prove(modelled / "trials" / "t0000" / "model", tmp_path, data_path="/mnt/other")
