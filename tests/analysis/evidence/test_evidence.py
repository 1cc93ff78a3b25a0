"""Noise, comparison, importance: what the data can and cannot tell."""

import json
import re
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import yaml

import analysis
from analysis.choose.recipe import write_config
from analysis.errors import NothingFeasible
from analysis.evidence import compare, importance, noise, permutation
from analysis.front.attainment import attainment, attainment_difference
from analysis.show import compare_page
from analysis.show.attainment_figures import draw_attainment, draw_difference
from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from tests.analysis.synthetic import config_for, some_trials

GOALS = {"val_accuracy": "max", "macs": "min"}


def runs(rows: list[tuple[str, int, float, float]], kind: str = "trial") -> pd.DataFrame:
    """(config id, seed, accuracy, MACs) as a table."""
    df = pd.DataFrame(rows, columns=["config_id", "seed", "val_accuracy", "macs"])
    df.insert(0, "trial", [f"t{i:04d}" for i in range(len(df))])
    df["sweep"], df["kind"], df["left_out"], df["candidate"] = "s", kind, "", True
    df["ended"] = pd.to_datetime(60 * np.arange(len(df)), unit="s", utc=True)
    df["device_hours"], df["epochs"] = 1.0, 10.0
    df.attrs.update(objectives=GOALS, chance=10.0, sweeps=[{"name": "s"}], left_out={})
    return df


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


def brute_p(a, b):
    """Share of all orderings of the pooled values whose groups differ at least as much."""
    pool = [*a, *b]
    observed, hits, total = abs(np.mean(a) - np.mean(b)), 0, 0
    for order in permutations(pool):
        total += 1
        hits += abs(np.mean(order[: len(a)]) - np.mean(order[len(a) :])) >= observed - 1e-12
    return hits / total


def test_the_permutation_test_equals_counting_all_orderings():
    rng = np.random.default_rng(2)
    for sizes in ((3, 3), (2, 4), (4, 3)):
        a, b = rng.normal(0, 1, sizes[0]), rng.normal(1, 1, sizes[1])
        assert permutation.permutation_test(a, b, "a", "b").p == pytest.approx(brute_p(a, b))


@pytest.mark.parametrize(("n", "smallest"), [(3, 0.1), (4, 2 / 70), (5, 2 / 252)])
def test_the_smallest_possible_p_follows_from_the_number_of_seeds(n, smallest):
    found = permutation.permutation_test(np.arange(n) + 100.0, np.arange(n), "a", "b")
    assert found.smallest == pytest.approx(smallest)
    assert found.p == pytest.approx(smallest), "groups that do not overlap reach it"
    assert found.decided == (n > 3)


def test_three_seeds_cannot_reach_five_per_cent_and_that_is_said():
    found = permutation.permutation_test(np.array([9.0, 9.1, 9.2]), np.array([1.0, 1.1, 1.2]), "frs", "l1")
    assert "3 and 3 seeds cannot reach 5 % (smallest possible p = 0.1): undecided" in found.verdict
    assert not found.decided


def test_the_paired_test_flips_signs():
    found = permutation.paired_test(np.array([1.0, 2.0, 3.0, 1.5, 2.5, 0.5]), "a", "b", "accuracy")
    assert found.p == pytest.approx(2 / 64)
    assert found.decided


def test_signs_of_one_seed_flip_together():
    # Per seed sums 3, 3, 3, -1: of 16 sign choices, |sum| >= 8 in 4 (all plus; only the -1 flipped gives 10; mirrored).
    d, seeds = np.array([1.0, 2.0, 3.0, 3.0, -1.0]), ["0", "0", "1", "2", "3"]
    found = permutation.paired_test(d, "a", "b", "accuracy", seeds)
    assert (found.p, found.smallest, found.n_first) == (4 / 16, 2 / 16, 4)
    assert "4 paired seeds cannot reach 5 %" in found.verdict


def test_several_comparisons_are_corrected_by_holm():
    def of(p):
        return permutation.Test("a", "b", "x", "seeds", 9, 9, 1.0, 0.5, 1.5, p, 1e-4, True, p, 1, False, "")

    found = permutation.holm([of(0.03), of(0.01), of(0.04)])
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1; never below one before it.
    assert [t.adjusted for t in found] == pytest.approx([0.06, 0.03, 0.06])
    assert [t.decided for t in found] == [False, True, False]
    assert "p = 0.01, 0.03 corrected for 3 comparisons: a is better" in found[1].verdict
    lone = permutation.holm([of(0.04)])[0]
    assert lone.decided
    assert "corrected" not in lone.verdict


def test_a_design_that_a_correction_makes_too_small_is_undecided():
    three = [permutation.permutation_test(np.arange(5) + 9.0, np.arange(5), "a", "b") for _ in range(7)]
    assert all(t.decided for t in three)
    corrected = permutation.holm(three)
    assert not any(t.decided for t in corrected)
    assert (
        "5 and 5 seeds cannot reach 5 % in 7 comparisons (smallest possible p = 0.056)"
        in corrected[0].verdict
    )


def test_intervals_are_welch_and_student():
    found = permutation.permutation_test(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0]), "a", "b")
    # mean 2, standard error sqrt(1/3), t(2) = 4.303
    assert (found.low, found.high) == pytest.approx(
        (2 - 4.3027 / np.sqrt(3), 2 + 4.3027 / np.sqrt(3)), abs=1e-3
    )
    single = permutation.permutation_test(np.array([1.0]), np.array([0.0]), "a", "b")
    assert np.isnan(single.low)
    assert "one value: no interval" in single.verdict


