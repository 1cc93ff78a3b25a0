"""Constraints in the words of the job: what is understood, what is refused, what is removed."""

import numpy as np
import pandas as pd
import pytest

from analysis.choose import constraints as hard
from analysis.errors import NothingFeasible
from gcp_core.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "echo", "bound"),
    [
        ("macs <= 50%", "macs <= 50 % of the baseline", 0.5),
        ("macs<=60M", "macs <= 60.0 M MACs", 60e6),
        ("params <= 0.3M", "params <= 300 k params", 300e3),
        ("params < 280k", "params < 280 k params", 280e3),
        ("accuracy_drop <= 1", "accuracy_drop <= 1 points", 1.0),
        ("accuracy_drop <= 0.5 points", "accuracy_drop <= 0.5 points", 0.5),
        ("latency_ms <= 5", "latency_ms <= 5 ms", 5.0),
        ("latency <= 500us", "latency_ms <= 0.5 ms", 0.5),
        ("latency_ms <= 80 %", "latency_ms <= 80 % of the baseline", 0.8),
        ("val_accuracy >= 92.5", "val_accuracy >= 92.5 %", 92.5),
        ("accuracy >= 92.5%", "val_accuracy >= 92.5 %", 92.5),
        ("macs_removed >= 50%", "macs_removed >= 50 %", 0.5),
        ("macs_removed >= 0.5", "macs_removed >= 50 %", 0.5),
        ("latency_share <= 80%", "latency_share <= 80 %", 0.8),
        ("compression >= 4x", "compression >= 4 x", 4.0),
        ("macs =< 1_000_000", "macs <= 1.00 M MACs", 1e6),
        ("macs <= 1.5e6", "macs <= 1.50 M MACs", 1.5e6),
        ("macs <= 50 MACs", "macs <= 50 MACs", 50.0),
        ("params <= 50 k", "params <= 50.0 k params", 50e3),
        ("macs >= 0", "macs >= 0 MACs", 0.0),
        ("latency_ms <= 50", "latency_ms <= 50 ms", 50.0),
    ],
)
def test_a_constraint_is_understood_and_echoed(given, echo, bound):
    parsed = hard.parse(given)
    assert str(parsed) == echo
    assert parsed.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mac <= 50%", 'did you mean "macs"?'),
        ("latency_s <= 5", 'did you mean "latency_ms"?'),
        ("macs under 50%", "is not a constraint"),
        ("macs <= half", "'half' is not a number with a unit"),
        ("macs <= 5ms", "'ms' is not a unit of macs"),
        ("macs <= 0.5", "did you mean 50%?"),
        ("macs <= 50", "did you mean 50%?"),
        ("params <= 100", "did you mean 100%?"),
        ("accuracy >= 0.925", "write 92.5"),
        ("accuracy_drop <= 1%", "it is counted in points: accuracy_drop <= 1"),
        ("macs_removed >= 50", "write 50% or 0.5"),
        ("latency_share <= 50", "write 50% or 0.5"),
        ("flops <= 60M", "one MAC is two FLOPs"),
        ("test_accuracy >= 90", "a choice must not use test accuracy"),
        ("latency_ms <= 3 h", "allowed: ms, s, us, µs"),
    ],
)
def test_a_constraint_that_makes_no_sense_is_refused_with_a_hint(given, message):
    with pytest.raises(ConfigError) as error:
        hard.parse(given)
    assert message in str(error.value)
    assert given.split()[0] in str(error.value)


def test_a_config_column_can_be_constrained(df):
    assert set(hard.apply(df, [hard.parse("prune.criterion == frs", df.columns)])["prune.criterion"]) == {
        "frs"
    }
    assert hard.apply(df, [hard.parse("prune.interval >= 3", df.columns)])["prune.interval"].min() == 3
    with pytest.raises(ConfigError, match="text can be compared by == and !="):
        hard.parse("prune.criterion <= frs", df.columns)


def test_percent_of_a_cost_means_the_paired_baseline(df):
    kept = hard.apply(df[df["candidate"]], [hard.parse("macs <= 50%")])
    assert kept["macs"].max() <= 0.5 * 4_000_000
    assert set(kept["trial"]) == set(df[df["candidate"] & (df["macs_kept"] <= 0.5)]["trial"])


def test_rows_without_a_value_do_not_satisfy_and_are_counted(df):
    rows = df[df["candidate"]].copy()
    rows.loc[rows.index[:3], "latency_ms"] = np.nan
    constraint = hard.parse("latency_ms <= 100")
    assert constraint.satisfied(rows).sum() == len(rows) - 3
    assert hard.removal(rows, constraint).missing == 3


def test_no_survivor_says_what_each_constraint_alone_removed_and_the_nearest_miss(df):
    rows = df[df["candidate"]]
    tight = [hard.parse("macs <= 1%"), hard.parse("val_accuracy >= 99.9")]
    with pytest.raises(NothingFeasible) as error:
        hard.apply(rows, tight)
    first, second = error.value.removals
    assert (first.removed, first.of) == (24, 24)
    smallest = rows.loc[rows["macs"].idxmin()]
    assert first.nearest == smallest["trial"]
    assert first.nearest_miss == pytest.approx(smallest["macs"] - 0.01 * 4_000_000)
    assert second.nearest == rows.loc[rows["val_accuracy"].idxmax(), "trial"]
    assert f'"macs <= 1 % of the baseline" alone removes 24 of 24 (nearest miss: {first.nearest}' in str(
        error.value
    )


