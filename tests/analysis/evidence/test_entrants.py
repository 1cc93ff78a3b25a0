"""Who takes part in a comparison: all that the search made, on the side that made it."""

import pandas as pd
import pytest

from analysis.evidence import compare
from analysis.runs.table import TWIN
from tests.analysis.evidence.tables import runs, with_baselines
from tests.analysis.evidence.test_paths import paths


def until(seeds: int = 6) -> pd.DataFrame:
    """A grid of ``prune.until``: at the target 0.5 both values made the same model, which is listed once; at 0.9 each
    has one of its own, of equal accuracy and cost.
    """
    rows = [
        (f"{target}-{until}", seed, 100 - 10 * target, 100 * (1 - target))
        for seed in range(seeds)
        for target in (0.5, 0.9)
        for until in (0.5, 0.75)
    ]
    df = runs(rows)
    df["prune.target"], df["prune.until"] = (
        [float(c.split("-")[i]) for c in df["config_id"]] for i in (0, 1)
    )
    twin = df["config_id"] == "0.5-0.75"
    df.loc[twin, ["left_out", "candidate"]] = [TWIN, False]
    return with_baselines(df, 96.0, 100.0)


def test_a_model_that_both_sides_made_counts_on_both():
    df = until()
    found = compare.compare(df, "prune.until", equal="trials")
    assert found.volumes["trials"].tolist() == [2] * 12
    assert found.tests[0].difference == pytest.approx(0.0), "both sides made the same models"
    assert not found.tests[0].decided
    assert [len(part) for part in compare.split(df, "prune.until").values()] == [12, 12]
    assert len(compare.paired_differences(df, "prune.until", "0.5", "0.75", "val_accuracy")) == 12
    # A baseline and two trials a seed and side; each trial is a point of the curve.
    assert len(compare.growth(df, "prune.until", "trials")) == 24


def test_a_first_snapshot_that_another_path_shares_counts_on_both_sides():
    df = paths(0.0, configs=1)
    shared = (df["prune.criterion"] == "random") & (df["level"] == 0)
    df.loc[shared, ["left_out", "candidate"]] = [TWIN, False]
    parts = compare.split(df, "prune.criterion")
    assert {label: sorted(set(part["level"])) for label, part in parts.items()} == {
        "frs": [0, 1, 2, 3],
        "random": [0, 1, 2, 3],
    }
    assert compare.compare(df, "prune.criterion", equal="nothing").volumes["trials"].tolist() == [4] * 12


def test_what_failed_and_confirm_runs_take_no_part():
    df = until()
    df.loc[df["prune.target"] == 0.9, ["left_out", "candidate"]] = ["failed", False]
    twin = df["left_out"] == TWIN
    df.loc[twin & (df["seed"] == 0), "kind"] = "confirm"
    assert [len(part) for part in compare.split(df, "prune.until").values()] == [6, 5]


def test_polished_models_are_on_no_side():
    df = paths(0.0)
    polished = df[(df["level"] == 3) & (df["prune.criterion"] == "frs")]
    polished = polished.assign(model=polished["model"] + "+30", val_accuracy=99.0)
    both = pd.concat([df, polished], ignore_index=True)
    both.attrs = df.attrs
    parts = compare.split(both, "prune.criterion")
    assert [len(part) for part in parts.values()] == [24, 24]
    assert parts["frs"]["val_accuracy"].max() < 99.0


def methods(label: str | None) -> pd.DataFrame:
    """Four seeds of two configurations, one of ``prune.method`` ``gcp`` and one of ``label``; a baseline a seed."""
    rows = [
        (method, seed, 90.0 + seed, 50.0)
        for seed in range(4)
        for method in ("gcp", "other")
        for _ in range(2)
    ]
    df = runs(rows)
    df["prune.method"] = df["config_id"].map({"gcp": "gcp", "other": label}).astype(object)
    return with_baselines(df, 96.0, 100.0)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_trials_without_a_value_are_a_side_of_their_own(missing):
    df = methods(missing)
    assert {label: len(part) for label, part in compare.split(df, "prune.method").items()} == {
        "gcp": 8,
        "null": 8,
    }
    found = compare.compare(df, "prune.method", equal="epochs")
    # Either side spends 10 epochs on the baseline of a seed and 20 on its two trials.
    assert found.volumes.groupby("label")["spent"].unique().map(list).to_dict() == {
        "gcp": [30.0],
        "null": [30.0],
    }
    assert len(compare.paired_differences(df, "prune.method", "gcp", "null", "val_accuracy")) == 4
    assert len(compare.growth(df, "prune.method", "trials")) == 16
