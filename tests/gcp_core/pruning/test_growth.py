"""Grown nets compute what they computed, learn, and can be cut back without a trace; the record is replayable."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gcp_core.cost import measure_cost
from gcp_core.errors import PlanError
from gcp_core.groups import find_groups
from gcp_core.plan import Growth, Plan
from gcp_core.pruning.growth import apply_growth, groups_after, new_places, plan_growth
from gcp_core.pruning.surgery import apply_plan
from tests.oracles.nets import images, lively, logits, own_net
from tests.oracles.small_nets import UNITS

LABELS = torch.tensor([0, 3, 1, 4])
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=5e-4),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, 0.1),
    "adamax": lambda p: torch.optim.Adamax(p, 1e-3),
}


def train(model, optimizer, steps, first=0):
    model.train()
    for step in range(first, first + steps):
        optimizer.zero_grad()
        F.cross_entropy(logits(model(images(size=8, seed=step))), LABELS).backward()
        optimizer.step()


def outputs(model, training, size=8):
    with torch.no_grad():
        return logits(copy.deepcopy(model).train(training)(images(size=size, seed=99)))


def every_group(groups, number=2):
    return {group.name: number for group in groups.groups}


def assert_same_function(before, after, size=8):
    for training in (False, True):
        wanted, got = outputs(before, training, size), outputs(after, training, size)
        assert float((wanted - got).abs().max() / wanted.abs().max()) < 1e-12, f"training={training}"


@pytest.mark.parametrize("residual", ["coupled", "inner"])
@pytest.mark.parametrize("name", ["resnet20", "vgg_tiny", "resnet164"])
def test_a_grown_net_computes_the_same_in_both_modes(name, residual):
    model = own_net(name, width=0.125 if name == "resnet164" else 0.25)
    groups = find_groups(model, images(size=8), residual=residual)
    grown = copy.deepcopy(model)
    growth = plan_growth(groups, every_group(groups), seed=3)
    apply_growth(grown, growth)
    assert_same_function(model, grown)
    again = find_groups(grown, images(size=8), residual=residual)
    assert {g.name: g.size for g in again.groups} == {g.name: g.size + 2 for g in groups.groups}
    assert measure_cost(grown, images(size=8)).macs == again.cost()[0] > groups.cost()[0]


@pytest.mark.parametrize("net", list(UNITS), ids=lambda net: net.__name__)
def test_whatever_channels_go_through(net):
    torch.manual_seed(0)
    model = lively(net())
    groups = find_groups(model, images(size=8))
    for group in groups.groups:
        grown = copy.deepcopy(model)
        apply_growth(grown, plan_growth(groups, {group.name: 2}, seed=0))
        assert_same_function(model, grown)


def test_a_pruned_net_grows_back_to_its_old_shapes():
    model = own_net("resnet20")
    groups = find_groups(model, images(size=8))
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    plan = groups.plan({group.name: [0, group.size - 1] for group in groups.groups})
    apply_plan(model, plan)
    before = copy.deepcopy(model)
    apply_growth(model, plan_growth(groups.after(plan), every_group(groups), seed=0))
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == shapes
    assert_same_function(before, model)


def test_new_filters_are_as_large_as_the_old_ones_and_their_readers_start_at_zero():
    model = own_net("vgg_tiny")
    old = {n: t.clone() for n, t in model.state_dict().items()}
    groups = find_groups(model, images(size=8))
    apply_growth(model, plan_growth(groups, {"features.3": 200}, seed=0))
    new = model.state_dict()
    assert torch.equal(new["features.3.weight"][:8], old["features.3.weight"])
    drawn = new["features.3.weight"][8:]
    assert float(drawn.square().mean().sqrt()) == pytest.approx(
        float(old["features.3.weight"].square().mean().sqrt()), rel=0.05
    )
    assert abs(float(drawn.mean())) < 0.05 * float(drawn.std())
    assert float(new["features.7.weight"][:, 8:].abs().max()) == 0
    assert torch.equal(new["features.7.weight"][:, :8], old["features.7.weight"])
    for short, value in (("weight", 1), ("running_var", 1), ("bias", 0), ("running_mean", 0)):
        assert new[f"features.4.{short}"][8:].tolist() == [value] * 200, short


def test_from_the_first_step_on_the_zeros_learn_and_then_the_filters():
    model = own_net("vgg_tiny")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    train(model, optimizer, 1)
    groups = find_groups(model, images(size=8))
    apply_growth(model, plan_growth(groups, {"features.3": 2}, seed=0), optimizer)
    train(model, optimizer, 1, first=1)
    columns = model.get_submodule("features.7").weight[:, 8:].detach()
    assert float(columns.abs().min()) > 0
    filters = model.get_submodule("features.3").weight[8:].detach().clone()
    train(model, optimizer, 1, first=2)
    assert not torch.equal(model.get_submodule("features.3").weight[8:], filters)


# --- the optimiser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_growing_and_cutting_back_leaves_model_and_optimiser_as_they_were(name):
    model = own_net("resnet20")
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 2)
    twin = copy.deepcopy(model)
    twin_optimizer = OPTIMIZERS[name](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    groups = find_groups(model, images(size=8))
    growth = plan_growth(groups, every_group(groups, 3), seed=1)
    apply_growth(model, growth, optimizer)
    apply_plan(model, growth.inverse(), optimizer)
    for (key, ours), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    train(model, optimizer, 2, first=2)
    train(twin, twin_optimizer, 2, first=2)
    for (key, ours), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_living_weights_keep_their_state_and_new_ones_take_steps_as_long(name):
    model = own_net("vgg_tiny")
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    old = model.get_submodule("features.3").weight
    before = {k: v.clone() for k, v in optimizer.state[old].items() if isinstance(v, torch.Tensor)}
    groups = find_groups(model, images(size=8))
    apply_growth(model, plan_growth(groups, {"features.3": 2}, seed=0), optimizer)
    new = model.get_submodule("features.3").weight
    assert old not in optimizer.state
    assert sum(p is new for group in optimizer.param_groups for p in group["params"]) == 1
    for key, value in optimizer.state[new].items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(before.get(key, value))), key
            continue
        assert torch.equal(value[:8], before[key]), key
        first_moment = key in ("momentum_buffer", "exp_avg", "grad_avg")
        expected = 0.0 if first_moment else float(before[key].mean())
        assert torch.allclose(value[8:], torch.tensor(expected, dtype=torch.float64)), key
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, optimizer, 1, first=3)
    moved = (model.get_submodule("features.7").weight - weights["features.7.weight"]).detach().abs()
    assert float(moved[:, 8:].mean()) < 4 * float(moved[:, :8].mean())


def test_gradients_of_new_weights_are_zero_and_parameter_groups_keep_their_order():
    model = own_net("vgg_tiny")
    optimizer = torch.optim.SGD(
        [{"params": list(model.parameters())[:6]}, {"params": list(model.parameters())[6:], "lr": 0.5}], 0.1
    )
    F.cross_entropy(model(images(size=8)), LABELS).backward()
    groups = find_groups(model, images(size=8))
    apply_growth(model, plan_growth(groups, every_group(groups), seed=0), optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    assert [len(g["params"]) for g in optimizer.param_groups] == [6, len(held) - 6]
    assert float(model.get_submodule("features.3").weight.grad[8:].abs().max()) == 0
    assert (
        model.get_submodule("features.3").weight.grad.shape == model.get_submodule("features.3").weight.shape
    )


# --- the record -------------------------------------------------------------------------------------------------------


def test_a_record_says_all_and_replays_to_the_same_bits():
    model = own_net("resnet20")
    twin = copy.deepcopy(model)
    groups = find_groups(model, images(size=8))
    growth = plan_growth(groups, every_group(groups), seed=5).with_meta(epoch=7)
    text = growth.to_json()
    assert json.loads(text)["kind"] == "growth"
    assert Growth.from_json(text) == growth
    assert growth.num_units == 2 * len(groups.groups)
    apply_growth(model, growth)
    apply_growth(twin, Growth.from_json(text))
    for (key, ours), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


def test_another_seed_draws_other_filters_and_no_global_chance_is_used():
    drawn = []
    for seed in (0, 0, 1):
        model = own_net("vgg_tiny")
        state = torch.get_rng_state()
        apply_growth(model, plan_growth(find_groups(model, images(size=8)), {"features.3": 1}, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(model.get_submodule("features.3").weight[8:].detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("units", "behind", "expected"),
    [
        ([0, 1, 2], {2: 2}, (3, 4)),
        ([0, 1, 2], {0: 1}, (1,)),
        ([0, 0, 1, 1], {0: 1, 1: 1}, (2, 3, 6, 7)),
        ([0, 1, 0, 1], {1: 1}, (2, 5)),
        ([-1, 0, -1], {0: 3}, (2, 3, 4)),
        ([0, 1], {7: 1}, ()),
    ],
)
def test_new_units_come_behind_the_last_living_one(units, behind, expected):
    assert new_places(np.array(units), behind) == expected


def test_channels_last_is_kept():
    model = own_net("vgg_tiny").to(memory_format=torch.channels_last)
    apply_growth(model, plan_growth(find_groups(model, images(size=8)), {"features.3": 2}, seed=0))
    weight = model.get_submodule("features.3").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_units_of_a_scattered_stream_do_not_grow():
    model = own_net("resnet20")
    groups = find_groups(model, images(size=8), residual="scatter")
    with pytest.raises(
        PlanError, match=r"layer1.0.conv2: units that are written .* \(use residual: coupled or inner\)"
    ):
        plan_growth(groups, {"layer1.0.conv2": 1}, seed=0)
    before = copy.deepcopy(model)
    apply_growth(model, plan_growth(groups, {"layer1.0.conv1": 1}, seed=0))
    assert_same_function(before, model)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"features.33": 1}, r"features.33: no such group \(did you mean"),
        ({"features.3": -1}, "features.3: -1 is not a whole number of units >= 0"),
        ({"features.3": 1.5}, "features.3: 1.5 is not a whole number"),
        ({"features.3": True}, "features.3: True is not a whole number"),
    ],
)
def test_what_cannot_be_added_is_refused(added, message):
    with pytest.raises(PlanError, match=message):
        plan_growth(find_groups(own_net("vgg_tiny"), images(size=8)), added, seed=0)


@pytest.mark.parametrize("fault", ["twice", "other net", "optimizer"])
def test_a_growth_that_does_not_fit_leaves_all_as_it_was(fault):
    model = own_net("vgg_tiny")
    groups = find_groups(model, images(size=8))
    growth = plan_growth(groups, every_group(groups), seed=0)
    optimizer = None
    if fault == "twice":
        apply_growth(model, growth)
        message = "the growth expects size 8 along dimension 0, the model has shape"
    elif fault == "other net":
        model = own_net("resnet20")
        message = "the growth needs a tensor the model does not have"
    else:
        optimizer = torch.optim.LBFGS(model.parameters())
        message = "optimizer: LBFGS is not supported"
    before = {n: (id(p), p.detach().clone()) for n, p in model.named_parameters()}
    with pytest.raises(PlanError, match=message):
        apply_growth(model, growth, optimizer)
    assert all(before[n][0] == id(p) and torch.equal(before[n][1], p) for n, p in model.named_parameters())


def test_an_error_in_the_middle_undoes_what_was_done(monkeypatch):
    model = own_net("vgg_tiny")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer, 1)
    groups = find_groups(model, images(size=8))
    growth = plan_growth(groups, every_group(groups), seed=0)
    originals = dict(model.named_parameters())  # held, so that no id is used again
    before = {n: id(p) for n, p in originals.items()}
    state = {id(p): {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    monkeypatch.setattr(nn.Linear, "__setattr__", _refuse_in_features)
    with pytest.raises(RuntimeError, match="no more"):
        apply_growth(model, growth, optimizer)
    monkeypatch.undo()
    assert {n: id(p) for n, p in model.named_parameters()} == before
    assert model.get_submodule("features.3").out_channels == 8
    assert sorted(state) == sorted(id(p) for p in optimizer.state)
    assert sorted(before.values()) == sorted(id(p) for p in optimizer.param_groups[0]["params"])
    for p, own in optimizer.state.items():
        assert all(torch.equal(own[k], v) for k, v in state[id(p)].items())
    train(model, optimizer, 1, first=1)


def _refuse_in_features(self, name, value):
    """Refuses to grow; what undoes it sets what is there already."""
    if name == "in_features" and value != self.in_features:
        raise RuntimeError("no more")
    nn.Module.__setattr__(self, name, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "growth: not JSON"),
        ('{"version": 1}', "growth: not a growth of version 1"),
        ('{"kind": "growth", "version": 2}', "growth: not a growth of version 1"),
        ('{"kind": "growth", "version": 1}', "growth: a part of the growth is missing or malformed"),
        ("[]", "growth: not a growth of version 1"),
    ],
)
def test_a_damaged_record_is_refused(text, message):
    with pytest.raises(PlanError, match=message):
        Growth.from_json(text)


# --- as a part of an event's plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", ["coupled", "inner"])
@pytest.mark.parametrize("name", ["vgg_tiny", "resnet20"])
def test_an_event_that_cuts_and_grows_replays_and_its_groups_are_those_of_the_new_net(name, residual):
    model, example = own_net(name), images(size=8)[:1]
    groups = find_groups(model, example, residual=residual)
    first, last = groups.groups[0], groups.groups[-1]
    plan = groups.plan({first.name: [0, 2], last.name: [1]})
    growth = plan_growth(groups.after(plan), {last.name: 2, groups.groups[1].name: 1}, seed=3)
    plan = dataclasses.replace(plan, growth=growth)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    twin = copy.deepcopy(model)
    apply_plan(model, plan)
    apply_plan(twin, again)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))
    found, known = find_groups(model, example, residual=residual), groups_after(groups, plan)
    assert [g.size for g in known.groups] == [g.size for g in found.groups]
    assert [g.members for g in known.groups] == [g.members for g in found.groups]
    assert (
        known.cost()
        == found.cost()
        == (measure_cost(model, example).macs, measure_cost(model, example).params)
    )
    for mine, theirs in zip(known.layout.axes, found.layout.axes, strict=True):
        assert (mine.tensor, mine.dim) == (theirs.tensor, theirs.dim)
        assert mine.units.tolist() == theirs.units.tolist()
    assert [g.original_size for g in known.groups] == [g.original_size for g in groups.groups]


def test_a_plan_that_grows_has_a_version_of_its_own_and_another_effect():
    plan = Plan(removed={"a": (0,)})
    growing = dataclasses.replace(plan, growth=Growth({"a": 1}, seed=1))
    assert (plan.to_dict()["version"], growing.to_dict()["version"]) == (1, 2)
    assert "growth" not in plan.to_dict()
    assert (
        growing.effect()
        != plan.effect()
        != dataclasses.replace(growing, growth=Growth({"a": 1}, seed=2)).effect()
    )
    with pytest.raises(PlanError, match="not a plan of version 1"):
        Plan.from_dict({**growing.to_dict(), "version": 1})


def test_a_growth_that_does_not_fit_undoes_the_cuts_of_its_event():
    model = own_net("vgg_tiny")
    groups = find_groups(model, images(size=8)[:1])
    plan = groups.plan({groups.groups[0].name: [0]})
    growth = plan_growth(groups, {groups.groups[0].name: 1}, seed=0)  # of the whole net, not of the cut one
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PlanError):
        apply_plan(model, dataclasses.replace(plan, growth=growth))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
