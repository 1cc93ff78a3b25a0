"""Plans: frozen records that survive JSON."""

import dataclasses
import json

import pytest

from gcp_core.errors import PlanError
from gcp_core.groups import find_groups
from gcp_core.plan import Plan
from gcp_core.pruning.selection import Budget, select_channels
from tests.oracles.nets import images, own_net, random_scores


@pytest.fixture(scope="module", params=["coupled", "scatter"])
def plan(request):
    groups = find_groups(own_net("resnet20"), images(), residual=request.param)
    return select_channels(random_scores(groups), groups, Budget(count=20)).with_meta(epoch=3)


def test_a_plan_survives_json_unchanged(plan):
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


def test_a_plan_counts_its_units_and_keeps_what_it_is_told(plan):
    assert plan.num_units == 20 == sum(len(units) for units in plan.removed.values())
    assert plan.meta == {"asked": 20, "removed": 20, "epoch": 3}


def test_a_plan_cannot_be_changed(plan):
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.removed = {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "plan: not JSON"),
        ("[]", "plan: not a plan of version 1 (found 'list')"),
        ('{"version": 9}', "plan: not a plan of version 1 (found 9)"),
        ('{"version": 1, "removed": {}}', "plan: a part of the plan is missing or malformed"),
    ],
)
def test_text_that_is_no_plan_is_refused(text, message):
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    assert str(caught.value).startswith(message)


def test_a_malformed_row_is_refused(plan):
    values = json.loads(plan.to_json())
    values["cuts"][0] = ["features.0.weight"]
    with pytest.raises(PlanError, match="missing or malformed"):
        Plan.from_dict(values)
