"""Seeds as replicates: means, spreads, the robust front, chances, confirmed accuracy."""

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.evidence import noise
from gcp_core.errors import ConfigError
from tests.analysis.evidence.tables import GOALS, runs


def test_seeds_of_a_configuration_become_one_row_with_mean_and_spread():
    groups = noise.by_config(
        runs([("a", 0, 90.0, 10), ("a", 1, 92.0, 12), ("b", 0, 80.0, 5)]), ["val_accuracy", "macs"]
    )
    a = groups.set_index("config_id").loc["a"]
    assert (a["n"], a["val_accuracy"], a["macs"], a["trials"]) == (2, 91.0, 11.0, "t0000, t0001")
    assert a["val_accuracy_std"] == pytest.approx(np.sqrt(2))
    assert np.isnan(groups.set_index("config_id").loc["b", "val_accuracy_std"])


def test_pooled_spread_weighs_by_degrees_of_freedom_and_needs_replicates():
    df = runs([("a", 0, 90.0, 1), ("a", 1, 92.0, 1), ("b", 0, 80.0, 1), ("b", 1, 80.0, 1), ("b", 2, 83.0, 1)])
    groups = noise.by_config(df, ["val_accuracy"])
    # a: variance 2 with 1 degree, b: 3 with 2: (1*2 + 2*3) / 3
    assert noise.pooled_std(groups, "val_accuracy") == pytest.approx(np.sqrt(8 / 3))
    single = noise.by_config(runs([("a", 0, 90.0, 1), ("b", 0, 91.0, 1)]), ["val_accuracy"])
    with pytest.raises(ConfigError, match="no configuration was run with more than one seed"):
        noise.pooled_std(single, "val_accuracy")


def test_the_robust_front_prefers_the_mean_of_many_seeds_to_one_lucky_seed():
    many = [("solid", s, 90.0 + d, 10.0) for s, d in enumerate((-1.0, 0.0, 1.0))]
    df = runs([*many, ("lucky", 0, 90.3, 10.0)])
    groups = noise.by_config(df, list(GOALS))
    assert set(analysis.pareto.front(groups, GOALS)["config_id"]) == {"lucky"}
    # Standard errors 1/sqrt(3) and 1: 89.42 against 89.30.
    assert set(noise.robust_front(groups, GOALS, k=1.0)["config_id"]) == {"solid"}


def test_front_probability_is_high_for_clear_and_half_for_equal_configurations():
    rng = np.random.default_rng(0)
    rows = [("best", s, 95 + rng.normal(0, 0.3), 10.0) for s in range(5)]
    rows += [("worse", s, 90 + rng.normal(0, 0.3), 10.0) for s in range(5)]
    twins = [("x", s, 80 + d, 5.0) for s, d in enumerate((-0.3, 0.0, 0.3))]
    twins += [("y", s, 80 + d, 5.0) for s, d in enumerate((-0.3, 0.0, 0.3))]
    found = noise.front_probability(runs(rows + twins), GOALS, draws=600).set_index("config_id")[
        "probability"
    ]
    assert found["best"] == 1.0
    assert found["worse"] == 0.0
    assert found["x"] == pytest.approx(0.5, abs=0.12)
    assert found["x"] + found["y"] == pytest.approx(1.0, abs=0.05)


def test_intervals_of_confirmed_accuracy_cover_the_truth_in_about_80_per_cent():
    """200 simulated searches of 30 configurations: the chosen one is confirmed on three fresh seeds."""
    rng = np.random.default_rng(1)
    search = runs([(str(i), 0, 90.0, 1.0) for i in range(30)])
    fresh = runs([("", s, 90.0, 1.0) for s in (7, 8, 9)], kind="confirm")
    df = pd.concat([search, fresh], ignore_index=True)
    names = search["config_id"].tolist()
    covered, drops = 0, []
    for _ in range(200):
        truth = 90 + rng.normal(0, 0.3, 30)
        seen = truth + rng.normal(0, 0.3, 30)
        best = int(seen.argmax())
        df["config_id"] = [*names, *[str(best)] * 3]
        df["val_accuracy"] = np.concatenate([seen, truth[best] + rng.normal(0, 0.3, 3)])
        found = noise.confirm(df, str(best))
        covered += found.low <= truth[best] <= found.high
        drops.append(found.drop)
    assert 0.70 <= covered / 200 <= 0.90
    assert np.mean(drops) > 0.1, "the selected number is optimistic, and confirm shows it"


def test_without_a_confirm_run_nothing_is_confirmed():
    with pytest.raises(ConfigError, match="has no finished confirm run"):
        noise.confirm(runs([("a", 0, 90.0, 1)]), "a")
