"""Importance: what is found, and what noise does not show."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import NothingFeasible
from analysis.evidence import importance
from analysis.evidence.importance import PATHS, findings
from analysis.runs.table import TWIN
from gcp_core.errors import ConfigError
from tests.analysis.evidence.test_paths import paths


def searched(n: int, seed: int, **effects: float) -> pd.DataFrame:
    """``n`` random trials over four parameters; accuracy is noise of 1 point plus ``effects`` (points between the
    smallest and the largest value of a parameter, or between ``frs`` and ``random``).
    """
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(
        {
            "prune.target": np.round(rng.uniform(0.3, 0.95, n), 2),
            "prune.interval": rng.integers(1, 5, n),
            "prune.ratio": rng.choice([0.1, 0.2, 0.3, 0.4], n),
            "prune.criterion": rng.choice(["frs", "l1", "random"], n),
        }
    )
    scaled = {
        "target": (df["prune.target"] - 0.3) / 0.65,
        "interval": (df["prune.interval"] - 1) / 3,
        "criterion": df["prune.criterion"].map({"frs": 0.0, "l1": 0.5, "random": 1.0}),
    }
    loss = sum(size * scaled[name] for name, size in effects.items())
    df["val_accuracy"] = 90.0 - loss + rng.normal(0, 1, n)
    df["candidate"], df["trial"] = True, [f"t{i:04d}" for i in range(n)]
    return df


def test_pure_noise_shows_no_evidence_and_is_not_predicted():
    """Twelve sweeps of noise; at 5 % each, three or more with evidence would come up once in fifty times."""
    found = [importance.importance(searched(30, seed), seed=seed) for seed in range(12)]
    assert sum(table["evidence"].any() for table in found) <= 2
    assert np.median([table["r2"].iloc[0] for table in found]) < 0, "worse than the mean"
    quiet = next(table for table in found if not table["evidence"].any())
    assert findings(quiet).startswith(
        "No evidence in 30 trials that any searched parameter mattered for val_accuracy. Trials held out are predicted "
        "no better than by their mean (out-of-bag R2 -"
    )


def test_a_real_effect_is_found_with_its_share_and_the_others_show_no_evidence():
    # A uniform effect of 10 points has variance 100 / 12 = 8.3 beside a noise of 1: 89 % of all.
    table = importance.importance(searched(60, 1, target=10.0))
    assert table["parameter"].iloc[0] == "prune.target"
    assert table["evidence"].tolist() == [True, False, False, False]
    assert table["importance"].iloc[0] == pytest.approx(0.89, abs=0.2)
    assert 0.6 < table["r2"].iloc[0] < 0.95
    assert (table["importance"].iloc[1:] < 0.05).all()
    said = findings(table)
    assert said.startswith(
        "Share of the variation of val_accuracy that goes with a parameter (60 trials): prune.target "
    )
    assert " No evidence for prune." in said
    assert said.endswith("on trials held out (out-of-bag R2).")


def test_a_second_effect_is_seen_beside_a_larger_one():
    table = importance.importance(searched(80, 2, target=10.0, criterion=2.0))
    assert set(table.loc[table["evidence"], "parameter"]) == {"prune.target", "prune.criterion"}


@pytest.mark.parametrize("repeats", [1, 10])
def test_an_importance_never_lies_outside_its_own_range(repeats):
    for seed in range(2):
        table = importance.importance(searched(24, seed, target=3.0), repeats=repeats, seed=seed)
        assert ((table["low"] >= 0) & (table["low"] <= table["importance"])).all()
        assert ((table["importance"] <= table["high"]) & (table["high"] <= 1)).all()


def test_a_target_that_never_varies_is_explained_by_nothing():
    df = searched(20, 0)
    df["val_accuracy"] = 90.0
    table = importance.importance(df)
    assert not table["evidence"].any()
    assert (table[["importance", "high", "r2"]] == 0).all().all()


def test_importance_of_very_many_trials_rests_on_a_sample_of_them(monkeypatch):
    monkeypatch.setattr(importance, "MOST", 12)
    assert importance.importance(searched(40, 0), repeats=2)["trials"].tolist() == [12] * 4


def test_importance_of_a_handful_of_trials_or_of_no_search_is_refused():
    df = searched(20, 0)
    with pytest.raises(NothingFeasible, match="5 finished trials say nothing about importance"):
        importance.importance(df.head(5))
    with pytest.raises(ConfigError, match='did you mean "val_accuracy"'):
        importance.importance(df, "val_acuracy")
    with pytest.raises(ConfigError, match="no parameter varies"):
        importance.importance(df[["trial", "candidate", "val_accuracy"]])


@pytest.mark.parametrize("values", [(None, "gcp"), (None, 0.5, 0.75)])
def test_a_parameter_that_some_trials_do_not_set_is_judged_like_any_other(values):
    df = searched(60, 1)
    place = np.random.default_rng(0).integers(0, len(values), 60)
    df["prune.method" if "gcp" in values else "prune.target"] = pd.Series([values[i] for i in place])
    df["val_accuracy"] += 10.0 * (place == 0)
    found = importance.importance(df)
    name = "prune.method" if "gcp" in values else "prune.target"
    assert found["parameter"].iloc[0] == name
    assert found["evidence"].iloc[0]
    assert set(found["parameter"]) >= {"prune.interval", "prune.ratio", "prune.criterion"}


def test_a_trial_that_made_the_same_model_as_an_earlier_one_tells_about_its_setting():
    """All trials with the second value of ``prune.until`` are twins: it was searched all the same."""
    df = searched(30, 3, target=10.0).drop(columns=["prune.interval", "prune.ratio", "prune.criterion"])
    twins = df.assign(trial=df["trial"] + "b", candidate=False, left_out=TWIN)
    both = pd.concat([df.assign(left_out=""), twins], ignore_index=True).assign(kind="trial")
    both["prune.until"] = [0.5] * 30 + [0.75] * 30
    found = importance.importance(both).set_index("parameter")
    assert found["trials"].to_dict() == {"prune.target": 60, "prune.until": 60}
    assert found.loc["prune.target", "evidence"]


def test_a_path_has_the_hypervolume_of_all_its_models_also_of_those_it_shares():
    df = paths(0.0, configs=2)
    alone = importance.importance(df, repeats=2)
    df["left_out"] = df["left_out"].where(df["level"].ne(2) | df["trial"].eq(df["trial"].iloc[0]), TWIN)
    df.loc[df["left_out"] == TWIN, "candidate"] = False
    shared = importance.importance(df, repeats=2)
    assert shared["target"].tolist() == [PATHS] * len(shared)
    pd.testing.assert_frame_equal(shared, alone)


def test_trials_that_broke_a_limit_count_in_what_mattered():
    """With the limit val_accuracy >= 88, none of `random` is a candidate: it costs 6 points."""
    df = searched(60, 3, criterion=6.0).assign(kind="trial", status="complete", left_out="")
    bad = df["val_accuracy"] < 88.0
    assert not bad[df["prune.criterion"] == "frs"].any()
    df.loc[bad, ["status", "left_out", "candidate"]] = ["infeasible", "infeasible: violates", False]
    refused = df[bad].head(1).assign(trial="x", val_accuracy=np.nan)
    confirm = df[bad].head(1).assign(trial="c", kind="confirm")
    table = importance.importance(pd.concat([df, refused, confirm], ignore_index=True))
    assert table["trials"].iloc[0] == 60
    assert table.loc[table["evidence"], "parameter"].tolist() == ["prune.criterion"]
    # Uniform over 0, 3 and 6 points: variance 6 beside a noise of 1.
    assert table["importance"].iloc[0] == pytest.approx(0.86, abs=0.2)


def test_a_path_of_which_no_model_keeps_the_limits_has_covered_nothing():
    df = paths(gap=5.0, seeds=6, configs=3)
    bad = (df["prune.criterion"] == "random") & (df["prune.interval"] == 2)
    df.loc[bad, ["status", "left_out", "candidate"]] = ["infeasible", "infeasible: violates", False]
    assert importance.importance(df)["trials"].iloc[0] == 36
    rows = importance._one_per_path(df, df)
    assert (rows.loc[bad, PATHS] == 0).all()
    assert (rows.loc[~bad, PATHS] > 0).all()
