"""What a free worker does next."""

from __future__ import annotations

import pytest

from sweeps.config.limits import parse_limit
from sweeps.strategy.paths.choice import NEW_PATH, Choice, Verdict
from tests.sweeps.strategy.paths.told import (
    LEVELS,
    LONG,
    OBJECTIVES,
    POOR,
    SHORT,
    config,
    enter,
    finals,
    make,
    tell,
)

# --- before anything can be compared ------------------------------------------------------------------------------------


def test_while_no_path_has_come_to_its_end_every_path_goes_on():
    choice = make()
    for name, kind in (("t0", LONG), ("t1", POOR)):
        enter(choice, name, kind, models=4, state="running")
    for name in ("t0", "t1"):
        verdict = choice.goes_on(name, may_start=True)
        assert (verdict.action, verdict.promise) == ("go_on", None)
    assert choice.next(may_start=True).action == "start"
    assert choice.next(may_start=False).action == "nothing"


def test_without_a_scale_nothing_is_paused_and_new_paths_start():
    choice = Choice(OBJECTIVES, 0.01)
    choice.limits_of_test = ()
    enter(choice, "t0", LONG)
    enter(choice, "t1", POOR, models=4, state="running")
    assert choice.goes_on("t1", may_start=True).action == "go_on"
    assert choice.next(may_start=True).action == "start"


def test_a_path_that_was_paused_before_there_was_anything_to_compare_with_goes_on_first():
    choice = make()
    enter(choice, "t0", LONG, models=2, state="paused")
    assert choice.next(may_start=True) == Verdict(
        "resume", "t0", reason="t0@1: no path has come to its end yet"
    )


# --- going on, pausing, resuming, starting ------------------------------------------------------------------------------


def test_a_path_is_paused_where_it_promises_clearly_less_than_a_new_one():
    choice = make()
    enter(choice, "t0", LONG)
    enter(choice, "t1", POOR, models=5, state="running")
    verdict = choice.goes_on("t1", may_start=True)
    assert (verdict.action, verdict.trial_id, verdict.other_name) == ("pause", "t1", NEW_PATH)
    assert verdict.promise.rate < verdict.other.rate
    assert verdict.reason == (
        f"t1@4 promises {verdict.promise.rate:.2g} % of hypervolume per dense epoch, "
        f"a new path {verdict.other.rate:.2g}"
    )


def test_a_paused_path_is_resumed_where_it_promises_most():
    choice = make()
    enter(choice, "t0", LONG)
    enter(choice, "t1", SHORT, models=4, state="paused")
    enter(choice, "t2", POOR, models=5, state="paused")
    verdict = choice.next(may_start=False)
    assert (verdict.action, verdict.trial_id) == ("resume", "t1")
    assert choice.next(may_start=True).trial_id == "t1"


def test_a_path_that_rises_over_its_first_levels_is_not_paused_before_it_has_risen():
    """Its dense phase is short, so its first models are poor and its later ones the better."""
    for others in ((LONG,), (LONG, LONG), (LONG, POOR), (LONG, POOR, SHORT)):
        choice = make()
        for i, kind in enumerate(others):
            enter(choice, f"t{i}", kind)
        choice.started("rises", config(*SHORT[:2]))
        for level in range(4):
            tell(choice, "rises", SHORT[2][: level + 1], first=level)
            assert choice.goes_on("rises", may_start=True).action == "go_on", (others, level)


def test_a_path_is_not_paused_for_another_right_after_its_dense_phase():
    """That is paid, and says nothing about the path; only where nothing is worth it the path waits."""
    cheap = (1, 1, (70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 66.0))
    choice, strict = make(), make(min_gain=50.0)
    for one in (choice, strict):
        enter(one, "t0", cheap)
        enter(one, "t1", (8, 8, cheap[2]))  # so effort does not matter here
        enter(one, "t3", cheap)
        enter(one, "t2", (12, 12, LONG[2]), models=1, state="running")
    verdict = choice.goes_on("t2", may_start=True)
    assert verdict.other.rate > verdict.promise.rate
    assert verdict.action == "go_on"
    assert strict.goes_on("t2", may_start=True).action == "pause"


def test_on_equal_numbers_going_on_comes_before_resuming_and_resuming_before_starting():
    choice = make()
    enter(choice, "t0", LONG)
    enter(choice, "t1", SHORT, models=4, state="running")
    enter(choice, "t2", SHORT, models=4, state="paused")
    verdict = choice.goes_on("t1", may_start=False)
    assert (verdict.action, verdict.other_name) == ("go_on", "t2")
    assert verdict.other.rate == pytest.approx(verdict.promise.rate)
    assert choice.next(may_start=False).trial_id == "t2"
    choice.paused("t1")
    assert choice.next(may_start=False).trial_id == "t1"  # the first of two equal ones
    never = make(min_gain=None)  # nothing is left to gain anywhere: all promise 0
    enter(never, "t0", (4, 6, (80.0,) * 7))
    enter(never, "t1", (4, 6, (10.0,) * 7), models=6, state="paused")
    never.snapshot("t0", 6, 40, {**finals(99.0, 0.99), "macs": 0.001}, True, {})
    assert never.next(may_start=True).promise.rate == 0
    assert never.next(may_start=True).action == "resume"


def test_the_end_of_a_path_is_said():
    choice = make()
    enter(choice, "t0", LONG, state="running")
    assert choice.goes_on("t0", may_start=True).action == "end"


