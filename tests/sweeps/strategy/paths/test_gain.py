"""What a path's next steps promise: volumes, expectations, the best number of steps; beside slower definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from sweeps.config.paths import Step, steps_ahead
from sweeps.strategy.paths.course import KNOTS, Course, Place, Sums, Table
from sweeps.strategy.paths.gain import Bound, Scale, cases, promise, to_points
from sweeps.strategy.paths.outlook import Ask, Foreseen, Outlook, Seen, place_of
from sweeps.strategy.paths.volume import Front

LEVELS = (0.3, 0.5, 0.65, 0.8, 0.9, 0.95)


def path(start=4, interval=6, levels=LEVELS, **more):
    return TrialConfig(
        train=TrainConfig(schedule="cycles"),
        prune=PruneConfig(start=start, interval=interval, levels=levels, **more),
    )


def seen(removed, accuracy, **finals):
    return Seen(removed, 1, {"val_accuracy": accuracy, "macs": 100 * (1 - removed), **finals})


# --- volumes ------------------------------------------------------------------------------------------------------------


def staircase(points):
    """Area that points (losses, two of them) dominate within the unit box, by going along the first loss."""
    inside = sorted(point for point in map(tuple, points) if max(point) < 1)
    area, lowest = 0.0, 1.0
    for x, y in inside:
        if y < lowest:
            area += (1 - x) * (lowest - y)
            lowest = y
    return area


def test_a_promise_is_the_mean_growth_of_the_area_over_its_cases():
    rng = np.random.default_rng(0)
    for _ in range(50):
        front, points = rng.random((6, 2)) * 1.1, rng.random((7, 4, 2)) * 1.1 - 0.05
        costs = rng.random(4) + 0.1
        rates = []
        for j in range(1, 5):
            growth = [staircase([*front, *case[:j]]) - staircase(front) for case in points]
            rates.append((np.mean(growth) / costs[:j].sum(), np.mean(growth), costs[:j].sum(), j))
        rate, gain, cost, steps = max(rates, key=lambda one: one[0])
        made = promise(Front(front), points, costs)
        assert (made.gain, made.cost, made.steps) == (pytest.approx(gain), pytest.approx(cost), steps)
        assert made.rate == pytest.approx(100 * rate)


def test_with_three_objectives_it_is_the_volume_that_random_points_find():
    rng = np.random.default_rng(1)
    front, points = rng.random((5, 3)), rng.random((1, 2, 3))
    darts = rng.random((200_000, 3))

    def hit(rows):
        return np.any([(darts >= row).all(axis=1) for row in rows], axis=0)

    found = hit([*front, *points[0]]).mean() - hit(front).mean()
    made = promise(Front(front), points, [1.0, 1e-9])  # the second step is free, so both count
    assert made.steps == 2 or found == 0
    assert made.gain == pytest.approx(found, abs=0.004)


def test_what_is_dominated_already_promises_nothing():
    front = np.array([[0.2, 0.2], [0.5, 0.1]])
    points = np.tile([[0.3, 0.2], [0.2, 0.2], [0.9, 0.9]], (7, 1, 1))
    assert promise(Front(front), points, [1, 1, 1]).gain == 0


def test_no_promise_is_negative():
    rng = np.random.default_rng(2)
    for _ in range(100):
        made = promise(Front(rng.random((9, 3))), rng.random((7, 3, 3)) * 1.2, rng.random(3) + 0.01)
        assert made.gain >= 0
        assert made.cost > 0


def test_a_step_without_gain_does_not_hide_the_one_behind_it():
    front = np.array([[0.3, 1.0], [0.3, 0.9]])
    points = np.tile([[0.5, 0.95], [0.1, 0.5]], (7, 1, 1))  # worse, then much better
    made = promise(Front(front), points, [2.0, 1.0])
    # (1 - 0.1) * (1 - 0.5) less what the front has of that: (1 - 0.3) * (1 - 0.9)
    assert (made.steps, made.cost) == (2, 3.0)
    assert made.gain == pytest.approx(0.45 - 0.07)


def test_points_outside_the_box_add_nothing_and_those_above_its_top_count_in_full():
    empty = np.empty((0, 2))
    assert promise(Front(empty), np.array([[[1.2, -0.5]]]), [1.0]).gain == 0
    assert promise(Front(empty), np.array([[[-0.2, 0.5]]]), [1.0]).gain == pytest.approx(1.2 * 0.5)


def test_what_breaks_a_limit_adds_nothing():
    scale = Scale(("val_accuracy", "macs"), np.array([60.0, 100.0]), np.array([80.0, 0.0]))
    values = {"val_accuracy": np.array([[70.0, 60.0]]), "macs": np.array([[50.0, 20.0]])}
    free = to_points(values, scale, [])
    assert free.tolist() == [[[0.5, 0.5], [1.0, 0.2]]]
    assert np.isinf(to_points(values, scale, [Bound("macs", True, 40.0)])[0, 0]).all()
    assert np.isinf(to_points(values, scale, [Bound("val_accuracy", False, 65.0)])[0, 1]).all()
    just_kept = [Bound("macs", True, 50.0), Bound("val_accuracy", False, 60.0)]
    assert to_points(values, scale, just_kept).tolist() == free.tolist()


def test_in_a_good_case_the_accuracy_is_higher_and_the_drop_lower():
    one = Foreseen(np.array([1.0]), np.array([2.0]))
    of = cases(
        {"val_accuracy": one, "accuracy_drop": one, "macs": one}, ["val_accuracy", "accuracy_drop", "macs"]
    )
    assert np.all(np.diff(of["val_accuracy"][:, 0]) > 0)
    assert np.all(np.diff(of["accuracy_drop"][:, 0]) < 0)
    assert np.ptp(of["macs"]) == 0


# --- what paths are expected to do --------------------------------------------------------------------------------------


def slow_typical(rows, kept):
    """The typical course on the knots as the solution of its definition: at every knot the mean over all paths, of which
    those that ended before count as the typical course there plus what stays of how they differed at their end.
    """
    rows = np.array(rows)
    ends = np.isfinite(rows).sum(axis=1) - 1
    number = ends.max() + 1
    left, right = np.eye(number), np.zeros(number)
    for knot in range(number):
        for row, end in zip(rows, ends, strict=True):
            if end >= knot:
                right[knot] += row[knot] / len(rows)
            else:
                left[knot, knot] -= 1 / len(rows)
                left[knot, end] += kept[end] / len(rows)
                right[knot] += kept[end] * row[end] / len(rows)
    return np.linalg.solve(left, right)


def test_the_typical_course_is_the_mean_of_all_paths_those_that_ended_early_as_expected():
    rng = np.random.default_rng(3)
    knots = KNOTS
    for _ in range(10):
        rows = 70 + rng.normal(0, 3, (6, len(knots)))
        for row in rows:
            row[rng.integers(1, 40) :] = np.nan
        kept = 1 - np.exp(-knots)
        table = np.stack([rows, np.zeros_like(rows)], axis=1)
        typical = Sums(Table.of(table), kept, 0.0).typical(None)
        slow = slow_typical(rows, kept)
        assert typical[: len(slow)] == pytest.approx(slow)
        assert np.isnan(typical[len(slow) :]).all()
        without = Sums(Table.of(table), kept, 0.0).typical(Table.of(table[2:3]))
        assert without == pytest.approx(
            Sums(Table.of(np.delete(table, 2, axis=0)), kept, 0.0).typical(None), nan_ok=True
        )


def test_pausing_the_poor_paths_does_not_raise_what_is_expected_further_down():
    """Two paths, six points apart all the way; the poor one is paused where four fifths are gone."""
    course = Course(lasting=False)
    depths = [-math.log(1 - removed) for removed in (0.0, 0.5, 0.8, 0.95)]
    course.tell("good", [Place(depth, 75.0, 3.0) for depth in depths])
    course.tell("poor", [Place(depth, 69.0, 3.0) for depth in depths[:3]])
    mean, _ = course.expect(["new"], None, np.array([depths]), np.full((1, 4), 3.0))
    assert mean[0, :3] == pytest.approx([72, 72, 72])
    # Of the three points that the poor one is behind the mean sqrt(0.8) stay: m = (75 + (m - 3 * 0.894)) / 2.
    assert mean[0, 3] == pytest.approx(75 - 2.683, abs=0.1)  # up to the grid of depths


def test_the_unpruned_model_of_a_path_says_nothing_about_its_later_ones_and_the_last_but_one_nearly_all():
    def expected(removed, accuracy):
        paths = Outlook(["val_accuracy"])
        for name in ("a", "b"):
            paths.tell(name, [seen(share, 72.0) for share in (0.0, *LEVELS)])
        known = [seen(share, accuracy) for share in (0.0, *LEVELS) if share <= removed]
        paths.tell("mine", known)
        ahead = paths.ahead(Ask("mine", known, [Step(0.95, 1.0)], 0))["val_accuracy"]
        return ahead.mean[0], ahead.spread[0]

    assert expected(0.0, 62.0)[0] == pytest.approx(72.0)
    assert expected(0.5, 62.0)[0] == pytest.approx(72 - 10 * math.sqrt(0.5))
    assert expected(0.9, 62.0)[0] == pytest.approx(72 - 10 * math.sqrt(0.9))
    spreads = [expected(removed, 72.0)[1] / expected(0.0, 72.0)[1] for removed in (0.5, 0.9)]
    assert spreads == pytest.approx([math.sqrt(1 - 0.5), math.sqrt(1 - 0.9)], rel=0.05)


def courses(slope, epochs_of):
    """Paths whose accuracy is 60, plus ``slope`` for every doubling of the epochs they have taken, less depth's."""
    made = {}
    for name, (start, interval) in epochs_of.items():
        epochs = [start + interval * k for k in range(1 + len(LEVELS))]
        made[name] = [
            Seen(removed, epoch, {"val_accuracy": 60 + slope * math.log2(epoch) - 8 * removed**6})
            for removed, epoch in zip((0.0, *LEVELS), epochs, strict=True)
        ]
    return made


