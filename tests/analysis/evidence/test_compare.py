"""Comparing sweeps and methods: units, pairs, equal cost."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import compare
from gcp_core.errors import ConfigError
from tests.analysis.evidence.tables import runs, two_methods, with_baselines


def test_growth_is_the_hypervolume_of_what_the_cost_bought_so_far():
    df = two_methods(1.0, seeds=2)
    found = compare.growth(df, "prune.criterion", "epochs")
    assert len(found) == 12
    one = found[(found["label"] == "good") & (found["seed"] == 1)]
    assert one["cost"].tolist() == [20.0, 30.0, 40.0], "the baseline of the seed comes first"
    assert (np.diff(one["hypervolume"]) >= 0).all()
    volumes = compare.compare(df, "prune.criterion", equal="nothing").volumes.set_index(["label", "seed"])
    assert one["hypervolume"].iloc[-1] == pytest.approx(volumes.loc[("good", 1), "hypervolume"])


def test_compare_finds_a_real_difference_and_says_when_there_is_none():
    found = compare.compare(two_methods(2.0, seeds=6), "prune.criterion")
    assert len(found.volumes) == 12
    assert found.tests[0].decided
    assert found.tests[0].verdict.endswith("good is better")
    assert (
        "the data cannot tell them apart"
        in compare.compare(two_methods(0.0, seeds=6), "prune.criterion").tests[0].verdict
    )


def test_pairs_share_configuration_and_seed():
    df = two_methods(2.0)
    differences = compare.paired_differences(df, "prune.criterion", "good", "poor", "val_accuracy")
    assert len(differences) == 15
    assert differences["difference"].mean() == pytest.approx(2.0, abs=0.15)
    assert differences["seed"].value_counts().to_dict() == dict.fromkeys("01234", 3)


def test_what_pairs_have_in_common_is_found_once_for_all_pairs(monkeypatch):
    """Ten labels are 45 pairs, and a sweep of paths has twenty thousand rows."""
    df = two_methods(2.0)
    labels = df["prune.criterion"].where(df["prune.target"] != "0.2", "third").where(df["kind"] == "trial")
    df = df.assign(**{"prune.criterion": labels, "prune.target": "0.5"})
    real, times = compare.entrants, []
    monkeypatch.setattr(compare, "entrants", lambda table: times.append(1) or real(table))
    tests = compare.paired_tests(df, "prune.criterion")
    assert [(t.first, t.second) for t in tests] == [("good", "poor"), ("good", "third"), ("poor", "third")]
    assert len(times) == 2, "once for the labels, once for the pairs"
    for test in tests:
        pairs = compare.paired_differences(df, "prune.criterion", test.first, test.second, "val_accuracy")
        assert test.difference == pytest.approx(pairs["difference"].mean())


def test_equal_cost_counts_only_what_the_cheapest_could_afford():
    df = two_methods(0.0, seeds=2)
    df.loc[df["prune.criterion"] == "good", "device_hours"] = 3.0
    found = compare.compare(df, "prune.criterion", equal="device_hours")
    # poor spends 4 h a seed on its baseline and three trials; good may spend as much: the baseline and one trial.
    counts = found.volumes.set_index(["label", "seed"])["trials"].to_dict()
    assert counts == {("good", 0): 1, ("good", 1): 1, ("poor", 0): 3, ("poor", 1): 3}
    assert compare.compare(df, "prune.criterion", equal="nothing").volumes["trials"].tolist() == [3] * 4
    with pytest.raises(ConfigError, match="cannot be held equal"):
        compare.compare(df, "prune.criterion", equal="luck")


def test_sweeps_on_different_data_or_baselines_are_not_compared():
    a, b = two_methods(0.0), two_methods(0.0)
    a["data.name"], b["data.name"], b["sweep"] = "digits", "cifar10", "other"
    b.loc[b["kind"] == "baseline", "macs"] = 50.0
    with pytest.raises(ConfigError) as error:
        compare.check_comparable(pd.concat([a, b], ignore_index=True))
    assert "data.name: cifar10 (other) / digits (s)" in str(error.value)
    assert "baseline MACs: 50 (other) / 100 (s)" in str(error.value)


def test_the_place_of_the_images_may_differ_if_their_digests_agree(tmp_path):
    tables = []
    for name, digest in (("here", "abc"), ("there", "abc"), ("other", "xyz")):
        rows = two_methods(0.0).assign(sweep=name, status="complete", **{"data.path": f"/disk/{name}"})
        manifest = tmp_path / name / "trials" / rows["trial"].iloc[0] / "model" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"data_digest": digest}))
        tables.append(rows)
    both = pd.concat(tables[:2], ignore_index=True)
    both.attrs["sweeps"] = [{"name": n, "folder": str(tmp_path / n)} for n in ("here", "there", "other")]
    compare.check_comparable(both)
    pairs = compare.paired_differences(both, "sweep", "here", "there", "val_accuracy")
    assert (len(pairs), set(pairs["difference"])) == (30, {0.0}), "and trials are paired all the same"
    three = pd.concat(tables, ignore_index=True)
    three.attrs = both.attrs
    with pytest.raises(ConfigError, match=r"data digest: abc \(here\) / xyz \(other\) / abc \(there\)"):
        compare.check_comparable(three)
    assert compare.paired_differences(three, "sweep", "here", "other", "val_accuracy").empty


def test_one_value_is_nothing_to_compare():
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare.compare(runs([("a", 0, 90.0, 1)]), "config_id")


def interplay(seeds: int, configurations: int, *, gap: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Two methods over ``configurations`` and ``seeds``; every method has its luck with every seed (1 point), which all
    its configurations share, and ``good`` is ``gap`` points better.
    """
    rng = np.random.default_rng(seed)
    luck = rng.normal(0.0, 1.0, (2, seeds))
    rows = [
        (f"{m}{c}", s, 80 + gap * (m == "good") + luck[i, s] + rng.normal(0, 0.2), 10.0 * (c + 1))
        for s in range(seeds)
        for c in range(configurations)
        for i, m in enumerate(("good", "poor"))
    ]
    df = runs(rows)
    df["prune.criterion"] = [c[:4] for c in df["config_id"]]
    df["prune.target"] = [c[4:] for c in df["config_id"]]
    return with_baselines(df, 90.0, 200.0)


