"""What holds for every decision about paths: order, repetition, workers, scales, objectives, numbers."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest

from sweeps.strategy.paths import known as known_paths
from sweeps.strategy.paths.choice import Choice, Verdict
from tests.sweeps.strategy.paths.told import (
    BEST,
    LEVELS,
    LONG,
    POOR,
    SHORT,
    WORST,
    config,
    enter,
    finals,
    make,
)


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
