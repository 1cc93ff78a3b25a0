"""Modules that are called more than once: what they read or make stays whole, everything else can be removed."""

import pytest
import torch

from gcp_core.cost import measure_cost
from gcp_core.groups import find_groups
from gcp_core.groups.trace import AGAIN
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.relevance import feature_relevance_scores
from tests.oracles.nets import images, lively, random_scores, removed_against_gated
from tests.oracles.shared_nets import UNITS, SharedMlp, SharedNorm, TwoMlps

X = images(size=8)


def build(kind):
    torch.manual_seed(0)
    return lively(kind())


@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_the_units_are_those_that_no_shared_module_reads_or_makes(kind):
    assert find_groups(build(kind), X).num_units == UNITS[kind]


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: kind.__name__)
def test_removal_equals_gating_and_the_predicted_cost_counts_every_call(kind, residual):
    model = build(kind)
    for seed in range(3):
        groups = find_groups(model, X, residual=residual)
        plan = select_channels(random_scores(groups, seed), groups, Budget(ratio=0.25, min_channels=1))
        difference, moved = removed_against_gated(model, plan, X)
        assert difference <= 1e-12
        assert moved > 1e-6 or plan.num_units == 0
        apply_plan(model, plan)
        cost = measure_cost(model, X)
        assert groups.cost(plan.removed) == (cost.macs, cost.params)


def test_the_reason_is_said_of_what_it_reads_and_of_what_it_makes():
    assert find_groups(build(SharedMlp), X).frozen == {
        "wide.0": AGAIN,
        "mlp.0": AGAIN,
        "mlp.2": AGAIN,
        "fc": "its channels are the model's output",
    }
    norm = find_groups(build(SharedNorm), X, residual="scatter")
    assert (norm.frozen["first"], norm.frozen["back"]) == (AGAIN, AGAIN)


def test_scores_are_those_of_the_network_with_a_module_for_each_call():
    torch.manual_seed(1)
    shared, twice = build(SharedMlp), build(TwoMlps)
    twice.load_state_dict(
        {**shared.state_dict(), **{f"other.{k}": v for k, v in shared.mlp.state_dict().items()}}
    )
    batches = [(X, torch.arange(len(X)) % 5)]
    ours, known = (
        feature_relevance_scores(net.eval(), batches, 5, layers=["stem.0", "out.0"])
        for net in (shared, twice)
    )
    for layer in ("stem.0", "out.0"):
        assert torch.allclose(ours[layer], known[layer], rtol=1e-12, atol=0)
        assert 0 < float(ours[layer].min()) < float(ours[layer].max())