def test_one_seed_never_decides_however_many_configurations_it_ran():
    (found,) = compare.paired_tests(interplay(1, 12, gap=5.0), "prune.criterion")
    assert (found.unit, found.n_first) == ("paired seeds", 1)
    assert not found.decided
    assert found.verdict.endswith(
        "(mean of 1 paired seed); fewer than 6 paired seeds decide nothing: undecided"
    )


@pytest.mark.parametrize(("seeds", "sweeps", "most"), [(3, 15, 0.0), (6, 80, 0.1)])
def test_methods_that_only_have_luck_with_some_seeds_are_called_different_in_at_most_5_per_cent(
    seeds, sweeps, most
):
    """The limit is 0.05 and two standard errors of so few simulations; three seeds cannot decide at all. The large
    simulation, of hypervolumes too, is in ``benchmarks/search/analysis_calibration.py``.
    """
    tests = [compare.paired_tests(interplay(seeds, 4, seed=i), "prune.criterion")[0] for i in range(sweeps)]
    assert np.mean([t.decided for t in tests]) <= most


def test_a_real_difference_is_found_with_eight_seeds():
    decided = [
        compare.paired_tests(interplay(8, 6, gap=2.5, seed=i), "prune.criterion")[0].better for i in range(30)
    ]
    # Two standard deviations of a difference between the lucks (1.4 points) is 1.8 of them.
    assert decided.count("good") >= 25
    assert decided.count("poor") == 0


def test_pairs_of_which_a_side_broke_a_limit_count_as_well():
    """In two of three pairs poor is 2 points worse, and breaks the limit; in the third both are alike."""
    df = two_methods(0.0, seeds=6).assign(status="complete")
    poor = df["prune.criterion"] == "poor"
    bad = poor & df["prune.target"].isin(["0.2", "0.5"])
    df.loc[bad, "val_accuracy"] -= 2.0
    df.loc[bad, ["status", "left_out", "candidate"]] = [
        "infeasible",
        "infeasible: violates a constraint",
        False,
    ]
    refused = df[bad].head(1).assign(trial="x", model="x", val_accuracy=np.nan)
    both = pd.concat([df, refused], ignore_index=True)
    both.attrs = df.attrs
    pairs = compare.paired_differences(both, "prune.criterion", "good", "poor", "val_accuracy")
    # Two of three pairs of a seed differ by 2 points.
    assert len(pairs) == 18
    (test,) = compare.paired_tests(both, "prune.criterion")
    assert test.difference == pytest.approx(4 / 3, abs=0.1)
    assert test.decided