def test_a_raised_target_gives_a_path_that_was_at_its_end_something_to_do():
    choice = make()
    enter(choice, "t0", LONG)
    short = config(4, 6, LEVELS[:4])
    choice.started("t1", short)
    tell(choice, "t1", SHORT[2][:5])
    assert choice.goes_on("t1", may_start=False).action == "end"
    choice.paused("t1")
    assert choice.next(may_start=False).action == "nothing"
    choice.started("t1", config(4, 6))
    choice.paused("t1")
    assert choice.next(may_start=False).trial_id == "t1"


# --- the end of the sweep -----------------------------------------------------------------------------------------------


def test_nothing_is_done_that_promises_less_than_min_gain():
    patient, strict = make(min_gain=1e-9), make(min_gain=50.0)
    for choice in (patient, strict):
        enter(choice, "t0", LONG)
        enter(choice, "t1", SHORT, models=4, state="running")
    assert patient.goes_on("t1", may_start=True).action == "go_on"
    verdict = strict.goes_on("t1", may_start=True)
    assert verdict.action == "pause"
    assert verdict.reason.endswith("; less than 50 is not worth it")
    for choice in (patient, strict):
        choice.paused("t1")
    assert patient.next(may_start=True).action in ("resume", "start")
    verdict = strict.next(may_start=True)
    assert (verdict.action, verdict.trial_id) == ("nothing", "")
    assert 0 < verdict.promise.rate < 50


def test_the_users_own_points_are_started_before_the_rule_says_nothing():
    choice = make(min_gain=50.0)
    enter(choice, "t0", LONG)
    enter(choice, "t1", SHORT, models=4, state="paused")
    choice.given(2)
    for may_start in (True, False):
        verdict = choice.next(may_start)
        assert (verdict.action, verdict.trial_id) == ("start", "")
        assert verdict.reason.endswith("the first paths are started whatever they promise")
    choice.given(0)
    assert choice.next(may_start=True).action == "nothing"


def test_a_running_path_is_paused_for_a_given_point_only_where_that_promises_more():
    choice = make()
    enter(choice, "t0", LONG)
    enter(choice, "t1", SHORT, models=4, state="running")
    choice.given(1)
    assert choice.goes_on("t1", may_start=False).action == "go_on"
    enter(choice, "t2", POOR, models=5, state="running")
    verdict = choice.goes_on("t2", may_start=False)
    assert (verdict.action, verdict.other_name) == ("pause", NEW_PATH)


def test_new_paths_that_wait_for_a_worker_are_compared_with_although_no_more_may_be_drawn():
    choice = make()
    enter(choice, "t0", LONG)
    enter(choice, "t1", POOR, models=5, state="running")
    assert choice.goes_on("t1", may_start=False).other is None
    assert choice.goes_on("t1", may_start=False, waiting=1).other_name == NEW_PATH


# --- constraints --------------------------------------------------------------------------------------------------------


def of_limit(accuracies, limit):
    choice = make(limits=[limit])
    choice.started("t0", config())
    tell(choice, "t0", accuracies)
    return choice.goes_on("t0", may_start=True)


def test_a_limit_on_accuracy_broken_twice_below_the_best_model_ends_a_path():
    verdict = of_limit([70.0, 74.0, 72.0, 69.0, 68.0], "val_accuracy >= 71")
    assert verdict.action == "end"
    assert verdict.reason == "t0@4 breaks val_accuracy >= 71, as the model before it did"


@pytest.mark.parametrize(
    "accuracies",
    [
        [62.0, 68.0],  # it still rises
        [62.0, 68.0, 69.0],
        [62.0, 69.0, 68.0],  # once
        [70.0, 74.0, 72.0, 69.0],  # once, after one that kept it
        [70.0, 74.0, 69.0, 72.0],  # mended
        [70.0, 69.0, 74.0, 69.0],  # the first of the two came before the best one
    ],
)
def test_a_limit_on_accuracy_broken_otherwise_does_not(accuracies):
    assert of_limit(accuracies, "val_accuracy >= 71").action == "go_on"


@pytest.mark.parametrize(
    "limit", ["macs <= 0", "train_cost <= 0.5", "macs_removed <= 0.1", "val_accuracy <= 60"]
)
def test_other_limits_end_no_path(limit):
    assert parse_limit(limit, "here").excess(finals(69.0, 0.8), None) > 0, "the last model breaks it"
    assert of_limit([74.0, 72.0, 71.0, 70.0, 69.0], limit).action == "go_on"


def test_a_drop_counts_as_an_accuracy():
    choice = make(limits=["accuracy_drop <= 3"])
    choice.started("t0", config())
    for level, accuracy in enumerate((74.0, 75.0, 71.5, 71.0)):
        removed = (0.0, *LEVELS)[level]
        broken = {"accuracy_drop <= 3": 75 - accuracy - 3}
        choice.snapshot("t0", level, 4, finals(accuracy, removed), broken["accuracy_drop <= 3"] <= 0, broken)
    assert choice.goes_on("t0", may_start=True).action == "end"


def test_models_that_will_break_a_limit_promise_nothing():
    """Of a path whose next models are all too dear nothing is expected; the number of a relative limit is learned."""
    free, limited = make(), make(limits=["macs <= 60%"])
    text = "macs <= 60%"
    rates = []
    for choice in (free, limited):
        for name, kind, models in (("t0", LONG, 7), ("t1", SHORT, 1)):
            choice.started(name, config(*kind[:2], levels=(0.3, 0.35, 0.38)))
            for level, accuracy in enumerate(kind[2][: min(models, 4)]):
                removed = (0.0, 0.3, 0.35, 0.38)[level]
                values = finals(accuracy, removed)
                choice.snapshot(name, level, 4, values, choice is free, {text: values["macs"] - 60})
        choice.ended("t0")
        rates.append(choice.goes_on("t1", may_start=False).promise.rate)
    assert rates[0] > 0
    assert rates[1] == 0
