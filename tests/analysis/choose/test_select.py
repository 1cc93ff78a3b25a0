"""Each verb, on a table small enough to see the answer."""

import pandas as pd
import pytest

from analysis.choose import constraints as hard
from analysis.choose.select import choose
from analysis.choose.verbs import parse_verb
from analysis.errors import NothingFeasible
from analysis.front import pareto
from analysis.runs.sampling import interval
from gcp_core.errors import ConfigError

#          trial   accuracy  MACs  params  ms
ROWS = [
    ("t0000", 97.0, 80.0, 60.0, 3.0),
    ("t0001", 96.8, 50.0, 70.0, 1.0),
    ("t0002", 95.0, 30.0, 30.0, 2.5),
    ("t0003", 90.0, 20.0, 20.0, 2.0),
    ("t0004", 94.0, 40.0, 40.0, 2.0),
    ("t0005", 96.8, 50.0, 65.0, 1.5),
]


@pytest.fixture
def trials():
    df = pd.DataFrame(ROWS, columns=["trial", "val_accuracy", "macs", "params", "latency_ms"])
    df.loc[len(df)] = ["b0000", 97.5, 100.0, 100.0, 4.0]
    df["model"], df["level"] = df["trial"], pd.NA
    df["kind"] = ["trial"] * 6 + ["baseline"]
    df["candidate"] = df["kind"] == "trial"
    for name in ("val_accuracy", "macs", "params", "latency_ms"):
        df[f"baseline_{name}"] = df.loc[6, name]
    df["accuracy_drop"] = 97.5 - df["val_accuracy"]
    df["macs_kept"] = df["macs"] / 100
    df.attrs["chance"] = 10.0
    df.attrs["left_out"] = {}
    return df


@pytest.mark.parametrize(
    ("constraints", "verb", "chosen"),
    [
        ([], {"best": "accuracy"}, "t0000"),
        (["macs <= 50%"], {"best": "accuracy"}, "t0005"),  # ties in accuracy and MACs: fewer parameters
        (["accuracy_drop <= 3"], {"cheapest": "macs"}, "t0002"),
        (["accuracy_drop <= 1"], {"cheapest": "params"}, "t0000"),
        (["accuracy_drop <= 4"], {"cheapest": "latency_ms"}, "t0001"),
        ([], {"nearest": "macs=45%"}, "t0005"),
        ([], {"nearest": "macs=31MACs accuracy=95"}, "t0002"),
        ([], {"lexicographic": "accuracy:0.5 macs"}, "t0005"),  # 97.0, 96.8, 96.8 within 0.5
        ([], {"lexicographic": "accuracy:3 macs:10 latency"}, "t0004"),  # then 30..40 MACs: 2.5 and 2.0 ms
        ([], {"weighted": "accuracy=1 macs=0"}, "t0000"),
        ([], {"weighted": "accuracy=0 macs=1"}, "t0003"),
        ([], {"id": "t0004"}, "t0004"),
        (["accuracy_drop <= 8"], {"knee": True}, "t0002"),
    ],
)
def test_a_verb_chooses_among_the_feasible(trials, constraints, verb, chosen):
    choice = choose(trials, [hard.parse(c) for c in constraints], parse_verb(verb))
    assert choice.trial == chosen
    assert choice.trial in choice.reason
    assert choice.trial not in set(choice.runners_up["trial"])


def test_a_weight_of_zero_leaves_no_dominated_trial_in_front(trials):
    """Two trials of equal accuracy: the cheaper one wins, whatever its number; without any weight nothing is said."""
    trials.loc[5, "val_accuracy"] = trials.loc[0, "val_accuracy"]  # t0005 has t0000's accuracy at fewer MACs
    choice = choose(trials, [], parse_verb({"weighted": "accuracy=2 macs=0"}))
    assert choice.trial == "t0005"
    with pytest.raises(ConfigError, match="no weight is above 0"):
        choose(trials, [], parse_verb({"weighted": "accuracy=0"}))
    with pytest.raises(ConfigError, match="no weight is above 0"):
        choose(trials, [], parse_verb({"weighted": "accuracy=0 macs=0"}))