def test_pairs_are_judged_by_seed_where_there_are_enough_and_say_so_where_not():
    few = compare.paired_tests(two_methods(2.0, seeds=5), "prune.criterion")[0]
    assert (few.unit, few.n_first) == ("pairs", 15)
    assert "over 15 equal configurations (for these seeds only)" in few.what
    enough = compare.paired_tests(two_methods(2.0, seeds=6), "prune.criterion")[0]
    assert (enough.unit, enough.n_first) == ("paired seeds", 6)
    assert enough.p == pytest.approx(2 / 64)
    assert enough.decided


def test_growth_is_the_hypervolume_of_what_the_cost_bought_so_far():
    df = two_methods(1.0, seeds=2)
    found = compare.growth(df, "prune.criterion", "epochs")
    assert len(found) == 12
    one = found[(found["label"] == "good") & (found["seed"] == 1)]
    assert one["cost"].tolist() == [10.0, 20.0, 30.0]
    assert (np.diff(one["hypervolume"]) >= 0).all()
    volumes = compare.compare(df, "prune.criterion", equal="nothing").volumes.set_index(["label", "seed"])
    assert one["hypervolume"].iloc[-1] == pytest.approx(volumes.loc[("good", 1), "hypervolume"])


def two_methods(gap: float, seeds: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = [
        (f"{m}{kept}", s, 90 + 5 * kept + (gap if m == "good" else 0) + rng.normal(0, 0.1), 100 * kept)
        for s in range(seeds)
        for kept in (0.2, 0.5, 0.8)
        for m in ("good", "poor")
    ]
    df = runs(rows)
    df["prune.criterion"] = [c[:4] for c in df["config_id"]]
    df["prune.target"] = [c[4:] for c in df["config_id"]]
    base = runs([("base", 0, 96.0, 100.0)], kind="baseline").assign(candidate=False, trial="b0000")
    both = pd.concat([df, base], ignore_index=True)
    both.attrs = df.attrs
    return both


def test_compare_finds_a_real_difference_and_says_when_there_is_none():
    found = compare.compare(two_methods(2.0), "prune.criterion")
    assert len(found.volumes) == 10
    assert found.tests[0].decided
    assert found.tests[0].verdict.endswith("good is better")
    assert (
        "the data cannot tell them apart"
        in compare.compare(two_methods(0.0), "prune.criterion").tests[0].verdict
    )


def test_pairs_share_configuration_and_seed():
    df = two_methods(2.0)
    differences = compare.paired_differences(df, "prune.criterion", "good", "poor", "val_accuracy")
    assert len(differences) == 15
    assert differences["difference"].mean() == pytest.approx(2.0, abs=0.15)
    assert differences["seed"].value_counts().to_dict() == dict.fromkeys("01234", 3)


def test_equal_cost_counts_only_what_the_cheapest_could_afford():
    df = two_methods(0.0, seeds=2)
    df.loc[df["prune.criterion"] == "good", "device_hours"] = 3.0
    found = compare.compare(df, "prune.criterion", equal="device_hours")
    # poor spends 3 h a seed on three trials; good may spend as much: one trial.
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
    three = pd.concat(tables, ignore_index=True)
    three.attrs = both.attrs
    with pytest.raises(ConfigError, match=r"data digest: abc \(here\) / xyz \(other\) / abc \(there\)"):
        compare.check_comparable(three)


def test_one_value_is_nothing_to_compare():
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare.compare(runs([("a", 0, 90.0, 1)]), "config_id")


def test_median_attainment_is_reached_by_half_of_the_seeds():
    parts = compare.split(two_methods(2.0), "prune.criterion")
    surfaces = attainment(parts, GOALS)
    assert set(surfaces["band"]) == {"best", "median", "worst"}
    for row in surfaces.to_dict("records"):
        part = parts[row["label"]]
        reached = [
            ((g["val_accuracy"] >= row["val_accuracy"] - 1e-9) & (g["macs"] <= row["macs"] + 1e-9)).any()
            for _, g in part.groupby("seed")
        ]
        assert np.mean(reached) >= row["level"] / 100 - 1e-9
    assert draw_attainment(surfaces, "macs", "val_accuracy").axes[0].get_xlabel().startswith("Multiply-adds")


def test_the_comparison_page_says_what_is_real_and_what_is_open_and_every_figure_has_its_csv(tmp_path):
    df = two_methods(2.0, seeds=6)
    found = compare.compare(df, "prune.criterion", equal="epochs")
    paired = compare.paired_tests(df, "prune.criterion")
    written = compare_page.write(df, "prune.criterion", found, paired, tmp_path / "page")
    text = written.page.read_text()
    real, rest = text.split("<h2>Real differences</h2>")[1].split("<h2>What these data cannot decide</h2>")
    assert found.tests[0].verdict in real
    assert "Nothing: every difference was decided." in rest
    pictures = {file.stem for file in written.files if file.suffix == ".png"}
    assert pictures == {"hypervolume_seeds", "pairs", "growth", "attainment", "difference_good_poor"}
    for name in pictures:
        assert (tmp_path / "page" / f"{name}.csv").stat().st_size > 0, name
        assert (tmp_path / "page" / f"{name}.svg").is_file()
    assert "<script" not in text
    links = re.findall(r'(?:href|src)="([^"]+)"', text)
    assert all(link.startswith("data:") or (tmp_path / "page" / link).is_file() for link in links)
    assert len(pd.read_csv(tmp_path / "page" / "tests.csv")) == 2


def test_the_difference_map_favours_the_better_method_everywhere():
    parts = compare.split(two_methods(2.0), "prune.criterion")
    boxes = attainment_difference(parts["good"], parts["poor"], GOALS)
    assert (boxes["difference"] >= 0).all()
    assert boxes["difference"].max() == pytest.approx(1.0)
    assert draw_difference(boxes, "macs", "val_accuracy", ("good", "#0072B2"), ("poor", "#E69F00")).axes


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