def test_accuracies_are_compared_at_equal_effort():
    """A short dense phase with long cycles is behind at first and ahead later; that is no surprise once others did so."""
    others = {
        f"t{i}": pair
        for i, pair in enumerate([(2, 2), (2, 4), (4, 3), (6, 6), (8, 2), (8, 4), (12, 3), (4, 8)])
    }
    told = courses(5.0, {**others, "mine": (4, 6)})
    paths = Outlook(["val_accuracy"])
    for name in others:
        paths.tell(name, told[name])
    paths.tell("mine", told["mine"][:2])
    steps = list(steps_ahead(path(4, 6), 0.3, 10))
    ahead = paths.ahead(Ask("mine", told["mine"][:2], steps, 6))["val_accuracy"]
    assert ahead.mean == pytest.approx([one.finals["val_accuracy"] for one in told["mine"][2:]], abs=0.6)
    blind = (
        ahead.mean - np.log2([16, 22, 28, 34, 40]) * 5
    )  # without effort it would be far off: 3.3 points at the end
    assert np.ptp(blind + 8 * np.array(LEVELS[1:]) ** 6) < 1


def test_how_much_effort_matters_is_learned_and_taken_for_two_points_before():
    for slope in (0.0, 5.0):
        told = courses(slope, {f"t{i}": (2 ** (i % 5), 2 ** (i % 4)) for i in range(20)})
        course = Course(lasting=False)
        for name, seen_of in told.items():
            course.tell(name, [place_of("val_accuracy", one) for one in seen_of])
        assert course.summed(begun=True).slope == pytest.approx(slope, abs=0.3)
        assert course.summed(begun=False).slope == 0
    course = Course(lasting=False)
    course.tell("alone", [place_of("val_accuracy", one) for one in told["t0"]])
    assert course.summed(begun=True).slope == pytest.approx(2.0)