def test_equal_gains_are_decided_by_every_objective_of_the_sweep(trials):
    """t0001 and its twin differ in latency alone, which is an objective: the slower one is dominated."""
    trials.loc[0, ["val_accuracy", "macs", "params", "latency_ms"]] = [96.8, 50.0, 65.0, 2.0]
    goals = {"val_accuracy": "max", "macs": "min", "latency_ms": "min"}
    choice = choose(trials, [], parse_verb({"weighted": "accuracy=1 params=0.001"}), goals)
    assert choice.trial == "t0005"


def test_runners_up_of_level_by_level_are_the_next_winners(trials):
    choice = choose(trials, [], parse_verb({"lexicographic": "accuracy:0.5 macs"}))
    # Without t0005: 97.0, 96.8 stay, 50 MACs win. Without t0001: only 97.0 is within 0.5. Then 95.0, not the
    # 20 MACs of t0003, which lost seven points.
    assert [choice.trial, *choice.runners_up["trial"]] == ["t0005", "t0001", "t0000", "t0002"]


def test_what_is_just_within_a_tolerance_stays(trials):
    trials.loc[0, "val_accuracy"], trials.loc[1, "val_accuracy"] = (
        97.4,
        97.1,
    )  # 97.4 - 0.3 is above 97.1 in binary
    assert choose(trials, [], parse_verb({"lexicographic": "accuracy:0.3 latency"})).trial == "t0001"


@pytest.mark.parametrize(
    "goals",
    [{"accuracy_drop": "min", "macs": "min"}, {"macs_removed": "max", "val_accuracy": "max"}],
)
def test_the_knee_is_one_of_accuracy_and_cost_whatever_the_objectives_are_called(trials, goals):
    trials["macs_removed"] = 1 - trials["macs_kept"]
    choice = choose(trials, [hard.parse("accuracy_drop <= 8")], parse_verb({"knee": True}), goals)
    usual = choose(trials, [hard.parse("accuracy_drop <= 8")], parse_verb({"knee": True}))
    assert choice.reason == usual.reason


def test_a_name_that_several_sweeps_have_is_no_choice(trials):
    trials["sweep"] = "a"
    both = pd.concat([trials, trials.assign(sweep="b")], ignore_index=True)
    both.attrs = trials.attrs
    with pytest.raises(ConfigError, match="several sweeps have a model of this name"):
        choose(both, [], parse_verb({"id": "t0002"}))


def test_a_trial_without_a_value_of_an_objective_can_be_chosen_by_id(trials):
    trials.loc[trials["trial"] == "t0002", "latency_ms"] = float("nan")
    goals = {"val_accuracy": "max", "latency_ms": "min"}
    choice = choose(trials, [], parse_verb({"id": "t0002"}), goals)
    assert choice.reason.startswith("t0002 was chosen by id; it is on no front, as its latency is not known.")


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("t0002", "t0002 was chosen by id; it is on the front of 6 trials."),
        ("t0004", "t0004 was chosen by id; it is dominated: of 6 trials 1 is at least as good in every objective "
         "and better in one (t0002)."),
    ],
)  # fmt: skip
def test_a_trial_by_id_is_said_to_be_on_the_front_or_dominated_by_whom(trials, trial, said):
    assert choose(trials, [], parse_verb({"id": trial})).reason.startswith(said)


def test_top_says_when_the_front_has_fewer(trials):
    choice = choose(trials, [], parse_verb({"top": 5}))
    assert len(choice.rows) == 4
    assert "are the whole front of 6 trials: it has only 4 points, not 5." in choice.reason
    assert "only" not in choose(trials, [], parse_verb({"top": 3})).reason


def test_the_reason_says_what_from_how_many_and_at_what_price(trials):
    choice = choose(trials, [hard.parse("macs <= 50%")], parse_verb({"best": "accuracy"}))
    assert choice.reason == (
        "t0005 has the highest validation accuracy (96.80 %) of 5 trials with macs <= 50 % of the baseline. "
        "It reaches 96.80 % validation accuracy (0.70 points below its baseline) at 50 MACs (50.0 % of the "
        "baseline's) and 65 params."
    )
    assert choice.runners_up["trial"].tolist() == ["t0001", "t0002", "t0004"]


