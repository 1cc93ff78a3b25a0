"""Importance: what is found, and what noise does not show."""

import numpy as np
import pytest

from analysis.errors import NothingFeasible
from analysis.evidence import importance
from gcp_core.errors import ConfigError


def test_importance_names_the_parameter_that_mattered_with_its_spread(df):
    rows = df.copy()
    rng = np.random.default_rng(0)
    rows.loc[rows["candidate"], "val_accuracy"] = (
        90 - 20 * rows["prune.target"] + rng.normal(0, 0.1, len(rows))
    )
    for method in ("fanova", "pedanova"):
        found = importance.importance(rows, method=method, repeats=3)
        assert found["parameter"].iloc[0] == "prune.target", method
        assert (found["low"] <= found["high"]).all()
        assert set(found["parameter"]) == {"prune.criterion", "prune.interval", "prune.ratio", "prune.target"}


def test_importance_of_very_many_trials_rests_on_a_sample_of_them(df, monkeypatch):
    seen = []

    def instead(rows, space, *rest):
        seen.append(set(rows["trial"]))
        return dict.fromkeys(space, 0.25)

    monkeypatch.setattr(importance, "MOST", 12)
    monkeypatch.setattr(importance, "_evaluate", instead)
    importance.importance(df, repeats=2)
    assert [len(trials) for trials in seen] == [12, 8, 8], "each draw is 63 % of the sample, every trial once"
    assert all(part <= seen[0] for part in seen[1:])


def test_importance_of_a_handful_of_trials_is_refused(df):
    with pytest.raises(NothingFeasible, match="5 finished trials say nothing about importance"):
        importance.importance(df[df["candidate"]].head(5))
    with pytest.raises(ConfigError, match='did you mean "fanova"'):
        importance.importance(df, method="fanva")
