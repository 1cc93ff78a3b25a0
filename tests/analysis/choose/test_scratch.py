"""``select --write-config --from-scratch``: the chosen widths, trained from scratch for what the model has cost."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

import analysis
from analysis.choose.recipe import trial_config
from analysis.choose.scratch import from_scratch, write_scratch_config
from analysis.cli.program import main
from analysis.runs.models import row_of
from analysis.runs.widths import layer_widths, manifest_of
from gcp_core.config import PruneConfig, TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.plan import AttributeChange, Plan
from gcp_core.training import run_trial
from sweeps.config.sweep_config import load_config
from tests.analysis.models import write_path
from tests.analysis.synthetic import FakePath, FakeTrial, finals_of, write_sweep

#: What says how a network is cut, whenever that is.
KEPT = ("of", "residual", "min_channels", "min_share", "exclude", "round_to")
RESIDUAL = {
    "data": {"name": "digits", "val_share": 0.25, "train_images": 96},
    "model": {"name": "resnet20", "width": 0.25},
    "train": {"schedule": "cycles", "batch_size": 32},
    "prune": {"criterion": "l1", "start": 1, "interval": 1, "levels": [0.3, 0.5], "min_channels": 1},
}


#: A manifest's plans, as far as widths are read from them.
WIDE = {"plans": [Plan(attributes=(AttributeChange("conv1", "out_channels", 4, 3),)).to_dict()]}


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


@pytest.mark.parametrize(
    "more",
    [
        {"residual": "coupled", "of": "params", "round_to": 2, "min_share": 0.4},
        {"residual": "inner", "exclude": ["layer1.*"]},
        {"residual": "scatter", "min_channels": 3},
    ],
    ids=lambda more: more["residual"],
)
def test_the_training_has_exactly_the_widths_of_the_chosen_model(more, tmp_path):
    path = TrialConfig.from_dict({**RESIDUAL, "prune": {**RESIDUAL["prune"], **more}})
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
    kept, was = manifest["config"]["prune"], source["config"]["prune"]
    assert {name: kept[name] for name in KEPT} == {name: was[name] for name in KEPT}


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
    assert document["train"]["schedule"] == "one_cycle"
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


def test_the_schedule_of_a_single_trial_stays_and_what_belongs_to_a_method_goes():
    path = TrialConfig.from_dict(RESIDUAL)
    single = replace(
        path,
        train=replace(
            path.train, schedule="cosine", epochs=4, penalty="scale_and_shift", label_smoothing=0.1
        ),
        prune=PruneConfig(ratio=0.2, target=0.5),
    )
    anew = from_scratch(single, WIDE, 0.4, 9)
    assert (anew.train.schedule, anew.train.epochs, anew.train.penalty) == ("cosine", 9, "none")
    assert anew.train.label_smoothing == 0.1
    assert from_scratch(path, WIDE, 0.4, 9).train.schedule == "one_cycle"


def test_the_command_writes_it_and_says_where_the_flag_belongs(walked, tmp_path):
    def call(*words):
        return CliRunner().invoke(main, ["select", str(walked), "--id", "t0000@2", *map(str, words)])

    done = call("--write-config", tmp_path / "best.yaml", "--from-scratch", "--seeds", 1)
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["prune"]["allocator"] == "given"
    refused = call("--from-scratch")
    assert refused.exit_code == 2
    assert "--from-scratch: says what --write-config PATH writes (give both)" in refused.stderr


def test_a_sweep_of_given_widths_is_read_back_from_its_runs_alone(tmp_path):
    """Names of layers have dots, as keys have: MLflow's parameters and the table's columns join them."""
    config = from_scratch(TrialConfig.from_dict(RESIDUAL), WIDE, 0.4, 9)
    widths = {"layer1.0.conv1": 3, "conv1": 2}
    prune = replace(config.pruning, allocator_options={"widths": widths})
    config = replace(config, prune=prune)
    base = FakeTrial("b0000", config.baseline(), finals_of(1.0, 95.0), "baseline")
    write_sweep(tmp_path / "own", [base, FakeTrial("t0000", config, finals_of(0.6, 90.0))])
    df = analysis.load(tmp_path / "own")
    df.attrs["sweeps"][0].update(folder=None, tracking_uri=None)  # no manifest: from the columns
    assert trial_config(df, row_of(df, "t0000")).pruning.allocator_options == {"widths": widths}