def test_top_k_gives_k_front_trials_the_most_accurate_first(trials):
    choice = choose(trials, [], parse_verb({"top": 3}))
    assert len(choice.rows) == 3
    assert choice.rows["val_accuracy"].is_monotonic_decreasing
    assert "t0004" not in set(choice.rows["trial"]), "dominated by t0002"


def test_a_weighted_sum_says_which_front_trials_it_can_never_pick(trials):
    trials.loc[1:1, ["val_accuracy"]] = 95.5  # now t0005 alone at 50 MACs; make t0002 a dent
    trials.loc[2, "val_accuracy"] = 91.0
    trials.loc[4, "val_accuracy"] = 80.0
    choice = choose(trials, [], parse_verb({"weighted": "accuracy=1 macs=1"}))
    assert "No weights could pick 1 of the 4 front trials: they lie in dents." in choice.reason


def test_a_constraint_comes_before_the_id(trials):
    with pytest.raises(NothingFeasible, match="t0000 is not among the 5 feasible trials"):
        choose(trials, [hard.parse("macs <= 50%")], parse_verb({"id": "t0000"}))


def test_no_finished_trial_is_nothing_feasible_with_the_reasons(trials):
    trials["candidate"] = False
    trials.attrs["left_out"] = {"failed: raised an error": ["t0000", "t0001"]}
    with pytest.raises(
        NothingFeasible, match=r"no finished trial to choose from \(2 failed: raised an error\)"
    ):
        choose(trials, [], parse_verb({"best": "accuracy"}))


def test_a_front_without_a_bend_has_no_knee_to_choose(trials):
    with pytest.raises(NothingFeasible, match="use --best or --cheapest"):
        choose(trials, [hard.parse("macs <= 25%")], parse_verb({"knee": True}))


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ({}, "say how to choose"),
        ({"best": "accuracy", "knee": True}, "only one rule at a time: --best, --knee"),
        ({"best": "acuracy"}, 'did you mean "accuracy"?'),
        ({"best": "test_accuracy"}, "a choice must not use test accuracy"),
        ({"best": "epochs"}, "is not a quantity to choose by"),
        ({"cheapest": "mac"}, 'did you mean "macs"?'),
        ({"weighted": "accuracy"}, "is not COLUMN=NUMBER"),
        ({"weighted": "accuracy=-1"}, "is not a weight >= 0"),
        ({"nearest": "macs=40"}, "did you mean 40%?"),
        ({"weighted": "accuracy=much"}, "'much' is not a number"),
        ({"lexicographic": "accuracy:x macs"}, "'x' is not a number"),
        ({"lexicographic": "accuracy:-1"}, "-1 is not a tolerance >= 0"),
        ({"lexicographic": "accuracy:nan macs"}, "nan is not a tolerance >= 0"),
        ({"nearest": "macs"}, "is not COLUMN=VALUE"),
        ({"cheapest": "device_hours"}, "no trial has a value"),
    ],
)
def test_a_wrong_verb_is_refused_with_a_hint(trials, verb, message):
    with pytest.raises(ConfigError) as error:
        choose(trials, [], parse_verb(verb))
    assert message in str(error.value)


def test_the_reason_gives_the_interval_and_names_who_is_within_it(trials):
    """Accuracies counted on 200 images: 96.5 % is 193 right, Wilson's interval 92.9-98.3 %."""
    trials["val_accuracy"] = [96.5, 96.0, 94.0, 90.0, 95.0, 92.5, 97.5]
    trials["val_images"] = 200.0
    low, high = interval(trials["val_accuracy"].to_numpy(), trials["val_images"].to_numpy())
    trials["val_accuracy_low"], trials["val_accuracy_high"] = low, high
    trials["accuracy_drop"] = 97.5 - trials["val_accuracy"]
    choice = choose(trials, [], parse_verb({"best": "accuracy"}))
    assert choice.reason == (
        "t0000 has the highest validation accuracy (96.50 %) of 6 trials. It reaches 96.50 % validation accuracy (95 % "
        "interval 93.0-98.3 % on 200 images; 1.00 points below its baseline) at 80 MACs (80.0 % of the baseline's) and "
        "60 params. Within that interval, so not told apart by 200 images: 3 trials (t0002, t0004, t0001); the cheapest "
        "has 5 images fewer right at 0.38 x the MACs."
    )
    assert choice.ties == ("t0002", "t0004", "t0001")
    only_feasible = choose(trials, [hard.parse("params <= 60%")], parse_verb({"best": "accuracy"}))
    assert only_feasible.ties == ("t0002", "t0004"), "what the limits left out is no alternative"
    alone = choose(trials, [hard.parse("params <= 25%")], parse_verb({"best": "accuracy"}))
    assert alone.ties == ()
    assert "Within" not in alone.reason


