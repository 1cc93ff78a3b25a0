"""After surgery the optimiser goes on as if the removed weights had always been masked."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from gcp_core.errors import PlanError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan, gate_channels
from tests.oracles.nets import images, own_net, random_scores

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=5e-4),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, 1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.05),
    "amsgrad": lambda p: torch.optim.AdamW(p, 1e-3, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
}
LABELS = torch.tensor([0, 3, 1, 7])


def train(model, optimizer, steps, first=0):
    model.train()
    for step in range(first, first + steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images(size=8, seed=step)), LABELS).backward()
        optimizer.step()


def trained(name, make, steps=3):
    model = own_net(name)
    optimizer = make(model.parameters())
    train(model, optimizer, steps)
    return model, optimizer


def random_plan(model, residual="coupled"):
    groups = find_groups(model, images(size=8), residual=residual)
    return select_channels(random_scores(groups), groups, Budget(ratio=0.3))


def relative_difference(a, b):
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-3))


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_ten_steps_after_surgery_equal_those_of_the_masked_twin(name, residual):
    make = OPTIMIZERS[name]
    model, optimizer = trained("resnet20", make)
    twin = copy.deepcopy(model)
    twin_optimizer = make(twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = random_plan(model, residual)
    apply_plan(model, plan, optimizer)
    train(model, optimizer, 10, first=3)
    with gate_channels(twin, plan):
        train(twin, twin_optimizer, 10, first=3)
    apply_plan(twin, plan, twin_optimizer)
    for (key, mine), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert relative_difference(mine.double(), theirs.double()) <= 1e-12, key
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        state, other = optimizer.state[mine], twin_optimizer.state[theirs]
        assert state.keys() == other.keys()
        assert all(
            relative_difference(state[k], other[k]) <= 1e-11 for k in state if torch.is_tensor(state[k])
        )


def test_dropping_the_state_instead_is_far_off():
    # The twin test above can fail: a fresh optimiser after surgery differs in the first digits.
    model, optimizer = trained("resnet20", OPTIMIZERS["sgd"])
    plan = random_plan(model)
    fresh = copy.deepcopy(model)
    apply_plan(fresh, plan)
    apply_plan(model, plan, optimizer)
    train(model, optimizer, 10, first=3)
    train(fresh, OPTIMIZERS["sgd"](fresh.parameters()), 10, first=3)
    assert relative_difference(fresh.fc.weight, model.fc.weight) > 0.01


def test_a_biased_conv_before_a_norm_gives_the_same_outputs():
    # The bias has a gradient of rounding errors, which Adam blows up; outputs do not depend on it in training mode.
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.Flatten(),
    ]
    model = nn.Sequential(*layers, nn.Linear(128, 10)).double()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    train(model, optimizer, 3)
    twin = copy.deepcopy(model)
    twin_optimizer = OPTIMIZERS["adam"](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = random_plan(model)
    apply_plan(model, plan, optimizer)
    train(model, optimizer, 10, first=3)
    with gate_channels(twin, plan):
        train(twin, twin_optimizer, 10, first=3)
        expected = twin(images(size=8, seed=99))
    assert relative_difference(model(images(size=8, seed=99)), expected) <= 1e-10


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_parameter_is_in_the_optimizer_once_and_nothing_else(name):
    model = own_net("resnet20")
    norms = [p for p in model.parameters() if p.dim() == 1]
    others = [p for p in model.parameters() if p.dim() > 1]
    optimizer = OPTIMIZERS[name]([{"params": others}, {"params": norms, "weight_decay": 0.0}])
    train(model, optimizer, 2)
    apply_plan(model, random_plan(model), optimizer)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    living = {id(p) for p in model.parameters()}
    assert len(held) == len(set(held)) == len(living)
    assert set(held) == living == {id(p) for p in optimizer.state}
    assert all(p.dim() == 1 for p in optimizer.param_groups[1]["params"])
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    for parameter, state in optimizer.state.items():
        tensors = [v for v in state.values() if torch.is_tensor(v) and v.dim() > 0]
        assert all(v.shape == parameter.shape for v in tensors)


def test_parameters_move_after_surgery():
    model, optimizer = trained("vgg_tiny", OPTIMIZERS["sgd"])
    apply_plan(model, random_plan(model), optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 1)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_schedulers_and_averaged_copies_keep_working():
    model = own_net("resnet20")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    averaged = AveragedModel(model)
    train(model, optimizer, 1)
    averaged.update_parameters(model)
    scheduler.step()
    plan = random_plan(model)
    apply_plan(model, plan, optimizer)
    apply_plan(averaged.module, plan)
    before = averaged.module.fc.weight.clone()
    train(model, optimizer, 1)
    scheduler.step()
    averaged.update_parameters(model)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 4)
    assert not torch.equal(averaged.module.fc.weight, before)
    assert averaged(images(size=8)).shape == (4, 10)


class Breaks(dict):
    """A parameter group that refuses its new parameters."""

    def __setitem__(self, key, value):
        if key == "params" and not hasattr(self, "armed"):
            self.armed = True
            raise RuntimeError("out of memory")
        super().__setitem__(key, value)


@pytest.mark.parametrize("residual", ["coupled", "scatter"])
def test_a_failure_in_the_middle_leaves_model_and_optimizer_as_they_were(residual):
    model, optimizer = trained("resnet20", OPTIMIZERS["adam"])
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    weights = copy.deepcopy(model.state_dict())
    state = {id(p): dict(values) for p, values in optimizer.state.items()}
    plan = random_plan(model, residual)
    optimizer.param_groups[0] = Breaks(optimizer.param_groups[0])
    with pytest.raises(RuntimeError, match="out of memory"):
        apply_plan(model, plan, optimizer)
    assert all(module is modules[name] for name, module in model.named_modules())
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert state.keys() == {id(p) for p in optimizer.state}
    assert all(optimizer.state[p][k] is v for p in model.parameters() for k, v in state[id(p)].items())
    assert model.conv1.out_channels == 4
    train(model, optimizer, 1)
    apply_plan(model, plan, optimizer)  # and it still fits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m: torch.optim.LBFGS(m.parameters()),
            "optimizer: LBFGS is not supported (supported: SGD, Adam",
        ),
        (
            lambda m: OPTIMIZERS["sgd"](own_net("vgg_tiny").parameters()),
            "optimizer: it holds none of the model's",
        ),
    ],
)
def test_optimizers_that_cannot_follow_are_refused_before_anything_changes(make, message):
    model = own_net("vgg_tiny")
    parameters = list(model.parameters())
    with pytest.raises(PlanError) as caught:
        apply_plan(model, random_plan(model), make(model))
    assert message in str(caught.value)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_state_that_does_not_follow_the_weight_is_refused():
    model, optimizer = trained("vgg_tiny", OPTIMIZERS["sgd"])
    optimizer.state[model.features[0].weight]["row_mean"] = torch.zeros(8)
    with pytest.raises(
        PlanError, match=r"features.0.weight: state 'row_mean' of shape \(8,\) does not follow"
    ):
        apply_plan(model, find_groups(model, images(size=8)).plan({"features.0": [1]}), optimizer)


def production_net():
    """float32, channels_last; norms as an initialisation leaves them, so that twins differ by rounding alone."""
    torch.manual_seed(0)
    return build_model("resnet20", 10, width=0.25).to(memory_format=torch.channels_last)


def production_steps(model, optimizer, steps, first, autocast):
    model.train()
    for step in range(first, first + steps):
        x = images(size=8, seed=step).float().to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(x), LABELS)
        loss.backward()
        optimizer.step()


def production_twins(autocast, steps, transplant=True):
    """Parameters by name of the model that was cut after three steps, and of its masked twin, cut at the end."""
    make = OPTIMIZERS["nesterov"]
    model = production_net()
    optimizer = make(model.parameters())
    production_steps(model, optimizer, 3, 0, autocast)
    twin = copy.deepcopy(model)
    twin_optimizer = make(twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = random_plan(model, "coupled")
    apply_plan(model, plan, optimizer if transplant else None)
    optimizer = optimizer if transplant else make(model.parameters())
    production_steps(model, optimizer, steps, 3, autocast)
    with gate_channels(twin, plan):
        production_steps(twin, twin_optimizer, steps, 3, autocast)
    apply_plan(twin, plan, twin_optimizer)
    return dict(model.state_dict()), dict(twin.state_dict())


def distance(one, other):
    """Euclidean distance over all floating tensors, as a share of the other's length."""
    pairs = [(one[k].double(), other[k].double()) for k in one if one[k].is_floating_point()]
    apart = sum(float((a - b).square().sum()) for a, b in pairs)
    return (apart / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


@pytest.mark.parametrize(
    ("autocast", "steps", "allowed"),
    [
        # One rounding of float32 is 6e-8 of a value. In ten steps of training such differences grow to 5e-7 here; a
        # fresh optimiser is 0.28 away. 1e-5 leaves room for other kernels, and none for a wrong state.
        (False, 10, 1e-5),
        # One rounding of bfloat16 is 2e-3 to 4e-3 of a value, and in three steps the weights move by 0.09 of their
        # length: 3.5e-4, times five for growth. A fresh optimiser is 0.09 away.
        (True, 3, 2e-3),
    ],
    ids=["float32", "bfloat16"],
)
def test_in_production_precision_and_memory_format_the_twins_stay_together_as_far_as_rounding_lets_them(
    autocast, steps, allowed
):
    mine, theirs = production_twins(autocast, steps)
    assert all(a.shape == theirs[k].shape and a.dtype == theirs[k].dtype for k, a in mine.items())
    assert distance(mine, theirs) <= allowed
    weight = mine["layer2.0.conv1.weight"]
    assert weight.dtype == torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last)
    fresh, masked = production_twins(autocast, steps, transplant=False)
    assert distance(fresh, masked) > 10 * allowed


def test_the_twins_of_the_bfloat16_test_compute_in_bfloat16():
    seen = []
    model = production_net()
    model.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    production_steps(model, OPTIMIZERS["sgd"](model.parameters()), 1, 0, True)
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
