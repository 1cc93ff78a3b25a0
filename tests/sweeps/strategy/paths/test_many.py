"""What is worked out for thousands of paths at once, beside the same for one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.front.pareto import volume_added
from sweeps.config.paths import Step
from sweeps.strategy.paths.course import MANY
from sweeps.strategy.paths.outlook import Ask, Outlook, Seen
from sweeps.strategy.paths.volume import Front

NAMES = [
    "val_accuracy",
    "accuracy_drop",
    "macs",
    "params_removed",
    "compression",
    "train_cost",
    "epochs",
    "device_hours",
    "target_reached",
]


@pytest.mark.parametrize("objectives", [2, 3])
def test_what_sequences_of_points_add_to_a_front_is_what_measuring_every_union_says(objectives):
    rng = np.random.default_rng(objectives)
    for round_of in range(60):
        size = int(rng.integers(0, 12))
        front = rng.random((size, objectives)) * 1.3 - 0.1
        points = rng.random((5, int(rng.integers(1, 9)), objectives)) * 1.3 - 0.15
        if round_of % 3 == 0:  # ties: on the grid, so with the front, with each other, on the box's edges
            front, points = np.round(front, 1), np.round(points, 1)
        points[rng.random(points.shape[:2]) < 0.1] = np.inf  # breaks a limit
        slow = np.array([volume_added(front, case) for case in points])
        assert Front(front).added(points) == pytest.approx(slow, abs=1e-12)


def test_a_step_that_adds_nothing_keeps_what_the_steps_before_it_add_to_the_last_bit():
    front = Front(np.array([[0.2, 0.7], [0.6, 0.3]]))
    added = front.added(np.array([[[0.4, 0.5], [0.9, 0.9], [1.2, 0.1], [np.inf, np.inf]]]))
    assert added[0, 0] == pytest.approx(0.2 * 0.2)
    assert added[0].tolist() == [added[0, 0]] * 4


@pytest.mark.parametrize("number", [3, MANY + 10])
def test_the_next_models_of_all_paths_are_those_of_each_asked_for_alone(number):
    rng = np.random.default_rng(number)
    outlook, asks = Outlook(NAMES), []
    shares = [1 - 0.7**k for k in range(8)]
    for i in range(number):
        begun = i % 5 > 0  # some have not begun
        seen = []
        for level in range(1 + i % 6 if begun else 0):
            removed, epoch = shares[level], 4 + 3 * level
            accuracy = rng.normal(70, 3) - 20 * removed**4
            finals = {"val_accuracy": accuracy, "accuracy_drop": 75 - accuracy, "macs": 100 * (1 - removed)}
            finals |= {
                "params_removed": removed**0.5,
                "compression": 1 / (1 - removed),
                "train_cost": epoch / 2,
            }
            finals |= {"epochs": epoch, "device_hours": epoch / 50, "target_reached": 0.0}
            if i % 7 == 3 and level == 0:
                del finals["compression"]  # it was not measured
            seen.append(Seen(removed, epoch, finals))
        name = f"t{i:03d}"
        if seen:
            outlook.tell(name, seen)
        ahead = [Step(share, 1.5) for share in shares[len(seen) :]] if i else [Step(0.999, 1.0)]
        asks.append(Ask(name, seen, ahead if i % 4 else ahead[:1], 3))
    together = outlook.next(asks)
    assert set(together) == set(NAMES)
    for name in NAMES:
        alone = [outlook.ahead(ask)[name].mean[0] for ask in asks]
        assert together[name] == pytest.approx(alone, rel=1e-12, nan_ok=True), name
        assert np.isfinite(together[name]).sum() > number // 2
