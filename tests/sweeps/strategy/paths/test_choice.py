"""What a free worker does next."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from sweeps.config.limits import parse_limit
from sweeps.strategy.paths import known as known_paths
from sweeps.strategy.paths.choice import NEW_PATH, Choice, Verdict

OBJECTIVES = {"val_accuracy": "max", "macs": "min"}
LEVELS = (0.3, 0.5, 0.65, 0.8, 0.9, 0.95)
WORST, BEST = {"val_accuracy": 65.0, "macs": 100.0}, {"val_accuracy": 75.0, "macs": 0.0}
#: Measured (spec of paths): a long dense phase with short cycles, and a short one with long cycles.
LONG = (12, 3, (73.7, 74.1, 74.1, 73.1, 71.2, 68.8, 60.9))
SHORT = (4, 6, (62.2, 70.1, 73.0, 73.8, 73.7, 69.4, 65.6))
POOR = (6, 2, (65.7, 67.0, 67.4, 68.0, 66.0, 62.0, 55.0))


def config(start=4, interval=6, levels=LEVELS):
    return TrialConfig(
        train=TrainConfig(schedule="cycles"), prune=PruneConfig(start=start, interval=interval, levels=levels)
    )


def make(min_gain=0.01, limits=(), objectives=OBJECTIVES):
    parsed = [parse_limit(text, "here") for text in limits]
    choice = Choice(objectives, min_gain, parsed)
    choice.scale(WORST, BEST)
    choice.limits_of_test = parsed
    return choice


def finals(accuracy, removed):
    return {"val_accuracy": accuracy, "macs": 100 * (1 - removed), "macs_removed": removed, "train_cost": 1.0}


def tell(choice, name, accuracies, levels=LEVELS, first=0, start=4, interval=6):
    for level, accuracy in enumerate(accuracies):
        removed = 0.0 if level == 0 else levels[level - 1]
        values = finals(accuracy, removed)
        violations = {limit.text: limit.excess(values, None) for limit in choice.limits_of_test}
        if level >= first:
            standing = all(excess <= 0 for excess in violations.values())
            choice.snapshot(name, level, start + interval * level, values, standing, violations)


def enter(choice, name, kind, models=7, state="ended"):
    start, interval, accuracies = kind
    choice.started(name, config(start, interval))
    tell(choice, name, accuracies[:models], start=start, interval=interval)
    if state != "running":
        getattr(choice, state)(name)


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


# --- laws ---------------------------------------------------------------------------------------------------------------


def test_equal_inputs_give_equal_verdicts_whatever_the_order_of_telling():
    rng = np.random.default_rng(5)
    kinds = {f"t{i:02d}": (LONG, SHORT, POOR)[i % 3] for i in range(8)}
    noise = {name: rng.normal(0, 1, 7) for name in kinds}
    told = []
    for i, (name, (start, interval, accuracies)) in enumerate(kinds.items()):
        models = 7 if i < 2 else 1 + i % 6
        state = "ended" if i < 2 else "running" if i < 4 else "paused"
        told.append([("started", name, config(start, interval))])
        told += [
            [("snapshot", name, level, accuracies[level] + noise[name][level])] for level in range(models)
        ]
        told.append([("state", name, state)])
    results = set()
    for seed in range(6):
        choice = make()
        order = [event for events in told for event in events]
        shuffled = random.Random(seed).sample(order, len(order)) if seed else order
        # A path's state is what was said last, so those come in their order; everything else in any.
        last = [event for event in shuffled if event[0] == "state"]
        for event in [event for event in shuffled if event[0] != "state"] * 2 + last:
            if event[0] == "started":
                choice.started(event[1], event[2])
            elif event[0] == "snapshot":
                _, name, level, accuracy = event
                choice.snapshot(name, level, 4, finals(accuracy, (0.0, *LEVELS)[level]), True, {})
            elif event[2] != "running":
                getattr(choice, event[2])(event[1])
        verdicts = [
            choice.next(True),
            choice.next(False),
            choice.goes_on("t02", True),
            choice.goes_on("t03", True),
        ]
        results.add(json.dumps([verdict.to_dict() for verdict in verdicts]))
    assert len(results) == 1


def test_a_snapshot_that_is_told_again_with_other_values_replaces_what_was_told():
    """Its drop in accuracy is known when its baseline has ended; it may turn out to be infeasible."""
    once, corrected = make(), make()
    for choice, accuracy in ((once, 71.2), (corrected, 99.0)):
        enter(choice, "t0", LONG)
        choice.snapshot("t0", 4, 28, finals(accuracy, 0.8), True, {})
        enter(choice, "t1", SHORT, models=3, state="paused")
    assert once.next(True) != corrected.next(True)
    corrected.snapshot("t0", 4, 28, finals(71.2, 0.8), True, {})
    assert once.next(True).to_dict() == corrected.next(True).to_dict()


def test_what_other_workers_are_training_counts_as_if_it_had_ended_as_expected():
    choice = make()
    enter(choice, "t0", LONG)
    for name in ("t1", "t2"):
        enter(choice, name, SHORT, models=5, state="paused")
    alone = choice.next(may_start=False)
    choice.started("t1", config(*SHORT[:2]))
    beside = choice.next(may_start=False)
    assert (alone.trial_id, beside.trial_id) == ("t1", "t2")
    assert beside.promise.rate < 0.9 * alone.promise.rate


def test_what_a_path_is_about_to_train_does_not_count_against_itself():
    waiting, running = make(), make()
    for choice, state in ((waiting, "paused"), (running, "running")):
        enter(choice, "t0", LONG)
        enter(choice, "t1", SHORT, models=4, state=state)
    assert running.goes_on("t1", may_start=False).promise == waiting.next(may_start=False).promise


def test_the_number_of_a_relative_limit_does_not_depend_on_the_order_of_telling():
    """Baselines of other seeds may differ a little, and so do the limits in numbers."""
    text, rates = "macs <= 60%", set()
    for names in (("t0", "t2"), ("t2", "t0")):
        choice = make(limits=[text])
        choice.limits_of_test = ()
        for name in names:
            bound = {"t0": 60.0, "t2": 40.0}[name]
            choice.started(name, config(*LONG[:2]))
            for level, accuracy in enumerate(LONG[2]):
                values = finals(accuracy, (0.0, *LEVELS)[level])
                choice.snapshot(name, level, 12 + 3 * level, values, True, {text: values["macs"] - bound})
            choice.ended(name)
        enter(choice, "t1", SHORT, models=2, state="paused")
        rates.add(choice.next(may_start=False).promise.rate)
    assert len(rates) == 1
    assert rates != {0.0}


def test_a_hundred_workers_do_not_all_start_a_new_path():
    """Every one that is in its dense phase makes the next one less worth; paused paths get their turn."""
    choice = make()
    enter(choice, "t0", LONG)
    for i in range(40):
        enter(choice, f"p{i:02d}", SHORT, models=4, state="paused")
    actions = []
    for i in range(100):
        verdict = choice.next(may_start=True)
        actions.append(verdict.action)
        if verdict.action == "nothing":
            break
        choice.started(verdict.trial_id or f"new{i}", config(*SHORT[:2]))
    assert {"start", "resume"} <= set(actions)


def test_infeasible_models_are_not_on_the_front_but_show_the_way():
    choice, strict = make(), make()
    for one, standing in ((choice, True), (strict, False)):
        one.started("t0", config())
        for level, accuracy in enumerate(SHORT[2]):
            one.snapshot("t0", level, 4, finals(accuracy, (0.0, *LEVELS)[level]), standing, {})
        one.ended("t0")
        enter(one, "t1", SHORT, models=4, state="running")
    assert strict.goes_on("t1", False).promise.gain > choice.goes_on("t1", False).promise.gain


def test_any_objectives_will_do():
    objectives = {"accuracy_drop": "min", "params": "min", "latency_ms": "min", "train_cost": "min"}
    choice = Choice(objectives, 1e-6)
    worst = {"accuracy_drop": 10.0, "params": 100.0, "latency_ms": 5.0, "train_cost": 20.0}
    choice.scale({**worst, "val_accuracy": 65.0}, {**dict.fromkeys(worst, 0.0), "val_accuracy": 75.0})
    for name, kind, models in (("t0", LONG, 7), ("t1", SHORT, 4)):
        choice.started(name, config(*kind[:2]))
        for level, accuracy in enumerate(kind[2][:models]):
            left = 1 - (0.0, *LEVELS)[level]
            values = {**finals(accuracy, 1 - left), "params": 100 * left**0.8, "latency_ms": 5 * left**0.3}
            values["train_cost"] = 4.0 + level
            choice.snapshot(name, level, 4, values, True, {})
    choice.ended("t0")
    verdict = choice.goes_on("t1", may_start=True)
    assert verdict.action == "go_on"
    assert verdict.promise.gain > 0


def test_a_model_without_finite_values_is_left_out_and_spoils_nothing():
    choice, beside = make(), make()
    for one in (choice, beside):
        enter(one, "t0", LONG)
        enter(one, "t1", SHORT, models=4, state="paused")
    choice.started("t2", config())
    choice.snapshot("t2", 0, 4, {"val_accuracy": float("nan"), "macs": 100.0, "macs_removed": 0.0}, True, {})
    assert choice.goes_on("t2", may_start=False).promise is None
    choice.ended("t2")
    assert choice.next(False).to_dict() == beside.next(False).to_dict()


def test_of_a_thousand_paused_paths_a_handful_is_looked_at_in_a_decision():
    choice = make(min_gain=None)
    rng = np.random.default_rng(6)
    enter(choice, "t0", LONG)
    for i in range(1000):
        accuracies = np.array(SHORT[2]) + rng.normal(0, 2)
        enter(choice, f"p{i:04d}", (4, 6, tuple(accuracies)), models=2 + i % 4, state="paused")
    choice.next(may_start=True)  # the first one after a takeover has to look at all
    first = choice.evaluations
    choice.scale(WORST, BEST)  # nothing new: every path that begins may ask for it
    choice.next(may_start=True)
    assert choice.evaluations - first <= 6  # nothing has happened: the best one, the three oldest, a new one
    looked_at = []
    for _ in range(20):
        before = choice.evaluations
        verdict = choice.next(may_start=True)
        assert verdict.action == "resume"
        choice.started(verdict.trial_id, config())
        middle = choice.evaluations
        level = choice._known[verdict.trial_id].seen[-1].epoch // 6 + 1
        choice.snapshot(verdict.trial_id, level, 4 + 6 * level, finals(70.0, (0.0, *LEVELS)[level]), True, {})
        if level < 6:
            choice.goes_on(verdict.trial_id, may_start=True)
        choice.paused(verdict.trial_id)
        looked_at += [middle - before, choice.evaluations - middle]
    assert (
        max(looked_at) <= 21
    )  # 16 that promised most, 3 that were not looked at for longest, its own, a new one


def test_the_best_paused_path_is_found_although_few_are_looked_at():
    """Beside working out every promise anew."""
    rng = np.random.default_rng(7)
    choice = make(min_gain=None)
    enter(choice, "t0", LONG)
    for i in range(60):
        enter(choice, f"p{i:02d}", (4, 6, tuple(np.array(SHORT[2]) + rng.normal(0, 2))), 2 + i % 4, "paused")
    for _ in range(15):
        verdict = choice.next(may_start=False)
        known = choice._known
        front = known.front()
        rates = {name: known.promise(name, front).rate for name in known.paused()}
        assert verdict.promise.rate == pytest.approx(rates[verdict.trial_id])
        assert verdict.promise.rate > 0.9 * max(rates.values())
        # It takes its next step, which turns out well: the front grows where many would have gone.
        name, level = verdict.trial_id, len(known[verdict.trial_id].seen)
        choice.started(name, config())
        values = finals(SHORT[2][level] + 2, (0.0, *LEVELS)[level])
        choice.snapshot(name, level, 4 + 6 * level, values, True, {})
        choice.paused(name)


def test_a_scale_that_moves_changes_every_promise():
    choice = make()
    enter(choice, "t0", LONG)
    enter(choice, "t1", SHORT, models=4, state="paused")
    before = choice.next(may_start=False).promise
    choice.scale({**WORST, "val_accuracy": 70.0}, {**BEST, "val_accuracy": 80.0})
    assert choice.next(may_start=False).promise != before
    choice.scale(WORST, BEST)
    assert choice.next(may_start=False).promise == before


def test_a_verdict_is_written_as_plain_numbers():
    choice = make()
    enter(choice, "t0", LONG)
    enter(choice, "t1", POOR, models=5, state="running")
    for verdict in (choice.goes_on("t1", may_start=True), Verdict("nothing")):
        assert json.loads(json.dumps(verdict.to_dict())) == verdict.to_dict()
        assert set(verdict.to_dict()) == {field.name for field in dataclasses.fields(Verdict)}


def test_the_rules_scale_reaches_below_the_usable_one():
    """A model that nobody would ship is still the next one of a path that was asked to go so deep."""
    choice = make(min_gain=0.01)
    enter(choice, "t0", (4, 6, (74.0, 74.0, 73.0, 72.0, 66.0, 60.0, 56.0)))
    enter(choice, "t1", (4, 6, (74.0, 74.0, 73.0, 72.0, 67.0, 64.0)), models=6, state="running")
    assert WORST["val_accuracy"] > 64.0 > BEST["val_accuracy"] - known_paths.DEEPER * 10
    assert choice.goes_on("t1", may_start=False).promise.gain > 0


def test_as_long_as_no_model_keeps_all_limits_the_search_goes_on():
    """Where everything breaks a limit no step promises anything, and a first unlucky setting must not end the search."""
    choice = make(min_gain=0.01, limits=("val_accuracy >= 90",))
    enter(choice, "t0", LONG, state="ended")
    verdict = choice.next(may_start=True)
    assert (verdict.action, verdict.promise.rate) == ("start", 0)
    enter(choice, "t1", SHORT, models=2, state="running")
    assert choice.goes_on("t1", may_start=True).action == "pause"
    assert choice.goes_on("t1", may_start=False).action == "go_on"
    choice.paused("t1")
    assert choice.next(may_start=False).action == "resume"
