"""The front and everything built on it, against definitions written the slow way."""

import numpy as np
import pandas as pd
import pytest

from analysis.front import pareto
from analysis.front.anchors import Anchor, Anchors
from gcp_core.errors import ConfigError
from tests.oracles.sweeps import dominance

DIRECTIONS = ("max", "min", "min", "max")
BAD = (np.nan, np.inf, -np.inf, 1.797e308, -1e300)


def random_table(rng: np.random.Generator) -> tuple[pd.DataFrame, dict[str, str], np.ndarray]:
    """A small table with ties, duplicates and bad values; the costs of its sound rows."""
    m, n = int(rng.integers(2, 5)), int(rng.integers(1, 13))
    values = rng.integers(0, 6, (n, m)).astype(float) if rng.random() < 0.5 else rng.random((n, m)) * 5
    if n > 2 and rng.random() < 0.5:
        values[1] = values[0]
    bad = rng.random(n) < 0.15
    for i in np.flatnonzero(bad):
        values[i, rng.integers(m)] = rng.choice(BAD)
    df = pd.DataFrame(values, columns=[f"c{i}" for i in range(m)], index=rng.permutation(n) + 100)
    objectives = {f"c{i}": DIRECTIONS[i] for i in range(m)}
    signs = np.array([-1.0 if d == "max" else 1.0 for d in objectives.values()])
    return df, objectives, np.where(bad[:, None], np.nan, values * signs)


@pytest.fixture(scope="module")
def random_tables():
    rng = np.random.default_rng(7)
    return [random_table(rng) for _ in range(1000)]


def test_front_and_ranks_equal_the_definition_on_1000_random_sets(random_tables):
    seen_bad = seen_ties = 0
    for df, objectives, costs in random_tables:
        sound = ~np.isnan(costs).any(axis=1)
        seen_bad += (~sound).any()
        seen_ties += len(np.unique(costs[sound], axis=0)) < sound.sum()
        expected = df.index[sound][np.array(dominance.front(costs[sound]), dtype=bool)]
        assert pareto.front(df, objectives).index.tolist() == expected.tolist()
        ranks = pareto.ranks(df, objectives)
        assert ranks[sound].tolist() == dominance.ranks(costs[sound])
        assert ranks[~sound].isna().all()
    assert seen_bad > 200, "the sets must contain bad values"
    assert seen_ties > 200, "the sets must contain ties"