def test_where_no_other_path_has_been_nothing_is_expected_to_change_and_much_is_possible():
    paths = Outlook(["val_accuracy", "macs"])
    mine = [seen(0.0, 70.0), seen(0.5, 68.0)]
    paths.tell("mine", mine)
    alone = paths.ahead(Ask("mine", mine, [Step(0.8, 1.0)], 0))
    assert alone["val_accuracy"].mean == pytest.approx([68.0])
    assert alone["macs"].mean == pytest.approx([20.0])
    paths.tell("other", [seen(0.0, 70.0), seen(0.5, 68.0), seen(0.65, 66.0)])
    met = paths.ahead(Ask("mine", mine, [Step(0.65, 1.0), Step(0.8, 1.0)], 0))["val_accuracy"]
    assert met.mean == pytest.approx([66.0, 66.0], abs=0.3)  # up to the grid of depths
    more = paths.ahead(Ask("mine", mine, [Step(0.65, 1.0), Step(0.8, 1.0)], 1))["val_accuracy"]
    assert (
        more.mean[0] > 66.5
    )  # it will have been trained for longer; of what nobody has seen that is not expected
    assert more.mean[1] == more.mean[0]
    assert met.spread[1] == alone["val_accuracy"].spread[0] > 1.5 * met.spread[0]