def test_the_pairs_of_one_seed_are_one_value_with_equal_weight():
    df = two_methods(2.0, seeds=6)
    odd = (df["seed"] == 5) & (df["prune.target"] != "0.5")
    (found,) = compare.paired_tests(df[~odd], "prune.criterion")
    pairs = compare.paired_differences(df[~odd], "prune.criterion", "good", "poor", "val_accuracy")
    assert len(pairs) == 16
    assert (found.unit, found.n_first, found.p) == ("paired seeds", 6, 2 / 64)
    assert found.difference == pytest.approx(pairs.groupby("seed")["difference"].mean().mean())
    assert found.values == pytest.approx(pairs.groupby("unit", sort=False)["difference"].mean().tolist())


def test_the_unit_may_be_a_path_with_several_snapshots():
    """Two methods, one path each per seed with four snapshots: pairs of one path are one piece of evidence."""
    df = interplay(3, 4)
    paths = {key: f"p{i}" for i, key in enumerate(df.groupby(["prune.criterion", "seed"]).groups)}
    df["path"] = [paths.get(key) for key in zip(df["prune.criterion"], df["seed"])]
    (found,) = compare.paired_tests(df, "prune.criterion", unit="path")
    assert (found.unit, found.n_first) == ("paired paths", 3)
    pairs = compare.paired_differences(df, "prune.criterion", "good", "poor", "val_accuracy", "path")
    assert pairs["unit"].value_counts().to_dict() == {"p0/p3": 4, "p1/p4": 4, "p2/p5": 4}
    whole = compare.compare(df, "prune.criterion", equal="nothing", unit="path")
    assert whole.volumes["path"].tolist() == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert (whole.tests[0].unit, whole.tests[0].n_first) == ("paths", 3), (
        "no path is shared: dealt, not paired"
    )


def test_hypervolumes_are_paired_where_the_sides_ran_the_same_seeds_and_dealt_where_not():
    df = two_methods(2.0, seeds=7)
    paired = compare.compare(df, "prune.criterion", equal="nothing").tests[0]
    assert (paired.unit, paired.n_first) == ("paired seeds", 7)
    other = df.copy()
    other.loc[other["prune.criterion"] == "poor", "seed"] += 100
    other.attrs = df.attrs
    dealt = compare.compare(other, "prune.criterion", equal="nothing").tests[0]
    assert (dealt.unit, dealt.n_first, dealt.n_second) == ("seeds", 7, 7)
    assert dealt.difference == pytest.approx(paired.difference)


def with_broken_runs(epochs: dict[str, float]) -> pd.DataFrame:
    """Two methods, one seed, a shared baseline and three finished trials each, all of 10 epochs and an hour; before
    them ``good`` had runs of these ends and epochs (NaN: nothing was logged, the run took an hour).
    """
    df = two_methods(0.0, seeds=1).assign(status="complete", baseline_trial="b0000")
    df["started"] = df["ended"] - pd.to_timedelta(1, unit="h")
    pattern = df[df["prune.criterion"] == "good"].head(1)
    end = pd.Timestamp(-50, unit="s", tz="UTC")
    broken = [
        pattern.assign(
            trial=f"x-{status}", status=status, candidate=False, left_out=status, epochs=n, device_hours=n / 10,
            ended=end, started=end - pd.to_timedelta(1, unit="h"),
        )
        for status, n in epochs.items()
    ]  # fmt: skip
    both = pd.concat([df, *broken], ignore_index=True)
    both.attrs = df.attrs
    return both


def test_equal_cost_counts_what_stopped_failed_diverged_infeasible_and_baseline_runs_cost():
    df = with_broken_runs({"stopped": 6.0, "diverged": 3.0, "infeasible": 1.0, "failed": np.nan})
    for equal, limit in (("epochs", 40.0), ("device_hours", 4.0)):
        found = compare.compare(df, "prune.criterion", equal=equal)
        # poor: 10 for the baseline, 30 for three trials. good: 10 for the baseline, 6 + 3 + 1, and for the failed run
        # an hour, which is worth 10 at the pace of the others: 30, and 10 are left for one of its three trials.
        assert found.limit == pytest.approx(limit)
        counts = found.volumes.set_index("label")
        assert counts["trials"].to_dict() == {"good": 1, "poor": 3}
        assert counts["spent"].to_dict() == pytest.approx({"good": limit, "poor": limit})
    assert found.basis() == (
        "at equal device hours: what 4 h bought each seed of each side, stopped, failed and baseline runs included"
    )