def test_hypervolume_equals_inclusion_exclusion_and_the_grid_on_1000_random_sets(random_tables):
    for df, objectives, costs in random_tables:
        anchors = Anchors(
            {c: Anchor(0.0, 4.0, "") if d == "max" else Anchor(4.0, 0.0, "") for c, d in objectives.items()}
        )
        sound = costs[~np.isnan(costs).any(axis=1)]
        shift = np.array([4.0 if d == "max" else 0.0 for d in objectives.values()])
        losses = (sound + shift) / 4.0
        reference = [1.0] * losses.shape[1]
        best = losses[np.array(dominance.front(losses), dtype=bool)] if len(losses) else losses
        best = np.unique(best, axis=0)
        found = pareto.hypervolume(df, objectives, anchors)
        assert found.value == pytest.approx(
            dominance.hypervolume_by_cells(best, reference), rel=1e-12, abs=1e-12
        )
        if len(best) <= 8:
            assert found.value == pytest.approx(dominance.hypervolume(best, reference), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("column", ["c0", "c1"])
def test_one_bad_value_never_changes_the_front(random_tables, bad, column):
    for df, objectives, _ in random_tables[:60]:
        extra = pd.DataFrame([dict.fromkeys(objectives, 2.0)], index=[999])
        extra[column] = bad
        with_bad = pd.concat([extra, df])
        assert (
            pareto.front(with_bad, objectives).index.tolist() == pareto.front(df, objectives).index.tolist()
        )


def test_a_point_added_never_lowers_the_hypervolume():
    rng = np.random.default_rng(3)
    objectives = {"a": "max", "b": "min", "c": "min"}
    anchors = Anchors({"a": Anchor(0, 1, ""), "b": Anchor(1, 0, ""), "c": Anchor(1, 0, "")})
    df = pd.DataFrame(rng.random((60, 3)) * 1.2, columns=list("abc"))
    volumes = [pareto.hypervolume(df.head(n), objectives, anchors).value for n in range(1, 61)]
    assert (np.diff(volumes) >= -1e-12).all()
    assert volumes[-1] > volumes[0]


def test_equal_rows_stay_together_and_minus_zero_is_zero():
    df = pd.DataFrame({"acc": [90.0, 90.0, 0.0, -0.0], "macs": [5.0, 5.0, 1.0, 1.0]})
    assert pareto.front(df, {"acc": "max", "macs": "min"}).index.tolist() == [0, 1, 2, 3]
    assert pareto.ranks(df, {"acc": "max", "macs": "min"}).tolist() == [1, 1, 1, 1]


def test_rows_that_are_no_candidates_never_stand_on_the_front():
    df = pd.DataFrame({"acc": [99.0, 90.0], "macs": [1.0, 5.0], "candidate": [False, True]})
    best = pareto.front(df, {"acc": "max", "macs": "min"})
    assert best.index.tolist() == [1]
    assert best.attrs["rejected"] == 1


def test_band_holds_the_rows_that_would_be_on_the_front_if_they_were_a_little_better():
    df = pd.DataFrame({"acc": [90.0, 89.8, 89.5, 95.0], "macs": [5.0, 6.0, 6.0, 9.0]})
    goals = {"acc": "max", "macs": "min"}
    assert pareto.band(df, goals, {}).index.tolist() == [0, 3]
    # 89.8 + 0.3 passes 90.0 at more MACs: no longer dominated; 89.5 + 0.3 = 89.8 still is.
    assert pareto.band(df, goals, {"acc": 0.3}).index.tolist() == [0, 1, 3]


def test_knee_is_the_point_farthest_from_the_chord_with_the_trade_off_on_both_sides():
    # Scaled: (0, 0), (0.2, 0.7), (0.5, 0.85), (1, 1): distances 0, 0.5, 0.35, 0 over sqrt(2).
    df = pd.DataFrame({"acc": [80.0, 94.0, 97.0, 100.0], "macs": [0.0, 2.0, 5.0, 10.0]}, index=list("abcd"))
    knee = pareto.knee(df, "acc", "macs")
    assert knee.index == "b"
    assert knee.distance == pytest.approx(0.5 / np.sqrt(2))
    assert knee.cheaper == ("a", -14.0, -1.0)
    assert knee.dearer == ("c", 3.0, 1.5)


@pytest.mark.parametrize("macs", [[1.0, 2.0], [1.0, 2.0, 3.0]])
def test_a_straight_or_short_front_has_no_knee(macs):
    assert pareto.knee(pd.DataFrame({"acc": macs, "macs": macs}), "acc", "macs") is None


def test_models_of_one_accuracy_whose_latencies_cannot_be_told_apart_have_no_knee():
    latency = [1.0, 1.1, 1.2]
    df = pd.DataFrame(
        {"acc": [99.0] * 3, "latency_ms": latency, "latency_low_ms": 0.9, "latency_high_ms": 1.3}
    )
    assert len(pareto.front(df, {"acc": "max", "latency_ms": "min"})) == 3
    assert pareto.knee(df, "acc", "latency_ms") is None


def test_shares_of_a_latency_that_cannot_be_told_apart_are_one_point_of_the_front():
    """0.50 and 0.51 with 2 % of noise are alike: the more accurate one of them remains, and one that is surely faster."""
    df = pd.DataFrame({"acc": [95.0, 96.0, 90.0], "latency_share": [0.50, 0.51, 0.40], "latency_noise": 0.02})
    goals = {"acc": "max", "latency_share": "min"}
    assert pareto.front(df, goals).index.tolist() == [1, 2]
    assert pareto.front(df.drop(columns="latency_noise"), goals).index.tolist() == [0, 1, 2]


def test_contributions_are_the_hypervolume_lost_without_the_row():
    rng = np.random.default_rng(5)
    goals = {"a": "max", "b": "min"}
    anchors = Anchors({"a": Anchor(0, 1, ""), "b": Anchor(1, 0, "")})
    df = pd.DataFrame(rng.random((25, 2)), columns=list("ab"))
    df.loc[25] = [np.nan, 0.1]
    whole = pareto.hypervolume(df, goals, anchors).value
    parts = pareto.contributions(df, goals, anchors)
    for i in range(25):
        assert parts[i] == pytest.approx(
            whole - pareto.hypervolume(df.drop(index=i), goals, anchors).value, abs=1e-12
        )
    assert np.isnan(parts[25])


def test_points_outside_the_anchors_add_nothing_and_are_counted():
    anchors = Anchors({"a": Anchor(50, 100, ""), "b": Anchor(10, 0, "")})
    df = pd.DataFrame({"a": [40.0, 75.0], "b": [1.0, 5.0]})
    found = pareto.hypervolume(df, {"a": "max", "b": "min"}, anchors)
    # (1 - 0.5) * (1 - 0.5) of the box; the point at 40 is worse than the anchor 50.
    assert (found.value, found.cut, found.points) == (0.25, 1, 2)


def test_spread_keeps_k_rows_of_the_front():
    x = np.linspace(0.05, 0.95, 15)
    df = pd.DataFrame({"a": x, "b": x**2})
    goals, anchors = {"a": "max", "b": "min"}, Anchors({"a": Anchor(0, 1, ""), "b": Anchor(1, 0, "")})
    kept = pareto.spread(df, goals, anchors, 4)
    assert len(kept) == 4
    all_of_it = pareto.hypervolume(df, goals, anchors).value
    assert pareto.hypervolume(kept, goals, anchors).value > 0.85 * all_of_it
    assert len(pareto.spread(df, goals, anchors, 99)) == 15


def test_supported_tells_dents_from_the_hull():
    df = pd.DataFrame({"a": [1.0, 0.45, 0.0], "b": [1.0, 0.5, 0.0]}, index=["top", "dent", "zero"])
    anchors = Anchors({"a": Anchor(0, 1, ""), "b": Anchor(1, 0, "")})
    reach = pareto.supported(df, {"a": "max", "b": "min"}, anchors)
    assert reach.to_dict() == {"top": True, "dent": False, "zero": True}


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, "no objective given"),
        ({"mac": "min"}, 'did you mean "macs"?'),
        ({"macs": "down"}, "'down' is not a direction"),
        ({"name": "min"}, "is not a column of numbers"),
    ],
)
def test_wrong_objectives_are_named(objectives, message):
    df = pd.DataFrame({"macs": [1.0], "name": ["x"]})
    with pytest.raises(ConfigError) as error:
        pareto.front(df, objectives)
    assert message in str(error.value)


