"""The threshold allocation on made-up accuracies, and once on a real net that is cut and compensated."""

from __future__ import annotations

import copy

import pytest
import torch

from gcp_core.allocators.threshold import compensation_threshold, falling_thresholds, threshold_allocation
from gcp_core.criteria.consumers.compensation import compensation
from gcp_core.errors import ConfigError
from gcp_core.groups import find_groups
from gcp_core.pruning.surgery import apply_plan
from gcp_core.repairs.least_squares import compensate, consumers_of
from gcp_core.testing import criterion_case
from tests.oracles.nets import images, own_net


def test_thresholds_fall_evenly_to_the_tolerated_accuracy():
    assert falling_thresholds(90.0, 88.0, 4) == [89.5, 89.0, 88.5, 88.0]


def by_trying(groups, most, accuracy_after, baseline, tolerated):
    removed = dict.fromkeys(groups, 0)
    for name, threshold in zip(groups, falling_thresholds(baseline, tolerated, len(groups))):
        fine = [
            n for n in range(most[name] + 1) if n == 0 or accuracy_after({**removed, name: n}) >= threshold
        ]
        removed[name] = max(fine)
    return removed


@pytest.mark.parametrize("slope", [(0.1, 0.3, 0.05), (1.0, 0.0, 2.0), (0.01, 0.01, 0.01)])
def test_each_group_loses_the_most_that_its_threshold_allows(slope):
    groups, most = ["a", "b", "c"], {"a": 9, "b": 16, "c": 0}
    cost = dict(zip(groups, slope))

    def accuracy_after(removed):
        return 90 - sum(cost[name] * number for name, number in removed.items())

    found = threshold_allocation(groups, most, accuracy_after, baseline=90.0, tolerated=88.0)
    assert found.removed == by_trying(groups, most, accuracy_after, 90.0, 88.0)
    assert found.accuracy == pytest.approx(accuracy_after(found.removed))
    assert found.evaluations <= 4 + 5 + 0, "binary search: at most ceil(log2(most + 1)) each"


def test_a_group_whose_smallest_cut_fails_loses_nothing():
    found = threshold_allocation(["a"], {"a": 4}, lambda removed: 10.0, baseline=90.0, tolerated=89.0)
    assert (found.removed, found.accuracy) == ({"a": 0}, 90.0)


def test_a_net_is_cut_and_compensated_at_every_trial():
    model = own_net("vgg_tiny", width=0.5).eval()
    x = images(24, 8)
    batches = [(x, torch.zeros(24))]
    groups = find_groups(model, x)
    orders = compensation().orders(model, groups, batches)
    wanted = model(x).argmax(1)

    def accuracy_after(removed):
        plan = groups.plan(
            {name: orders[name].order[len(orders[name].order) - n :] for name, n in removed.items() if n}
        )
        small = copy.deepcopy(model)
        compensate(small, consumers_of(small, plan), batches)
        apply_plan(small, plan)
        with torch.no_grad():
            return 100 * float((small(x).argmax(1) == wanted).double().mean())

    names = [group.name for group in groups.groups[-2:]]
    most = {name: groups.group(name).size - 2 for name in names}
    found = threshold_allocation(names, most, accuracy_after, baseline=100.0, tolerated=90.0)
    assert found.accuracy >= 90
    assert sum(found.removed.values()) > 0
    assert accuracy_after(found.removed) == found.accuracy


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"tolerated: 91.0 is above the baseline of 90.0"):
        threshold_allocation(["a"], {"a": 1}, lambda removed: 90.0, baseline=90.0, tolerated=91.0)
    with pytest.raises(ConfigError, match="b: no number of units that it may lose"):
        threshold_allocation(["a", "b"], {"a": 1}, lambda removed: 90.0, baseline=90.0, tolerated=80.0)


def test_the_search_leaves_the_warning_of_too_few_rows_to_the_repair(caplog):
    case = criterion_case()
    few = [(images[:2, :, :4, :4], labels[:2]) for images, labels in case.batches[:1]]
    compensation_threshold().look(case.model, case.groups, few, torch.Generator())
    assert "rows for" not in caplog.text
    compensate(case.model, [("4", [0, 1, 2])], few)
    assert "rows for" in caplog.text


def test_a_search_that_tolerates_everything_takes_more_than_one_that_tolerates_nothing():
    model = own_net("vgg_tiny").eval()
    groups = find_groups(model, images(size=8))
    many = torch.cat([images(size=8, seed=seed) for seed in range(8)])
    with torch.no_grad():
        batches = [(many, model(many).argmax(1))]  # it is right about all of them
    one, two = (
        compensation_threshold(tolerated).look(model, groups, batches, torch.Generator())
        for tolerated in (100.0, 0.0)
    )
    last = groups.groups[-1]
    assert one.removed[last.name] == last.size - 1, "the line is at nothing by then"
    assert 0 < sum(two.removed.values()) < sum(one.removed.values())
    assert min(one.forwards, two.forwards) > 1
