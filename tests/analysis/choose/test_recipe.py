"""The config that confirms a choice on fresh seeds."""

import shutil

import pytest
import yaml

import analysis
from analysis.choose.recipe import write_config
from analysis.choose.scratch import write_scratch_config
from analysis.runs.models import row_of
from gcp_core.config import TrialConfig
from sweeps.config.sweep_config import load_config
from tests.analysis.synthetic import config_for, some_trials


def test_a_choice_becomes_a_config_for_fresh_seeds(df, tmp_path):
    row = df[df["trial"] == "t0003"].iloc[0]
    df.attrs["sweeps"][0].update(folder=None, tracking_uri=None)  # no manifest: from the columns
    fresh = write_config(df, row, tmp_path / "best.yaml", seeds=3, epochs=40)
    document = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert document["seed"] == {"choice": [1, 2, 3]} == {"choice": fresh}
    original = {t.trial: t for t in some_trials(24)}["t0003"].config
    assert document["prune"]["target"] == original.prune.target
    assert document["prune"]["interval"] == 2 * original.prune.interval, (
        "twice the epochs, twice the interval"
    )
    assert document["train"]["epochs"] == 40
    parts = {name: document[name] for name in ("data", "model", "train", "prune")}
    again = TrialConfig.from_dict({**parts, "seed": 1})
    assert again.model == config_for().model


def test_a_table_tells_a_schedule_without_target_until_the_last_epoch(df, tmp_path):
    df.attrs["sweeps"][0].update(folder=None, tracking_uri=None)  # no manifest: from the columns
    open_ended = df.assign(**{"prune.target": float("nan"), "prune.until": 1.0})
    open_ended.attrs = df.attrs
    write_config(open_ended, row_of(open_ended, "t0003"), tmp_path / "best.yaml")
    prune = yaml.safe_load((tmp_path / "best.yaml").read_text())["prune"]
    assert prune["target"] is None, "not the default of 50 %"
    assert (prune["until"], type(prune["until"])) == (1.0, float), "the share, not the first epoch"


@pytest.mark.parametrize("write", [write_config, write_scratch_config])
def test_fresh_seeds_run_where_the_sweep_ran(write, walked, tmp_path):
    places = {
        "storage": "s3://bucket/runs",
        "ledger": "postgresql://me@host/ledgers",
        "resources": {"cpus": 4, "gpus": 0.5, "retries": 1, "hang_minutes": 30.0, "spread": False},
        "tracking": {"uri": "http://mlflow:5000"},
    }
    df = analysis.load(walked)
    moved = shutil.copytree(walked, tmp_path / "walked")
    (moved / "config.yaml").write_text(
        yaml.safe_dump({"name": "walked", "search": {"concurrency": 8, "trials": 50}, **places})
    )
    df.attrs["sweeps"] = [{**df.attrs["sweeps"][0], "folder": str(moved)}]
    write(df, row_of(df, "t0000@1"), tmp_path / "best.yaml", seeds=2, epochs=4)
    text = (tmp_path / "best.yaml").read_text()
    document = yaml.safe_load(text)
    assert {name: document[name] for name in places} == places
    assert (document["search"]["concurrency"], document["search"]["sampler"]) == (8, "grid")
    assert "Where it runs" not in text
    read = load_config(tmp_path / "best.yaml")
    assert (read.resources.gpus, read.storage, read.search.concurrency) == (0.5, "s3://bucket/runs", 8)


@pytest.mark.parametrize("write", [write_config, write_scratch_config])
def test_the_command_in_a_config_can_be_typed_when_its_name_has_a_space(write, walked, tmp_path):
    df = analysis.load(walked)
    write(df, row_of(df, "t0000@1"), tmp_path / "my best.yaml")
    assert "#   gcp-sweep run 'my best.yaml'\n" in (tmp_path / "my best.yaml").read_text()


def test_where_a_sweep_ran_is_its_own_among_several(df, tmp_path):
    entries = []
    for name, cpus in (("other", 2), (df["sweep"].iloc[0], 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"resources": {"cpus": cpus}}))
        entries.append({**df.attrs["sweeps"][0], "name": name, "folder": str(tmp_path / name)})
    df.attrs["sweeps"] = entries
    row = df[df["trial"] == "t0003"].iloc[0]
    write_config(df, row, tmp_path / "best.yaml")
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["resources"] == {"cpus": 6}


def test_where_it_ran_is_said_to_be_missing_when_it_is_not_known(df, tmp_path):
    row = df[df["trial"] == "t0003"].iloc[0]
    df.attrs["sweeps"][0].update(folder=None, tracking_uri=None)
    write_config(df, row, tmp_path / "best.yaml")
    text = (tmp_path / "best.yaml").read_text()
    assert "# Where it runs is not said here: add resources, search.concurrency, storage" in text
    assert not {"resources", "tracking", "storage", "ledger"} & set(yaml.safe_load(text))