@pytest.mark.parametrize("devices", [4.0, 0.25])
def test_a_failed_run_has_as_many_devices_as_the_others_of_its_sweep(devices):
    """Four cores, or a quarter of a GPU: the other runs' device-hours are as many times their wall time."""
    df = with_broken_runs({"failed": np.nan})
    df["device_hours"] *= devices
    for equal, each in (("device_hours", devices), ("epochs", 10.0)):
        counts = compare.compare(df, "prune.criterion", equal=equal).volumes.set_index("label")
        # poor: its baseline and three trials. good: its baseline, the failed run and two of three trials.
        assert counts["spent"].to_dict() == pytest.approx({"good": 4 * each, "poor": 4 * each})
        assert counts["trials"].to_dict() == {"good": 2, "poor": 3}


def test_equal_trials_counts_every_trial_that_ended_and_no_baseline():
    df = with_broken_runs({"stopped": 6.0, "failed": np.nan, "running": np.nan})
    found = compare.compare(df, "prune.criterion", equal="trials")
    assert found.limit == 3
    assert found.volumes.set_index("label")["trials"].to_dict() == {"good": 1, "poor": 3}


def test_a_side_that_could_afford_no_finished_trial_has_no_hypervolume_and_stays_in_the_comparison():
    df = with_broken_runs({"stopped": 35.0})
    found = compare.compare(df, "prune.criterion", equal="epochs")
    assert found.volumes.set_index("label")["trials"].to_dict() == {"good": 0, "poor": 3}
    assert found.volumes.set_index("label").loc["good", "hypervolume"] == 0.0
    assert found.tests[0].n_first == 1


def test_a_seed_that_has_only_begun_neither_counts_nor_lowers_the_limit_for_the_others():
    df = two_methods(0.0, seeds=2).assign(status="complete")
    begun = df["candidate"] & (df["seed"] == 1) & (df["prune.criterion"] == "poor")
    df.loc[begun, ["candidate", "status", "epochs"]] = [False, "stopped", 1.0]
    found = compare.compare(df, "prune.criterion", equal="epochs")
    assert found.limit == pytest.approx(40.0)
    assert [(r.label, r.seed) for r in found.volumes.itertuples()] == [("good", 0), ("good", 1), ("poor", 0)]


def test_a_baseline_is_charged_to_the_label_it_belongs_to():
    """Two widths: each has its own baseline; the pairing tells which of two baselines of a seed was needed."""
    df = two_methods(0.0, seeds=1).assign(status="complete")
    df["model.width"] = np.where(df["prune.criterion"] == "good", 1.0, 0.5)
    wide, narrow = (
        df[df["kind"] == "baseline"].assign(**{"model.width": w, "trial": f"b{w}"}) for w in (1.0, 0.5)
    )
    df = pd.concat([df[df["kind"] == "trial"], wide.assign(epochs=50.0), narrow], ignore_index=True)
    df.attrs = two_methods(0.0, seeds=1).attrs
    assert compare.compare(df, "model.width", equal="epochs").limit == pytest.approx(40.0)
    df["baseline_trial"] = np.where(df["kind"] == "trial", "b" + df["model.width"].astype(str), None)
    both = compare.compare(df, "prune.criterion", equal="epochs")
    assert both.limit == pytest.approx(40.0)
    assert both.volumes.set_index("label")["trials"].to_dict() == {"good": 0, "poor": 3}


def test_growth_is_drawn_over_what_all_runs_cost():
    df = with_broken_runs({"stopped": 6.0, "diverged": 4.0})
    found = compare.growth(df, "prune.criterion", "epochs")
    # The baseline costs both sides 10; good also paid 10 for two broken runs.
    assert found.loc[found["label"] == "good", "cost"].tolist() == [30.0, 40.0, 50.0]
    assert found.loc[found["label"] == "poor", "cost"].tolist() == [20.0, 30.0, 40.0]
