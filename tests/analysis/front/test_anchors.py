"""Where the scales of a hypervolume begin and end."""

import pandas as pd
import pytest

from analysis.front import pareto
from analysis.front.anchors import anchors_for, from_chance
from gcp_core.errors import ConfigError

GOALS = {"val_accuracy": "max", "macs": "min"}


def table(lost: float = 0.0, baseline: float = 90.0, chance: float = 10.0) -> pd.DataFrame:
    """A baseline of 100 MACs and three trials, ``lost`` points worse everywhere."""
    df = pd.DataFrame(
        [("b0000", baseline, 100.0), ("t0000", 91.0, 80.0), ("t0001", 88.0, 50.0), ("t0002", 82.0, 20.0)],
        columns=["trial", "val_accuracy", "macs"],
    )
    df["kind"] = ["baseline", "trial", "trial", "trial"]
    df["candidate"] = df["kind"] == "trial"
    df.loc[df["candidate"], "val_accuracy"] -= lost
    df.attrs["chance"] = chance
    return df


def volume(df: pd.DataFrame, **options: object) -> float:
    return pareto.hypervolume(df, GOALS, anchors_for(df, GOALS, **options)).value


def test_accuracy_counts_from_ten_points_below_the_baseline_and_the_words_say_so():
    scale = anchors_for(table(), GOALS)
    assert (scale.of["val_accuracy"].worst, scale.of["val_accuracy"].best) == (80.0, 90.0)
    assert (
        "val_accuracy from 80.00 % to 90.00 % (10 points below the mean baseline, to it)" in scale.describe()
    )
    # 91 % counts in full, beyond the box: 0.2 x 1.1 + 0.3 x 0.8 + 0.3 x 0.2
    assert volume(table()) == pytest.approx(0.2 * 1.1 + 0.3 * 0.8 + 0.3 * 0.2)


def of_paths(baseline: float | None = None) -> pd.DataFrame:
    """Two paths, the more accurate snapshot 0 is that of the second; None = the baseline is still trained."""
    df = pd.DataFrame(
        [
            ("b0000", "baseline", None, baseline, 100.0 if baseline else None, None, None),
            ("t0000", "trial", 0, 70.0, 100.0, 4.0, 4.0),
            ("t0000", "trial", 1, 90.0, 50.0, 6.0, 6.0),
            ("t0001", "trial", 0, 80.0, 90.0, 5.0, 5.0),
            ("t0002", "trial", 0, float("nan"), 90.0, 5.0, 5.0),
        ],
        columns=["trial", "kind", "level", "val_accuracy", "macs", "epochs", "train_cost"],
    ).astype(dict.fromkeys(("level", "val_accuracy", "macs", "epochs", "train_cost"), float))
    df["candidate"] = df["kind"] == "trial"
    df["baseline_epochs"] = 20.0
    df.attrs["chance"] = 10.0
    return df


def test_the_best_unpruned_snapshot_stands_for_the_baseline_until_one_has_ended():
    before = anchors_for(of_paths(), GOALS).of
    assert (before["val_accuracy"].worst, before["val_accuracy"].best, before["macs"].worst) == (
        70.0,
        80.0,
        90.0,
    )
    assert all("the best unpruned snapshot, until a baseline has ended" in a.source for a in before.values())
    after = anchors_for(of_paths(85.0), GOALS).of
    assert (after["val_accuracy"].worst, after["val_accuracy"].best, after["macs"].worst) == (
        75.0,
        85.0,
        100.0,
    )
    assert not any("snapshot" in a.source for a in after.values())


def test_what_training_costs_is_that_of_a_baseline_of_its_length():
    assert anchors_for(of_paths(), {"train_cost": "min"}).of["train_cost"].worst == pytest.approx(20.0)
    unknown = anchors_for(of_paths().drop(columns="baseline_epochs"), {"train_cost": "min"}).of["train_cost"]
    assert "from these trials" in unknown.source


def test_baselines_of_confirmation_seeds_do_not_move_the_scale_of_the_search():
    """As while the sweep runs: the front is the same one, before and after it is confirmed."""
    before = table().assign(sweep="s", baseline_trial=[None, "b0000", "b0000", "b0000"])
    later = pd.DataFrame(
        {
            "trial": ["b0001", "c0000"], "val_accuracy": [94.0, 89.0], "macs": [120.0, 50.0], "sweep": "s",
            "kind": ["baseline", "confirm"], "candidate": False, "baseline_trial": [None, "b0001"],
        }
    )  # fmt: skip
    after = pd.concat([before, later], ignore_index=True)
    after.attrs = before.attrs
    assert anchors_for(after, GOALS) == anchors_for(before, GOALS)
    assert volume(after) == volume(table())
    # Where no trial has its baseline, all of them count: (90 + 94) / 2.
    unknown = anchors_for(after.assign(baseline_trial=None), GOALS).of
    assert (unknown["val_accuracy"].best, unknown["macs"].worst) == (92.0, 120.0)


def test_it_can_be_asked_from_other_points_and_from_chance():
    assert anchors_for(table(), GOALS, usable=5).of["val_accuracy"].worst == 85.0
    old = anchors_for(table(), GOALS, usable=None)
    assert (old.of["val_accuracy"].worst, old.of["val_accuracy"].source) == (
        10.0,
        "chance, or 0 if unknown, to the mean baseline",
    )
    assert volume(table(), usable=None) == pytest.approx(0.2 * 81 / 80 + 0.3 * 78 / 80 + 0.3 * 72 / 80)


def test_five_points_worse_everywhere_are_seen():
    """From chance they cost a twentieth; from ten points below the baseline more than half."""
    assert volume(table(lost=5), usable=None) / volume(table(), usable=None) > 0.93
    assert volume(table(lost=5)) / volume(table()) < 0.5


def test_the_scale_never_begins_below_chance():
    low = anchors_for(table(baseline=15.0), GOALS).of["val_accuracy"]
    assert (low.worst, low.best) == (10.0, 15.0)
    assert "chance" in low.source


def test_a_drop_has_the_same_scale():
    assert anchors_for(table(), {"accuracy_drop": "min"}).of["accuracy_drop"].worst == 10.0
    assert anchors_for(table(), {"accuracy_drop": "min"}, usable=None).of["accuracy_drop"].worst == 80.0


def test_the_old_scale_stands_beside_it_where_it_is_another():
    df = table()
    assert from_chance(anchors_for(df, GOALS), df, GOALS) == anchors_for(df, GOALS, usable=None)
    assert from_chance(anchors_for(df, GOALS, usable=None), df, GOALS) is None
    assert from_chance(anchors_for(df, {"macs": "min"}), df, {"macs": "min"}) is None


@pytest.mark.parametrize("usable", [0, -1, float("nan"), float("inf")])
def test_points_that_make_no_scale_are_refused(usable):
    with pytest.raises(ConfigError, match="is not a number of points above 0"):
        anchors_for(table(), GOALS, usable=usable)
