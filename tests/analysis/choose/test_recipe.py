"""The config that confirms a choice on fresh seeds."""

import yaml

from analysis.choose.recipe import write_config
from gcp_core.config import TrialConfig
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
