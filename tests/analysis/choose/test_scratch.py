"""``select --write-config --from-scratch``: the chosen widths, trained from scratch for what the model has cost."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

import analysis
from analysis.choose import scratch
from analysis.choose.scratch import write_scratch_config
from analysis.cli.program import main
from analysis.runs.models import row_of
from analysis.runs.widths import LayerWidth, layer_widths, manifest_of
from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.training import run_trial
from sweeps.config.sweep_config import load_config
from tests.analysis.models import write_path
from tests.analysis.synthetic import FakePath, FakeTrial, write_sweep

RESIDUAL = {
    "data": {"name": "digits", "val_share": 0.25, "train_images": 96},
    "model": {"name": "resnet20", "width": 0.25},
    "train": {"schedule": "cycles", "batch_size": 32},
    "prune": {"criterion": "l1", "start": 1, "interval": 1, "levels": [0.3, 0.5], "min_channels": 1},
}


def trained_anew(file, checkpoint_dir, epochs=1):
    """The first trial of a written sweep's config, trained shortly."""
    document = yaml.safe_load(file.read_text())
    sweep = load_config(document, {"storage": "unused"})
    assert sweep.search.sampler == "grid"
    parts = {name: document[name] for name in ("data", "model", "train", "prune")}
    parts["train"]["epochs"] = epochs
    config = TrialConfig.from_dict({**parts, "seed": document["seed"]["choice"][0]})
    run_trial(config, checkpoint_dir=checkpoint_dir, latency=False)
    return json.loads((checkpoint_dir / "model" / "manifest.json").read_text())


@pytest.mark.parametrize("residual", ["coupled", "inner", "scatter"])
def test_the_training_has_exactly_the_widths_of_the_chosen_model(residual, tmp_path):
    path = TrialConfig.from_dict({**RESIDUAL, "prune": {**RESIDUAL["prune"], "residual": residual}})
    folder = tmp_path / "own"
    finals = write_path(folder / "trials" / "t0000", path)
    base = FakeTrial("b0000", path.baseline(), dict(finals[0]), "baseline")
    write_sweep(folder, [base, FakePath("t0000", path, finals)])
    df = analysis.load(folder)
    row = row_of(df, "t0000@2")
    assert write_scratch_config(df, row, tmp_path / "best.yaml", seeds=2) == [1, 2]
    manifest = trained_anew(tmp_path / "best.yaml", tmp_path / "anew")
    source = manifest_of(df, row)
    assert {w.layer: w.after for w in layer_widths(manifest)} == {
        w.layer: w.after for w in layer_widths(source)
    }
    assert manifest["finals"]["macs"] == source["finals"]["macs"]
    assert manifest["finals"]["params"] == source["finals"]["params"]
    assert manifest["plans"][0]["meta"]["epoch"] == 0


def test_it_costs_what_the_model_has_cost_unless_told_otherwise(walked, tmp_path):
    df = analysis.load(walked)
    row = row_of(df, "t0000@1")
    write_scratch_config(df, row, tmp_path / "best.yaml")
    text = (tmp_path / "best.yaml").read_text()
    document, finals = yaml.safe_load(text), manifest_of(df, row)["finals"]
    assert document["seed"] == {"choice": [1, 2, 3]}
    epochs, left = document["train"]["epochs"], 1 - finals["macs_removed"]
    assert abs(epochs * left - finals["train_cost"]) <= left / 2
    assert f"{epochs} epochs, which cost what this model has cost" in text
    assert not {"restart", "pace", "rewrite", "penalty"} & document["train"].keys()
    write_scratch_config(df, row, tmp_path / "long.yaml", epochs=40)
    assert yaml.safe_load((tmp_path / "long.yaml").read_text())["train"]["epochs"] == 40


def test_models_without_widths_of_their_own_are_refused_and_nothing_is_written(walked, modelled, tmp_path):
    df, file = analysis.load(walked), tmp_path / "best.yaml"
    with pytest.raises(ConfigError, match="t0000@0: has lost nothing"):
        write_scratch_config(df, row_of(df, "t0000@0"), file)
    single = analysis.load(modelled)
    with pytest.raises(ConfigError, match=r"t0000: what it has cost is not known \(--epochs N\)"):
        write_scratch_config(single, row_of(single, "t0000"), file)
    gone = shutil.copytree(walked, tmp_path / "gone")
    shutil.rmtree(gone / "trials")
    lost = analysis.load(gone)
    with pytest.raises(ConfigError, match="t0000@1: its files are not there"):
        write_scratch_config(lost, row_of(lost, "t0000@1"), file)
    assert not file.exists()
    write_scratch_config(single, row_of(single, "t0000"), file, epochs=3)
    assert yaml.safe_load(file.read_text())["prune"]["allocator_options"]["widths"]["features.3"] > 0


def test_layers_that_have_grown_are_refused(walked, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "layer_widths", lambda _: [LayerWidth("features.0", 8, 9)])
    df = analysis.load(walked)
    with pytest.raises(ConfigError, match=r"t0000@1: features.0 is wider than in the network itself"):
        write_scratch_config(df, row_of(df, "t0000@1"), tmp_path / "best.yaml")


def test_the_command_writes_it_and_says_where_the_flag_belongs(walked, tmp_path):
    def call(*words):
        return CliRunner().invoke(main, ["select", str(walked), "--id", "t0000@2", *map(str, words)])

    done = call("--write-config", tmp_path / "best.yaml", "--from-scratch", "--seeds", 1)
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["prune"]["allocator"] == "given"
    refused = call("--from-scratch")
    assert refused.exit_code == 2
    assert "--from-scratch: says what --write-config PATH writes (give both)" in refused.stderr