@pytest.fixture
def noisy(trials):
    """The same with intervals: t0001 (1.0 ms) may be as slow as 1.6, t0005 (1.5 ms) as fast as 1.4."""
    trials["latency_low_ms"] = trials["latency_ms"] - 0.1
    trials["latency_high_ms"] = trials["latency_ms"] + 0.1
    trials.loc[trials["trial"] == "t0001", "latency_high_ms"] = 1.6
    trials.loc[trials["trial"] == "t0005", "macs"] = 45.0
    return trials


def test_a_difference_within_the_interval_does_not_make_a_trial_the_fastest(noisy):
    choice = choose(noisy, [], parse_verb({"cheapest": "latency_ms"}))
    assert choice.trial == "t0005"  # 45 against 50 MACs
    assert (
        "the fewest MACs of the 2 trials whose latency cannot be told from the lowest (1 ms)" in choice.reason
    )
    assert choice.runners_up["trial"].iloc[0] == "t0001"


def test_a_difference_beyond_the_interval_does(noisy):
    noisy.loc[noisy["trial"] == "t0001", "latency_high_ms"] = 1.3
    choice = choose(noisy, [], parse_verb({"cheapest": "latency_ms"}))
    assert choice.trial == "t0001"
    assert "has the lowest latency (1 ms)" in choice.reason


@pytest.mark.parametrize("verb", [{"lexicographic": "latency macs"}, {"weighted": "latency=1 macs=0.001"}])
def test_no_verb_is_decided_by_noise(noisy, verb):
    assert choose(noisy, [], parse_verb(verb)).trial == "t0005"


@pytest.mark.parametrize(
    ("constraint", "kept"),
    [
        ("latency_ms <= 1.45", {"t0001", "t0005"}),  # 1.5 ms may be 1.4
        ("latency_ms <= 1.35", {"t0001"}),
        ("latency_ms <= 36%", {"t0001", "t0005"}),  # of 4 ms: 1.44
        ("latency_ms >= 3.05", {"t0000"}),  # 3.0 ms may be 3.1
    ],
)
def test_a_limit_on_latency_removes_what_is_surely_beyond_it(noisy, constraint, kept):
    rows = hard.apply(noisy[noisy["candidate"]], [hard.parse(constraint)])
    assert set(rows["trial"]) == kept


def test_latencies_that_cannot_be_told_apart_are_one_point_of_the_front(noisy):
    objectives = {"macs": "min", "latency_ms": "min"}
    # t0001 is faster than t0005 within its interval only, and has more MACs; t0004 and t0003 take 2.0 ms.
    assert set(pareto.front(noisy, objectives)["trial"]) == {"t0005", "t0003"}
    plain = noisy.drop(columns=["latency_low_ms", "latency_high_ms"])
    assert set(pareto.front(plain, objectives)["trial"]) == {"t0001", "t0005", "t0003"}


def test_the_nearest_share_of_a_latency_is_that_beside_the_unpruned_model(trials):
    """t0001 takes a quarter of the baseline's 4 ms because its machine was faster: beside it, nine tenths."""
    share = {"t0000": 0.95, "t0001": 0.9, "t0002": 0.7, "t0003": 0.52, "t0004": 0.4, "t0005": 0.8}
    goals = {"val_accuracy": "max", "macs": "min"}
    wish = parse_verb({"nearest": "latency=25%"})
    assert choose(trials, [], wish, goals).trial == "t0001"
    assert choose(trials.assign(latency_share=trials["trial"].map(share)), [], wish, goals).trial == "t0003"
