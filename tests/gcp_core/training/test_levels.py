"""What the events of a path take, against picking by hand, and when a path is over: no training."""

import dataclasses

import pytest
import torch
from torch import nn

from gcp_core.config import PruneConfig, TrainConfig
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.surgery import apply_plan
from gcp_core.training.levels import cost_of, level_plan, why_over
from tests.oracles.greedy_selection import pick_one_by_one
from tests.oracles.mac_count import count_macs
from tests.oracles.nets import random_scores

EXAMPLE = torch.zeros(1, 3, 32, 32)
PRUNE = PruneConfig(
    start=4, interval=6, ratio=0.3, ratio_of="cost", min_channels=1, min_share=0.03, until=None
)


def with_(**values):
    if "levels" in values:
        values |= {"ratio": None, "ratio_of": None, "target": None}
    return dataclasses.replace(PRUNE, **values)


def course(prune, groups, events=99):
    """(scores, groups before, plan) of every event, with fresh random scores each time; ends where nothing is left."""
    dense, found = cost_of(groups, prune), []
    for event in range(events):
        scores = random_scores(groups, seed=event)
        plan = level_plan(scores, groups, prune, dense)
        if plan is None:
            break
        found.append((scores, groups, plan))
        groups = groups.after(plan)
    return found


def removed(groups, prune, dense):
    return 1 - cost_of(groups, prune) / dense


def cost_without(groups, prune, units):
    gone = {}
    for name, unit in units:
        gone.setdefault(name, []).append(unit)
    return groups.cost(gone)[prune.of == "params"]


@pytest.mark.parametrize("model", ["vgg_tiny", "resnet20"])
@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("values", [{"ratio": 0.3}, {"ratio": 0.45}, {"levels": (0.3, 0.5, 0.65, 0.9)}])
def test_an_event_takes_the_fewest_lowest_units_that_reach_its_level(model, of, values):
    prune = with_(of=of, **values)
    groups = find_groups(build_model(model, 10, width=0.25), EXAMPLE)
    dense = cost_of(groups, prune)
    # The levels as the page says: 1 - (1 - ratio)^k, or those of the list; those that were passed are skipped.
    listed = list(prune.levels or [1 - (1 - prune.ratio) ** k for k in range(1, 60)])
    seen = 0
    for scores, before, plan in course(prune, groups, events=4):
        aim = next(level for level in listed if level > removed(before, prune, dense) + 1e-9)
        assert plan.meta["level"] == pytest.approx(aim, abs=1e-12)
        order = pick_one_by_one(scores, before, before.num_units, prune.min_channels, prune.min_share)
        enough = (
            n for n in range(1, len(order) + 1)
            if cost_without(before, prune, order[:n]) <= (1 - aim) * dense
        )  # fmt: skip
        fewest = next(enough)
        taken = {(name, unit) for name, units in plan.removed.items() for unit in units}
        assert taken == set(order[:fewest])
        assert cost_without(before, prune, order[: fewest - 1]) > (1 - aim) * dense or fewest == 1
        seen += 1
    assert seen >= 3


def test_the_level_is_one_of_the_real_model_counted_by_hand():
    prune, model = with_(ratio=0.5), build_model("vgg_tiny", 10, width=0.25)
    groups = find_groups(model, EXAMPLE)
    dense = sum(count_macs(model, EXAMPLE).values())
    events = course(prune, groups, events=3)
    assert len(events) == 3
    for k, (_, _, plan) in enumerate(events, start=1):
        apply_plan(model, plan)
        left = sum(count_macs(model, EXAMPLE).values())
        assert 0.5**k - 0.1 < left / dense <= 0.5**k


def ten_channels(num_classes=10):
    """One layer that can be pruned; every unit costs a tenth of the net, exactly."""
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, num_classes),
    )  # fmt: skip


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_level_that_can_be_hit_exactly_is_hit_exactly(tenths):
    """1 - 0.8 is a hair below 0.2: that must not cost a unit."""
    prune = with_(levels=(tenths / 10,))
    groups = find_groups(ten_channels(), EXAMPLE)
    ((_, _, plan),) = course(prune, groups)
    assert plan.num_units == tenths
    found = removed(groups.after(plan), prune, cost_of(groups, prune))
    assert why_over(TrainConfig(schedule="cycles"), prune, found, 10, plan) == "target"


def test_levels_that_coarse_units_have_passed_are_skipped():
    """Units of a tenth: after 0.1, the levels 0.05, 0.07 and 0.1 lie behind."""
    prune = with_(levels=(0.05, 0.07, 0.1, 0.11, 0.25, 0.28, 0.9))
    events = course(prune, find_groups(ten_channels(), EXAMPLE))
    assert [plan.meta["level"] for _, _, plan in events] == [0.05, 0.11, 0.25, 0.9]
    assert [plan.num_units for _, _, plan in events] == [1, 1, 1, 6]