def test_costs_follow_the_share_left_and_how_it_went_for_others():
    paths = Outlook(["macs", "params", "macs_removed", "compression", "latency_ms"])

    def model(removed, bloat):
        left = 1 - removed
        params = 1000 * left**0.5
        values = {
            "params": params,
            "compression": 1000 / params,
            "macs_removed": removed,
            "latency_ms": bloat * left**0.3,
        }
        return seen(removed, 70.0, **values)

    paths.tell("other", [model(removed, 2.0) for removed in (0.0, *LEVELS)])
    mine = [model(0.0, 3.0), model(0.5, 3.0)]
    paths.tell("mine", mine)
    ahead = paths.ahead(Ask("mine", mine, [Step(0.8, 1.0), Step(0.9, 1.0)], 3))
    left = np.array([0.2, 0.1])
    assert ahead["macs"].mean == pytest.approx(100 * left)
    assert ahead["macs_removed"].mean == pytest.approx(1 - left)
    assert ahead["params"].mean == pytest.approx(1000 * left**0.5, rel=0.01)
    assert ahead["compression"].mean == pytest.approx(left**-0.5, rel=0.01)
    assert ahead["latency_ms"].mean == pytest.approx(3.0 * left**0.3, rel=0.01)
    assert all(not one.spread.any() for one in ahead.values())


def test_efforts_add_up():
    paths = Outlook(["train_cost", "epochs", "device_hours", "target_reached"])
    config = path(start=4, interval=6)
    other = [
        Seen(0.0, 4, {"train_cost": 4.0, "epochs": 4, "device_hours": 2.0, "target_reached": 0.0}),
        Seen(0.3, 10, {"train_cost": 8.2, "epochs": 10, "device_hours": 4.1, "target_reached": 0.0}),
    ]
    paths.tell("other", other)
    begun = paths.ahead(Ask("other", other, list(steps_ahead(config, 0.3, 10)), 6))
    assert begun["train_cost"].mean == pytest.approx([11.2, 13.3, 14.5, 15.1, 15.4])
    assert begun["epochs"].mean == pytest.approx([16, 22, 28, 34, 40])
    assert begun["device_hours"].mean == pytest.approx([5.6, 6.65, 7.25, 7.55, 7.7])
    assert begun["target_reached"].mean == pytest.approx([0, 0, 0, 0, 1])
    new = paths.ahead(Ask("", [], list(steps_ahead(config)), 6))
    assert new["train_cost"].mean == pytest.approx([4, 8.2, 11.2, 13.3, 14.5, 15.1, 15.4])
    assert new["epochs"].mean == pytest.approx([4, 10, 16, 22, 28, 34, 40])


def test_what_is_expected_does_not_depend_on_the_order_of_telling():
    rng = np.random.default_rng(4)
    told = {
        f"t{i}": [seen(share, rng.normal(70, 3)) for share in (0.0, *LEVELS[: 1 + i % 6])] for i in range(40)
    }
    results = []
    for order in (sorted(told), sorted(told, reverse=True)):
        paths = Outlook(["val_accuracy"])
        for name in order:
            paths.tell(name, told[name])
        ahead = paths.ahead(Ask("t3", told["t3"], [Step(0.9, 1.0)], 3))["val_accuracy"]
        results.append((ahead.mean.tolist(), ahead.spread.tolist()))
    assert results[0] == results[1]
