"""Compensation on whole models: the repaired, cut model is the fit, and where a bias has no place."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gcp_core.errors import ConfigError, PlanError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.surgery import apply_plan, gate_channels
from gcp_core.repairs.least_squares import (
    compensate,
    consumers_of,
    least_squares,
)
from gcp_core.testing import check_repair, differences, fingerprint
from tests.gcp_core.repairs.layers import batches_of, columns_of, layer_and_input
from tests.oracles.columns import fit_with_intercept, rows_of
from tests.oracles.nets import images, own_net


def plan_for(model, groups, units_per_group=2):
    return groups.plan({g.name: range(min(units_per_group, g.size - 1)) for g in groups.groups})


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_repaired_and_removed_is_repaired_and_gated(name, residual, training):
    model = own_net(name, width=0.25).eval()
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    size = 32 if name == "vgg11_bn" else 8
    x = images(6, size)
    groups = find_groups(model, x, residual=residual)
    plan = plan_for(model, groups)
    consumers = consumers_of(model, plan)
    assert consumers
    done = compensate(model, consumers, batches_of(x, 4))
    assert not any(one.skipped for one in done)
    small = copy.deepcopy(model)
    apply_plan(small, plan)
    model.train(training), small.train(training)
    with gate_channels(model, plan), torch.no_grad():
        wanted = model(x)
    with torch.no_grad():
        got = small(x)
    assert float((wanted - got).abs().max() / wanted.abs().max()) < 1e-12


def test_a_conv_without_bias_gives_its_shift_to_the_norm_exactly():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU()),
    ).double()
    x = images(8, 6)
    net.train()(x)
    net.eval()
    twin = copy.deepcopy(net)
    kept = [0, 2, 3]
    (done,) = compensate(net, [("3", kept)], batches_of(x))
    assert done.bias == "norm"
    # The twin's conv has a bias of its own, set by plain least squares on what it reads.
    maps = twin[:3](x)
    u = rows_of(twin[3], maps).detach()
    columns = columns_of(kept, 9)
    weight, bias, _ = fit_with_intercept(u[:, columns], (u @ twin[3].weight.flatten(1).T).detach())
    fitted = nn.Conv2d(3, 5, 3, padding=1).double()
    with torch.no_grad():
        fitted.weight.copy_(weight.reshape(5, 3, 3, 3))
        fitted.bias.copy_(bias)
    for training in (False, True):
        wanted = twin[4].train(training)(fitted(maps[:, kept]))
        cut = net[4].train(training)(nn.functional.conv2d(maps[:, kept], net[3].weight[:, kept], padding=1))
        assert torch.allclose(cut, wanted, rtol=1e-9, atol=1e-9), f"training={training}"


@pytest.mark.parametrize(
    ("norm", "place"),
    [
        (nn.BatchNorm2d(5, track_running_stats=False), "cancelled"),
        (nn.GroupNorm(1, 5), "none"),
        (nn.Identity(), "none"),
    ],
)
def test_where_a_bias_has_no_place_the_fit_has_no_intercept(norm, place):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), norm).double()
    _, x = layer_and_input("pointwise")
    before = net[0].weight.detach().clone()
    (done,) = compensate(net, [("0", [0, 2])], batches_of(x))
    assert done.bias == place
    u = rows_of(net[0], x)
    y = u @ before.flatten(1).T
    if place == "none":
        expected = torch.linalg.lstsq(u[:, [0, 2]], y).solution.T
    else:
        expected, _, _ = fit_with_intercept(u[:, [0, 2]], y)
    assert torch.allclose(net[0].weight.detach()[:, [0, 2], 0, 0], expected, rtol=1e-9)


class BesideTheNorm(nn.Module):
    """A conv whose raw output passes a norm and is added beside it."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.beside = beside

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + (torch.cat([y[:, :2], y[:, 2:]], 1) if self.beside else y.shape[1])


@pytest.mark.parametrize(("beside", "place"), [(False, "norm"), (True, "none")])
def test_a_norm_takes_the_bias_only_if_nothing_else_reads_the_output(beside, place):
    torch.manual_seed(0)
    net = BesideTheNorm(beside).double().eval()
    _, x = layer_and_input("pointwise")
    x[:, 3] = 2 * x[:, 0] - x[:, 1] + 7
    wanted = net(x).detach()
    (done,) = compensate(net, [("conv", [0, 1, 2])], batches_of(x))
    assert done.bias == place
    x[:, 3] = 0
    off = float((net(x) - wanted).detach().abs().max())
    assert (off < 1e-9) == (not beside), "without a place for the constant the fit cannot be exact"
    assert off < 0.5 * float(wanted.abs().max())


