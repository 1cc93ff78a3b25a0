"""``bench``: what is compared with what, what is refused, and what is said when a runtime is not there."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from analysis.cli.program import main
from analysis.runs.load import load
from analysis.show.speed import speeds

pytestmark = pytest.mark.integration

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "schemas" / "bench.json"
#: Lines as short as they get: the numbers do not matter here.
QUICK = ["--seconds", "0.1", "--batch", "1,3", "--json"]


@pytest.fixture
def sweep(modelled, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(modelled, tmp_path / "moved")


def _bench(*words: object):
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def _answer(*words: object) -> dict:
    done = _bench(*words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_installed_runtime_is_timed_at_every_size_and_its_accuracy_measured(sweep):
    answer = _answer(sweep, "--id", "t0000", *QUICK)
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    runtimes = ["torch", "onnxruntime", "onnxruntime int8"]
    lines = [
        (t["runtime"], t["batch_size"], t["threads"]) for t in answer["timed"] if t["runtime"] in runtimes
    ]
    assert lines == [(runtime, size, 1) for size in (1, 3) for runtime in runtimes]
    for t in answer["timed"]:
        assert 0 < t["low_ms"] <= t["median_ms"] <= t["high_ms"]
        assert t["repeats"] >= 20
    by = {a["runtime"]: a for a in answer["accuracies"]}
    assert by["onnxruntime"]["model"] == pytest.approx(by["torch"]["model"], abs=0.3)
    assert abs(by["onnxruntime int8"]["model"] - by["torch"]["model"]) < 15.0
    file = Path(answer["file"])
    assert file == sweep / "bench" / "t0000.json"
    assert json.loads(file.read_text()) == {
        k: v for k, v in answer.items() if k not in ("answer", "version", "reason", "file")
    }
    # The report finds it there, of these very weights.
    (shown,) = speeds(load(sweep), "t0000").models
    assert (shown.model, shown.note) == ("t0000", "")
    assert len(shown.times.rows) == len(answer["timed"])
    assert len(shown.accuracies.rows) == len(answer["accuracies"])


def test_one_changed_byte_of_the_weights_is_refused_and_nothing_is_measured(sweep):
    weights = sweep / "trials" / "t0000" / "model" / "weights.pt"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    done = _bench(sweep, "--id", "t0000", *QUICK)
    assert done.exit_code == 1
    assert "the weights were changed" in done.stderr
    assert not (sweep / "bench").exists()


def test_an_export_is_measured_without_its_sweep_and_without_data(export_run, tmp_path):
    out = shutil.copytree(export_run[0], tmp_path / "shipped")
    answer = _answer(out, "--latency-only", "--runtime", "torch", "--clock", "cpu", *QUICK)
    assert {t["runtime"] for t in answer["timed"]} == {"torch"}
    assert answer["accuracies"] == []
    assert answer["dense"] == "same network, unpruned and untrained"
    assert Path(answer["file"]) == out / "bench.json"
    (out / "weights.pt").write_bytes(b"other")
    assert _bench(out, "--latency-only", *QUICK).exit_code == 1


def test_without_onnxruntime_torch_is_measured_and_the_answer_says_what_to_install(
    sweep, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = [sweep, "--id", "t0000", "--latency-only", "--out", tmp_path / "b.json"]
    answer = _answer(*words, *QUICK)
    assert {t["runtime"] for t in answer["timed"]} == {"torch"}
    assert answer["skipped"]["onnxruntime"] == "onnxruntime is not installed: pip install 'gcp-sweep[onnx]'"
    assert "pip install 'gcp-sweep[openvino]'" in answer["skipped"]["openvino"]
    done = _bench(*words, "--runtime", "onnxruntime int8")
    assert done.exit_code == 2
    assert "needs onnxruntime" in done.stderr
    assert "pip install 'gcp-sweep[onnx]'" in done.stderr


@pytest.mark.parametrize("others", [[], ["--runtime", "torch"]])
def test_8_bits_that_are_asked_for_without_the_images_they_need_are_refused(sweep, tmp_path, others):
    earlier = tmp_path / "b.json"
    earlier.write_text("an earlier result")
    words = ["--id", "t0000", "--latency-only", "--runtime", "onnxruntime int8", *others, "--out", earlier]
    done = _bench(sweep, *words, *QUICK)
    assert done.exit_code == 2
    assert "error: --runtime 'onnxruntime int8': quantisation needs training images (leave" in done.stderr
    assert earlier.read_text() == "an earlier result"


def test_processor_time_of_several_threads_is_refused(sweep):
    done = _bench(sweep, "--id", "t0000", "--clock", "cpu", "--threads", "1,2", *QUICK)
    assert done.exit_code == 2
    assert "--clock cpu: would add up the time of all threads (measure with --threads 1)" in done.stderr


@pytest.mark.parametrize(("option", "value"), [("--batch", "0"), ("--batch", "1,x"), ("--threads", "")])
def test_a_list_that_is_none_is_refused(sweep, option, value):
    done = _bench(sweep, option, value)
    assert done.exit_code == 2
    assert "is not a list of whole numbers above 0" in done.stderr


def test_hashed_convolutions_are_measured_beside_the_model_as_it_is(sweep):
    answer = _answer(
        sweep, "--id", "t0000", "--runtime", "torch", "--haste", "L=0,4 s=1/2 seed=3 images=70", *QUICK
    )
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    haste = answer["haste"]
    assert (haste["sparsity"], haste["seed"], haste["images"]) == (0.5, 3, 70)
    assert [one["bits"] for one in haste["hashed"]] == [0, 4]
    none, four = haste["hashed"]
    assert none["macs_sd"] == 0 < four["macs_sd"]
    assert four["macs_low"] <= four["macs_mean"] <= four["macs_high"]
    assert none["macs_mean"] < haste["macs"]
    assert "reads the images" in haste["left"].values()
    assert not set(haste["left"]) & set(haste["replaced"])
    assert json.loads(Path(answer["file"]).read_text())["haste"] == haste
    # The report reads the file as before.
    (shown,) = speeds(load(sweep), "t0000").models
    assert shown.note == ""


def test_what_hashing_gave_is_said_in_words(sweep):
    words = [sweep, "--id", "t0000", "--runtime", "torch", "--haste", "L=4 images=20"]
    done = _bench(*words, "--seconds", "0.1", "--batch", "1")
    assert done.exit_code == 0, done.output
    assert (
        "HASTE (a reading of it), 20 validation images: similar channels merged while the model runs"
        in done.stdout
    )
    assert "left as they are: " in done.stdout
    assert "(reads the images)" in done.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("L=99", "--haste L: 99 is not a number of hash bits (a whole number from 0 to 52)"),
        ("L=4,-1", "--haste L: -1 is not a number of hash bits"),
        ("L=four", "--haste L: 'four' is not a whole number"),
        (
            "L=4 s=1",
            "--haste s: 1.0 is not a share of zeros (from 0 to below 1; 2/3 and 1/2 are the published ones)",
        ),
        ("L=4 s=-1/3", "--haste s: -0.333"),
        ("L=4 s=1/0", "--haste s: '1/0' is not a number"),
        ("L=4 centre=all", "--haste centre: 'all' is not known (one of channel, pixel, none)"),
        ("L=4 images=0", "--haste images: 0 is no number of images (at least 1)"),
        ("s=0.5", "--haste: L is missing, the number of hash bits"),
        ("4", "--haste: '4' is no setting (for instance"),
        ("L=4 sead=1", """--haste: 'sead=1' is no setting (did you mean "seed"?)"""),
        ("L=4 L=8", "--haste: L is given twice"),
    ],
)
def test_hashing_that_makes_no_sense_is_refused_before_anything_is_read(tmp_path, settings, said):
    done = _bench(tmp_path / "no such sweep", "--haste", settings)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_hashing_without_images_is_refused(sweep):
    done = _bench(sweep, "--id", "t0000", "--latency-only", "--haste", "L=4", *QUICK)
    assert done.exit_code == 2
    assert "--haste: what is merged depends on the images (leave --latency-only out)" in done.stderr
    assert not (sweep / "bench").exists()
