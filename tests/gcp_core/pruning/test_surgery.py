"""Surgery: the smaller model computes what the gated one does; all or nothing."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gcp_core.errors import ModelError, PlanError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.plan import Plan
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan, gate_channels, remove_channels
from tests.oracles.nets import images, own_net, random_scores, removed_against_gated

ARCHIVE = Path(__file__).parents[2] / "data" / "vgg16bn_thin_case.npz"
CASES = [("vgg16_bn", 0.125, 32), ("vgg_tiny", 0.25, 16), ("resnet20", 0.5, 16), ("resnet56", 0.25, 8)]


def random_plan(model, x, residual="coupled", share=0.3, seed=0):
    groups = find_groups(model, x, residual=residual)
    return select_channels(random_scores(groups, seed), groups, Budget(ratio=share))


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize(("name", "width", "size"), CASES)
def test_the_removed_model_equals_the_gated_one_in_eval_and_training(name, width, size, residual):
    model, x = own_net(name, width), images(size=size)
    # Two events in a row: the second one starts from an already pruned (and scattered) model.
    for seed in range(2):
        plan = random_plan(model, x, residual, seed=seed)
        difference, moved = removed_against_gated(model, plan, x)
        assert difference <= 1e-12
        assert moved > 1e-3
        apply_plan(model, plan)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
def test_in_production_precision_and_memory_format_they_are_equal_up_to_rounding(residual, autocast):
    model = own_net("resnet20", 0.5).float().to(memory_format=torch.channels_last)
    x = images(size=16).float().to(memory_format=torch.channels_last)
    # Sums of fewer terms are taken in another order. One rounding is 6e-8 of a value in float32 and 4e-3 in bfloat16;
    # over the 20 layers they add up like a random walk, so by sqrt(20) < 5: three times that is allowed.
    allowed = 3 * 5 * (2**-8 if autocast else 2**-24)
    for seed in range(2):
        plan = random_plan(model, x, residual, seed=seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            difference, moved = removed_against_gated(model, plan, x)
        assert difference <= allowed < moved
        apply_plan(model, plan)
        assert model.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_bottleneck_blocks_too():
    model, x = own_net("resnet164", 0.125), images(size=8)
    for residual in ("coupled", "scatter", "inner"):
        assert removed_against_gated(model, random_plan(model, x, residual), x)[0] <= 1e-12


def test_a_gate_zeroes_nothing_else_and_goes_away():
    model, x = own_net("resnet20").eval(), images()
    plan = random_plan(model, x)
    with torch.no_grad():
        before = model(x)
        with gate_channels(model, plan):
            gated = model(x)
        assert torch.equal(model(x), before)
        with gate_channels(model, Plan()):
            assert torch.equal(model(x), before)
    assert not torch.allclose(gated, before)
    assert all(not module._forward_hooks for module in model.modules())


def test_a_biased_conv_without_a_norm_is_gated_after_its_bias():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 5)
    ).double()
    x = images(size=8)
    plan = random_plan(model, x)
    assert {g.module for g in plan.gates} <= {"0", "2"}
    difference, moved = removed_against_gated(model, plan, x)
    assert difference <= 1e-12 < moved


def test_logits_after_the_published_selection():
    archive = np.load(ARCHIVE)
    model = build_model("vgg16_bn", 10, width=0.125)
    model.load_state_dict({k[3:]: torch.from_numpy(archive[k]) for k in archive.files if k.startswith("sd/")})
    model = model.double().eval()
    x = torch.from_numpy(archive["x"]).double()
    convs = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    channels = {f"features.{index}": [] for index in convs}
    for channel, column in archive["round1/order"].tolist():
        channels[f"features.{convs[12 - column]}"].append(channel)
    channels["classifier.0"] = archive["round1/fc_hidden"].tolist()
    plan = remove_channels(model, channels, example_input=x, strict=True)
    assert plan.num_units == 68
    with torch.no_grad():
        logits = model(x).numpy()
    published = archive["round1/logits"]
    assert np.abs(logits - published).max() <= 2e-5 * np.abs(published).max()


@pytest.mark.parametrize("residual", ["coupled", "scatter"])
def test_a_history_of_plans_replayed_from_scratch_gives_the_same_bits(residual):
    x = images(size=16)
    model = own_net("resnet20", seed=5)
    start = copy.deepcopy(model.state_dict())
    history = []
    for seed in range(3):
        plan = random_plan(model, x, residual, share=0.15, seed=seed)
        apply_plan(model, plan)
        history.append(plan.to_json())
    again = own_net("resnet20", seed=6)
    again.load_state_dict(start)
    for text in history:
        apply_plan(again, Plan.from_json(text))
    state = model.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    third = own_net("resnet20", seed=7)
    for text in history:
        apply_plan(third, Plan.from_json(text))
    third.load_state_dict(state)
    assert torch.equal(third.eval()(x), model.eval()(x))


def test_attributes_follow_and_the_channels_last_format_stays():
    model, x = own_net("resnet20").to(memory_format=torch.channels_last), images()
    apply_plan(model, random_plan(model, x))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels) == tuple(module.weight.shape[:2])
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_mean)
        elif isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert not any(w.is_contiguous() for w in kernels if w.shape[1] > 1)


def test_gradients_and_frozen_parameters_are_carried_over():
    model, x = own_net("vgg_tiny"), images(size=16)
    model.features[0].weight.requires_grad_(False)
    model(x).sum().backward()
    plan = random_plan(model, x)
    keep = [i for i in range(8) if i not in plan.removed["features.0"]]
    bias_grad = model.features[1].bias.grad.clone()
    apply_plan(model, plan)
    assert torch.equal(model.features[1].bias.grad, bias_grad[keep])
    assert not model.features[0].weight.requires_grad


def test_only_the_whole_unit_of_a_tied_stage_goes():
    model, x = own_net("resnet20"), images()
    plan = remove_channels(model, {"layer1.1.conv2": [1], "conv1": [2]}, example_input=x)
    assert plan.removed == {"layer1.0.conv2": (1, 2)}
    assert model.conv1.out_channels == model.layer1[2].conv2.out_channels == 2
    assert plan.skipped == ()


def test_what_cannot_go_is_skipped_with_its_reason():
    model, x = own_net("vgg_tiny"), images()
    plan = remove_channels(model, {"classifier.0": [3], "features.0": range(8)}, example_input=x)
    assert [(s.layer, s.channel) for s in plan.skipped] == [("classifier.0", 3), ("features.0", 7)]
    assert plan.skipped[0].reason == "frozen: its channels are the model's output"
    assert plan.skipped[1].reason == "floor: it is the last unit of its group"
    assert plan.removed == {"features.0": tuple(range(7))}


def test_a_part_of_a_grouped_unit_is_skipped():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=8), nn.Flatten(), nn.Linear(16 * 36, 5)
    ).double()
    x = images(size=8)
    plan = remove_channels(model, {"1": [0, 4, 5]}, example_input=x)
    assert [(s.channel, s.reason) for s in plan.skipped] == [
        (0, "part of a unit that also holds channels [1]")
    ]
    assert (model[0].out_channels, model[1].in_channels, model[1].out_channels, model[1].groups) == (
        14,
        14,
        14,
        7,
    )
    assert model(x).shape == (4, 5)


def test_strict_removal_raises_and_changes_nothing():
    model, x = own_net("vgg_tiny"), images()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        PlanError, match=r"classifier.0: channel 3 cannot be removed: frozen: its channels are the"
    ):
        remove_channels(model, {"features.0": [1], "classifier.0": [3]}, example_input=x, strict=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"feature.0": [0]}, "feature.0: no conv or linear layer of this name (did you"),
        ({"features.0": [8]}, "no channel 8"),
    ],
)
def test_layers_and_channels_that_do_not_exist_are_refused(channels, message):
    with pytest.raises(PlanError) as caught:
        remove_channels(own_net("vgg_tiny"), channels, example_input=images())
    assert message in str(caught.value)


def spoiled(plan, **changes):
    values = plan.to_dict()
    cut = values["cuts"][0]
    for place, value in changes.items():
        cut[int(place[1:])] = value
    return Plan.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_0": "features.9.weight"},
            "features.9.weight: the plan cuts a tensor the model does not have (did you mean",
        ),
        (
            {"_2": 9},
            "features.0.weight: the plan expects size 9 along dimension 0, the model has shape (8, 3, 3, 3)",
        ),
        ({"_3": [0, 8]}, "features.0.weight: indices out of range or repeated along dimension 0"),
        ({"_3": list(range(8))}, "features.0.weight: the plan would remove all 8 indices of dimension 0"),
    ],
)
def test_a_plan_for_another_model_is_refused_and_nothing_changes(changes, message):
    model, x = own_net("vgg_tiny"), images()
    plan = find_groups(model, x).plan({"features.0": [1, 2], "features.3": [4]})
    before = list(model.named_parameters())
    with pytest.raises(PlanError) as caught:
        apply_plan(model, spoiled(plan, **changes))
    assert message in str(caught.value)
    assert all(a[1] is b[1] for a, b in zip(before, model.named_parameters(), strict=True))


def test_a_plan_cannot_be_applied_twice():
    model, x = own_net("vgg_tiny"), images()
    plan = find_groups(model, x).plan({"features.0": [1]})
    apply_plan(model, plan)
    with pytest.raises(PlanError, match="the plan expects size 8 along dimension 0, the model has shape"):
        apply_plan(model, plan)


def test_a_wrapped_model_is_refused_with_a_hint():
    model, x = own_net("vgg_tiny"), images()
    plan = find_groups(model, x).plan({"features.0": [1]})
    with pytest.raises(PlanError, match=r"give the wrapped model itself \(.module\)"):
        apply_plan(torch.optim.swa_utils.AveragedModel(model), plan)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.half(), "half-precision weights"),
        (
            lambda m: m.features[3].weight.data.fill_(float("nan")),
            "features.3.weight: the weights are not finite",
        ),
    ],
)
def test_surgery_refuses_weights_that_find_groups_would_refuse(spoil, message):
    model, x = own_net("vgg_tiny"), images()
    plan = find_groups(model, x).plan({"features.0": [1]})
    spoil(model)
    with pytest.raises(ModelError, match=message):
        apply_plan(model, plan)


def test_gates_of_another_model_are_refused():
    plan = find_groups(own_net("resnet20"), images()).plan({"layer1.0.conv1": [0]})
    with (
        pytest.raises(PlanError, match="the model has no such module"),
        gate_channels(own_net("vgg_tiny"), plan),
    ):
        pass


def test_a_gate_beyond_the_layer_is_refused():
    model, x = own_net("vgg_tiny"), images()
    plan = find_groups(own_net("vgg_tiny", 0.5), x).plan({"features.0": [12]})
    with pytest.raises(PlanError, match="the plan gates channel 12 of 8"), gate_channels(model, plan):
        model(x)


def test_a_plan_that_contradicts_itself_is_refused_and_undone():
    model, x = own_net("vgg_tiny"), images()
    plan = find_groups(model, x).plan({"features.0": [1, 2]})
    values = plan.to_dict()
    values["attributes"] = [row for row in values["attributes"] if row[1] != "in_channels"]
    before = dict(model.named_parameters())
    with pytest.raises(
        PlanError, match=r"features.3: the plan does not agree with itself: it leaves a weight \(8, 6"
    ):
        apply_plan(model, Plan.from_dict(values))
    assert all(p is before[name] for name, p in model.named_parameters())
    assert model.features[0].out_channels == 8