def test_an_empty_table_has_an_empty_front():
    df = pd.DataFrame({"a": [], "b": []})
    assert pareto.front(df, {"a": "max", "b": "min"}).empty


NEAR = [
    ("t0000", 49.0, 1000.0),
    ("t0001", 38.0, 998.0),  # eleven points worse, 0.2 % cheaper: nobody's choice
    ("t0002", 37.0, 995.0),  # hidden by t0000 itself, not by a point that is hidden
    ("t0003", 36.0, 960.0),  # 4 % cheaper: a choice
    ("t0004", 70.0, 2000.0),
    ("t0005", 70.0, 2000.0),  # an exact twin is no near-tie
    ("t0006", 20.0, 3000.0),  # dominated
]


def near_ties(rows, band):
    df = pd.DataFrame(rows, columns=["trial", "val_accuracy", "macs"])
    shown = pareto.distinct(df, {"val_accuracy": "max", "macs": "min"}, band)
    return list(shown["trial"]), shown.attrs["near_ties"]


def test_the_front_that_is_shown_has_no_near_ties():
    assert near_ties(NEAR, 0.01) == (
        ["t0000", "t0003", "t0004", "t0005"],
        {"t0001": "t0000", "t0002": "t0000"},
    )
    everything = ["t0000", "t0001", "t0002", "t0003", "t0004", "t0005"]
    assert near_ties(NEAR, 0.0) == (everything, {})
    assert near_ties(NEAR[::-1], 0.01)[0] == ["t0005", "t0004", "t0003", "t0000"], (
        "whatever the order of the rows"
    )


def test_every_near_tie_has_a_better_trial_that_is_shown_at_practically_its_cost():
    rng = np.random.default_rng(3)
    for _ in range(20):
        macs = rng.uniform(900, 1100, 60)
        df = pd.DataFrame({"trial": [f"t{i}" for i in range(60)], "macs": macs})
        df["val_accuracy"] = macs / 20 + rng.normal(0, 1, 60)
        goals = {"macs": "min", "val_accuracy": "max"}
        shown = pareto.distinct(df, goals, 0.02)
        hidden = shown.attrs["near_ties"]
        assert set(shown["trial"]) | set(hidden) == set(pareto.front(df, goals)["trial"])
        rows = df.set_index("trial")
        for trial, better in hidden.items():
            assert better in set(shown["trial"])
            assert rows.loc[better, "val_accuracy"] >= rows.loc[trial, "val_accuracy"]
            assert rows.loc[better, "macs"] <= 1.02 * rows.loc[trial, "macs"]
        cheapest_first = shown.sort_values("macs")["macs"].to_numpy()
        assert (cheapest_first[1:] / cheapest_first[:-1] > 1.02).all()


@pytest.mark.parametrize("band", [-0.1, 1.0, float("nan")])
def test_a_band_that_is_no_share_is_refused(band):
    with pytest.raises(ConfigError, match="is not a share"):
        near_ties(NEAR, band)


def test_the_volume_that_joining_points_add_is_the_difference_of_two_volumes():
    rng = np.random.default_rng(11)
    for _ in range(200):
        m = int(rng.integers(1, 5))
        front = rng.random((int(rng.integers(0, 7)), m)) * 1.3 - 0.1
        points = rng.random((3, m)) * 1.3 - 0.1
        points[rng.random(3) < 0.2] = np.inf
        before = pareto.dominated_volume(front)
        added = pareto.volume_added(front, points)
        whole = [pareto.dominated_volume(np.vstack([front, points[: j + 1]])) - before for j in range(3)]
        assert added == pytest.approx(whole, abs=1e-12)
        assert (np.diff(added, prepend=0.0) >= 0).all()


def test_the_volume_of_two_losses_is_the_area_below_the_stairs():
    losses = np.array([[0.5, 0.5], [-0.5, 0.75], [1.0, 0.0], [0.2, np.inf]])
    # 0.5 * 0.5, and left of it 1.0 * 0.25 more; the third lies on the edge of the box, the fourth is no number.
    assert pareto.dominated_volume(losses) == pytest.approx(0.25 + 0.25)
    assert pareto.dominated_volume(np.empty((0, 2))) == 0