def test_a_relative_bound_without_any_baseline_says_so(df):
    rows = df[df["candidate"]].copy()
    rows["baseline_macs"] = np.nan
    with pytest.raises(ConfigError, match="needs a finished baseline"):
        hard.apply(rows, [hard.parse("macs <= 50%")])


def test_a_column_nobody_measured_is_named(df):
    with pytest.raises(ConfigError, match="no trial has a value"):
        hard.apply(df.drop(columns="latency_ms"), [hard.parse("latency_ms <= 5")])


@pytest.mark.parametrize("kept", [pd.array([True, False, None], dtype="boolean"), [True, False, None]])
@pytest.mark.parametrize(
    ("given", "models"),
    [("== true", [0]), ("!= true", [1, 2]), ("== True", [0]), ("== false", [1]), ("== null", [2])],
)
def test_a_yes_or_no_is_understood_in_either_spelling(kept, given, models):
    df = pd.DataFrame({"prune.finish": kept})
    found = hard.parse(f"prune.finish {given}", df.columns)
    assert list(df.index[found.satisfied(df)]) == models


def test_other_text_is_compared_as_it_is():
    df = pd.DataFrame({"prune.criterion": ["True", "true", "l1"]})
    found = hard.parse("prune.criterion == true", df.columns)
    assert found.satisfied(df).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("given", "values", "kept"),
    [
        # 97.4 - 97.1 is 0.30000000000001137, 0.29 x 100 is 28.999999999999996.
        ("accuracy_drop <= 0.3", {"accuracy_drop": [97.4 - 97.1, 0.4]}, [True, False]),
        ("accuracy_drop < 0.3", {"accuracy_drop": [97.4 - 97.1, 0.2]}, [False, True]),
        ("macs <= 29%", {"macs": [29.0, 30.0], "baseline_macs": [100.0, 100.0]}, [True, False]),
        ("macs_removed >= 71%", {"macs_removed": [1 - 29 / 100, 1 - 30 / 100]}, [True, False]),
    ],
)
def test_a_model_that_meets_a_limit_exactly_keeps_it_whatever_binary_makes_of_it(given, values, kept):
    assert hard.parse(given).satisfied(pd.DataFrame(values)).tolist() == kept


def test_a_number_is_compared_in_a_column_that_has_words_too():
    df = pd.DataFrame({"prune.round_to": ["auto", "8", "4", None], "model": list("abcd")})
    kept = {
        op: hard.parse(f"prune.round_to {op} 8", df.columns).satisfied(df).tolist()
        for op in ("==", "!=", "<=")
    }
    assert kept == {
        "==": [False, True, False, False],
        "!=": [True, False, True, False],
        "<=": [False, True, True, False],
    }


def test_a_number_is_refused_where_a_column_has_words_alone():
    df = pd.DataFrame({"prune.criterion": ["frs", "l1"], "model": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"prune.criterion: no trial has a number here.*frs, l1"):
        hard.apply(df, [hard.parse("prune.criterion == 1", df.columns)])


def test_what_has_another_word_is_not_said_to_be_without_a_value():
    df = pd.DataFrame({"prune.criterion": ["frs", "frs", None], "model": list("abc")})
    found = hard.removal(df, hard.parse("prune.criterion == l1", df.columns))
    assert (found.removed, found.missing, found.of) == (3, 0, 3)
    assert hard.describe(found) == '"prune.criterion == l1" alone removes 3 of 3'


def test_accuracy_misses_a_limit_by_points(df):
    rows = df[df["candidate"]]
    best = rows["val_accuracy"].max()
    said = hard.describe(hard.removal(rows, hard.parse("val_accuracy >= 99.9")))
    assert said.endswith(f" by {99.9 - best:.2f} points)")


@pytest.mark.parametrize(
    ("own", "share", "noise", "kept"),
    [
        (2.0, 0.9, 0.0, False),  # on a node that is twice as fast as the baseline's (5 ms)
        (6.0, 0.45, 0.0, True),  # on a slower one
        (2.6, 0.52, 0.05, True),  # 0.52 may be 0.494
        (2.6, 0.52, 0.01, False),
    ],
)
def test_a_share_of_the_latency_is_that_of_the_unpruned_model_beside_it(own, share, noise, kept):
    """As in the sweep's own constraints: the baseline was timed by another process, maybe on another machine."""
    row = {"model": "t0000", "latency_ms": own, "latency_share": share, "latency_noise": noise}
    df = pd.DataFrame([{**row, "baseline_latency_ms": 5.0, "latency_low_ms": 1.9, "latency_high_ms": 6.1}])
    limit = hard.parse("latency_ms <= 50%")
    assert limit.satisfied(df).tolist() == [kept]
    assert hard.parse("latency_ms > 50%").satisfied(df).tolist() == [not kept or noise > 0.01]
    assert hard.parse("latency_share <= 0.5").satisfied(df).tolist() == [kept]
    # What is missed is counted as it is judged: 4.5 ms of 5 is 2 ms too many.
    assert limit.miss(df).tolist() == pytest.approx([0.0 if kept else 5 * share - 2.5])