def test_depthwise_and_grouped_convolutions_are_skipped_and_named():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 1)
    ).double()
    before = copy.deepcopy(net.state_dict())
    _, x = layer_and_input("pointwise")
    done = compensate(net, [("0", [0]), ("1", [1]), ("2", list(range(6)))], batches_of(x))
    assert [(one.layer, one.done) for one in done] == [
        ("0", "a depthwise convolution has no columns that all filters read"),
        ("1", "a grouped convolution has no columns that all filters read"),
        ("2", "it keeps every column"),
    ]
    assert all(one.skipped for one in done)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_block_and_its_shortcut_get_a_fit_each():
    model = own_net("resnet20", width=0.25).eval()
    x = images(4, 8)
    groups = find_groups(model, x)
    name = next(g.name for g in groups.groups if any(m.layer == "conv1" for m in g.members))
    plan = groups.plan({name: [0]})
    layers = [layer for layer, _ in consumers_of(model, plan)]
    assert {"layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0"} <= set(layers)
    done = compensate(model, consumers_of(model, plan), batches_of(x))
    assert [one.layer for one in done] == layers
    assert not any(one.skipped for one in done)


def test_compensation_lowers_the_error_of_a_cut_net():
    model = own_net("vgg_tiny", width=0.5).eval()
    x = images(24, 16)
    groups = find_groups(model, x)
    plan = groups.plan({groups.groups[3].name: range(30)})
    repaired, cut = copy.deepcopy(model), copy.deepcopy(model)
    compensate(repaired, consumers_of(repaired, plan), batches_of(x))
    apply_plan(repaired, plan)
    apply_plan(cut, plan)
    with torch.no_grad():
        errors = [float((net(x) - model(x)).square().mean()) for net in (repaired, cut)]
    assert errors[0] < 0.2 * errors[1]


def test_only_the_given_layers_change_and_nothing_else_of_the_model():
    model = build_model("vgg_tiny", 4, width=0.25).double().train()
    x = images(4, 8)
    before = fingerprint(model)
    compensate(model, [("features.3", [0, 1, 2, 3, 4])], batches_of(x))
    after = fingerprint(model)
    assert differences(before, after) == ["state"]
    changed = [n for n, t in before["state"].items() if not torch.equal(t, after["state"][n])]
    assert changed == ["features.3.weight", "features.4.running_mean"]


@pytest.mark.parametrize(
    ("consumers", "message"),
    [
        ([("features.33", [0])], r"features.33: no conv or linear layer of this name \(did you mean"),
        ([("features.3", [])], "features.3: kept input columns must be distinct, at least one, and in 0..7"),
        (
            [("features.3", [8])],
            r"features.3: kept input columns must be distinct, at least one, and in 0..7",
        ),
        ([("features.3", [1, 1])], r"features.3: kept input columns must be distinct"),
    ],
)
def test_columns_that_do_not_fit_are_refused_and_nothing_is_written(consumers, message):
    model = build_model("vgg_tiny", 4, width=0.25)
    before = fingerprint(model)
    with pytest.raises(PlanError, match=message):
        compensate(model, [("features.7", [0, 1]), *consumers], batches_of(images(4, 8).float()))
    assert differences(before, fingerprint(model)) == []


def test_the_repair_keeps_the_contract():
    check_repair(least_squares)
    check_repair(lambda: least_squares(sampling_stride=1, rescale=True, max_columns=20))


def test_too_few_images_are_logged(caplog):
    layer, x = layer_and_input("conv")
    compensate(nn.Sequential(layer), [("0", [0, 2])], [(x[:1, :, :4, :4], None)])
    assert "0: 16 rows for 36 columns; more images or a smaller sampling stride would help" in caplog.text
    assert bool(torch.isfinite(layer.weight).all())


def test_as_a_repair_it_patches_what_a_plan_leaves():
    model = own_net("resnet20").eval()
    x = images(6, 8)
    groups = find_groups(model, x)
    plan, twin = plan_for(model, groups), copy.deepcopy(model)
    repair = least_squares(sampling_stride=1, rescale=True)
    repair.patch(model, groups, plan, batches_of(x), torch.Generator())
    compensate(twin, consumers_of(twin, plan), batches_of(x), rescale=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))
    assert (repair.forwards, least_squares().forwards) == (10, 1 + 9 / 4)
    repair.patch(model, groups, groups.plan({}), [], torch.Generator())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_stride": 0}, "prune.repair_options.sampling_stride: 0 is not a whole number >= 1"),
        ({"max_columns": 2.5}, "prune.repair_options.max_columns: 2.5 is not a whole number >= 1"),
        ({"rescale": "yes"}, "prune.repair_options.rescale: 'yes' is neither true nor false"),
    ],
)
def test_bad_options_of_the_repair_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        least_squares(**options)


def test_compensation_without_images_is_refused():
    model = build_model("vgg_tiny", 4, width=0.25)
    with pytest.raises(RelevanceError, match="batches: there are no images to score"):
        compensate(model, [("features.3", [0])], [])
