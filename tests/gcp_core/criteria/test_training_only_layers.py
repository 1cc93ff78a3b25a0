"""Layers that run in training mode only (auxiliary heads): nobody scores them, everything beside them goes on."""

from __future__ import annotations

import copy

import pytest
import torch

from gcp_core.allocators.density import layer_densities
from gcp_core.criteria import build_criterion, criterion_names
from gcp_core.criteria.consumers.readers import readers
from gcp_core.groups import find_groups
from gcp_core.pruning.surgery import apply_plan
from gcp_core.repairs.least_squares import compensate, consumers_of
from tests.oracles.nets import images, lively
from tests.oracles.small_nets import ExtraHead

BATCHES = [(images(6, 8, seed), torch.arange(6) % 5) for seed in (0, 1)]


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return lively(ExtraHead())


def test_their_channels_stay_and_say_why():
    groups = find_groups(net(), BATCHES[0][0])
    assert groups.frozen["side.0"] == "it runs in training mode only"
    assert list(groups.scored_layers()) == ["stem.0", "mid.0", "out.0"]


@pytest.mark.parametrize("name", criterion_names())
def test_every_criterion_scores_a_net_that_has_them(name):
    model = net()
    groups = find_groups(model, BATCHES[0][0])
    scores = build_criterion(name).score(model, groups, BATCHES, torch.Generator().manual_seed(0))
    assert set(scores) == set(groups.scored_layers())
    assert all(bool(torch.isfinite(score).all()) for score in scores.values())


def test_a_reader_that_does_not_run_in_evaluation_mode_says_nothing_of_a_unit():
    model = net()
    assert [reader.layer for reader in readers(model, find_groups(model, BATCHES[0][0]))] == [
        "mid.0",
        "out.0",
        "fc",
    ]


def test_densities_are_measured_of_all_layers_that_are_scored():
    model = net()
    found = layer_densities(model, find_groups(model, BATCHES[0][0]), BATCHES)
    assert list(found) == ["stem.0", "mid.0", "out.0"]


def test_a_repair_leaves_a_reader_that_it_cannot_watch_and_says_so():
    model = net()
    plan = find_groups(model, BATCHES[0][0]).plan({"mid.0": [1, 4]})
    before = copy.deepcopy(model.side.state_dict())
    done = {item.layer: item for item in compensate(model, consumers_of(model, plan), BATCHES, warn=False)}
    assert done["out.0"].done == "all"
    assert done["side.0"].skipped
    assert done["side.0"].done == "it does not run in evaluation mode"
    assert all(torch.equal(value, before[key]) for key, value in model.side.state_dict().items())
    apply_plan(model, plan)
    assert model.side[0].in_channels == 5
    assert all(part.shape == (6, 5) for part in model.train()(BATCHES[0][0]))
