"""What a trial says about itself at its end."""

import dataclasses

import pytest

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.records.checkpoint import read_manifest
from gcp_core.schema import FINALS
from gcp_core.training import run_trial

CONFIG = TrialConfig(
    data=DataConfig(train_images=200),
    model=ModelConfig("vgg_tiny", 0.25),
    train=TrainConfig(epochs=2, batch_size=64),
    prune=PruneConfig("l1", interval=1, ratio=0.3, target=None, until=1.0),
    threads=2,
)


def test_the_latency_is_measured_beside_the_dense_model_and_its_interval_is_kept(tmp_path):
    result = run_trial(CONFIG, checkpoint_dir=tmp_path)
    kept = read_manifest(tmp_path / "model")["latency"]
    assert kept["threads"] == 2
    assert kept["low_ms"] <= kept["median_ms"] <= kept["high_ms"]
    assert kept["share_low"] <= kept["share"] <= kept["share_high"]
    finals = result.finals
    assert (finals["latency_ms"], finals["latency_share"]) == (kept["median_ms"], kept["share"])
    assert 0 <= finals["latency_noise"] < 1
    assert kept["narrow"] == (finals["latency_noise"] <= 0.02)


def test_the_schema_says_on_which_threads_the_latency_is_measured():
    assert "threads of the trial" in FINALS["latency_ms"].text
    assert FINALS["latency_share"].better == "min"
    assert FINALS["latency_noise"].better is None


def test_a_trial_that_diverged_has_no_latency():
    train = dataclasses.replace(CONFIG.train, lr=1e30)
    result = run_trial(dataclasses.replace(CONFIG, train=train))
    assert result.status == "diverged"
    assert "latency_ms" not in result.finals


@pytest.mark.parametrize("name", ["latency_ms", "latency_share", "latency_noise"])
def test_they_are_finals_of_the_schema(name):
    assert FINALS[name].key == f"final/{name}"