def test_every_event_takes_at_least_one_unit_also_where_a_level_is_less_than_one():
    """ratio 0.01: levels 0.01, 0.0199, ...; each unit passes about ten of them."""
    events = course(with_(ratio=0.01), find_groups(ten_channels(), EXAMPLE))
    assert [plan.num_units for _, _, plan in events] == [1] * 9
    aimed = [plan.meta["level"] for _, _, plan in events]
    # 1 - 0.99^k is first above n / 10 for k = 1, 11, 23, 36, 51, 69, 92, 120, 161
    assert aimed == pytest.approx([1 - 0.99**k for k in (1, 11, 23, 36, 51, 69, 92, 120, 161)])


def test_of_units_an_event_takes_its_share_of_the_living_and_knows_no_level():
    prune = with_(ratio=0.2, ratio_of="units", target=0.5)
    events = course(prune, find_groups(build_model("vgg_tiny", 10, width=0.25), EXAMPLE), events=3)
    assert len(events) == 3
    alive = 112  # 2 * (8 + 16 + 32)
    for _, _, plan in events:
        assert plan.num_units == int(0.2 * alive + 0.5)
        assert plan.meta["level"] is None
        alive -= plan.num_units


def test_layers_that_are_cut_are_left_with_multiples():
    prune = with_(ratio=0.3, round_to=4)
    groups = find_groups(build_model("vgg_tiny", 10, width=0.5), EXAMPLE)
    dense = cost_of(groups, prune)
    events = course(prune, groups, events=4)
    for _, before, plan in events:
        after = before.after(plan)
        assert removed(after, prune, dense) >= plan.meta["level"]
        for name in plan.removed:
            assert after.group(name).size % 4 == 0
    assert len(events) >= 3


# --- floors and ends ----------------------------------------------------------------------------------------------

HALF = {"min_share": 0.5, "min_channels": 1}


def test_an_event_that_the_floors_cut_short_takes_what_they_allow():
    prune = with_(levels=(0.2, 0.9), **HALF)
    groups = find_groups(ten_channels(), EXAMPLE)
    events = course(prune, groups)
    assert [plan.num_units for _, _, plan in events] == [2, 3]
    last = events[-1][2]
    assert last.meta["level"] == 0.9
    assert why_over(TrainConfig(schedule="cycles"), prune, 0.5, 10, last) == "floors"


def test_floors_that_allow_nothing_leave_no_event():
    prune = with_(levels=(0.5, 0.9), **HALF)
    assert [plan.num_units for _, _, plan in course(prune, find_groups(ten_channels(), EXAMPLE))] == [5]
    units = with_(ratio=1.0, ratio_of="units", target=None, **HALF)
    assert [plan.num_units for _, _, plan in course(units, find_groups(ten_channels(), EXAMPLE))] == [5]


TRAIN = TrainConfig(schedule="cycles")


def plan_to(level):
    groups = find_groups(ten_channels(), EXAMPLE)
    return groups.plan({groups.groups[0].name: [0]}, meta={"level": level})


# prune, cap, removed, epoch, level that the last event aimed at -> why the path is over
ENDS = [
    ({"target": 0.5}, None, 0.0, 4, None, ""),
    ({"target": 0.5}, None, 0.51, 10, 0.3, "target"),
    ({"target": 0.5}, None, 0.5, 10, 0.3, "target"),
    ({"target": 0.5}, None, 1 - 0.5, 10, 0.5, "target"),
    ({"target": 0.5}, None, 0.4, 10, 0.3, ""),
    ({"target": 0.5}, None, 0.4, 10, 0.45, "floors"),
    ({"target": 0.5}, 16, 0.4, 10, 0.3, ""),
    ({"target": 0.5}, 15, 0.4, 10, 0.3, "cap"),
    ({"target": 0.5}, 10, 0.4, 10, 0.3, "cap"),
    ({"target": 0.5}, 10, 0.4, 10, 0.45, "floors"),  # a higher cap would not help
    ({"target": 0.5}, 10, 0.6, 10, 0.3, "target"),
    ({"target": 0.5}, 4, 0.0, 4, None, "cap"),
    ({"target": None}, None, 0.99, 10, 0.9, ""),
    ({"levels": (0.3, 0.5)}, None, 0.31, 10, 0.3, ""),
    ({"levels": (0.3, 0.5)}, None, 0.5, 10, 0.5, "target"),
    ({"target": 0.5, "ratio_of": "units"}, None, 0.4, 10, None, ""),
    ({"target": 0.5, "ratio_of": "units"}, None, 0.6, 10, None, "target"),
]


@pytest.mark.parametrize(("values", "cap", "share", "epoch", "aimed", "expected"), ENDS)
def test_a_path_is_over_at_its_target_its_floors_or_its_cap(values, cap, share, epoch, aimed, expected):
    train = dataclasses.replace(TRAIN, epochs=cap)
    last = None if epoch == 4 else plan_to(aimed)
    assert why_over(train, with_(**values), share, epoch, last) == expected
