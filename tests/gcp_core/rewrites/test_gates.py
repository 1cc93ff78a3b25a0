"""Gates in whole networks: folded = gated, folded and sliced = folded and zeroed, in every residual mode."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gcp_core.cost import measure_cost
from gcp_core.errors import ConfigError, ModelError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.models.mode import mode
from gcp_core.pruning.surgery import apply_plan, gate_channels
from gcp_core.rewrites import added_macs, build_rewrite, check_folded, folded, gates_of
from gcp_core.rewrites.places import find_places
from gcp_core.scatter import Scattering
from tests.oracles import small_nets

BOTH = pytest.mark.parametrize("name", ["batch_whitening", "consensus_gates"])
#: With these options a gate closes channels in eval mode.
CLOSING = {"batch_whitening": {"mask": "rounded"}, "consensus_gates": {}}
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(6)


def trained(model, rewrite, steps=2):
    """With gates, after some steps that move everything; about half of the channels are closed."""
    rewrite.install(model, IMAGES[:1].to(next(model.parameters())))
    return moved(model, rewrite, steps)


def moved(model, rewrite, steps=2):
    images = IMAGES.to(next(model.parameters()))
    torch.manual_seed(1)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), LABELS).backward()
        optimizer.step()
    with torch.no_grad():
        for gate in gates_of(model):
            if hasattr(gate, "open"):
                gate.open.uniform_(0, 1)
            else:
                gate.norm.bias.uniform_(-0.2, 0.3)
    return model.eval()


def outputs(model):
    with mode(model, training=False), torch.no_grad():
        return model(IMAGES.to(next(model.parameters())))


def error(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("name", "options"), [("batch_whitening", {}), *((name, options) for name, options in CLOSING.items())]
)
@pytest.mark.parametrize(("net", "width"), [("vgg16_bn", 0.125), ("resnet20", 0.5), ("resnet56", 0.25)])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_folded_network_computes_what_the_gated_one_does(name, options, net, width, dtype, most):
    rewrite = build_rewrite(name, options)
    torch.manual_seed(0)
    model = trained(build_model(net, 10, width=width).to(dtype), rewrite)
    closed = sum(int((gate.mask() == 0).sum()) for gate in gates_of(model))
    assert (closed > 0) == (options == CLOSING[name])
    plain = folded(model, rewrite)
    assert list(plain.state_dict()) == list(build_model(net, 10, width=width).state_dict())
    assert error(outputs(plain), outputs(model)) <= most


@BOTH
@pytest.mark.parametrize(
    ("net", "width", "residual"),
    [
        ("vgg16_bn", 0.125, "coupled"),
        *(("resnet20", 0.5, each) for each in ("coupled", "scatter", "inner")),
        *(("resnet56", 0.25, each) for each in ("coupled", "scatter", "inner")),
    ],
)
def test_folded_and_sliced_is_folded_and_zeroed_also_a_second_time(name, net, width, residual):
    """Gates are put back after the first cut, trained, and taken through a second one (norms may scatter by then)."""
    rewrite = build_rewrite(name)
    torch.manual_seed(0)
    model = trained(build_model(net, 10, width=width).double(), rewrite)
    with torch.no_grad():
        groups = find_groups(folded(model, rewrite), IMAGES[:1], residual=residual)
    for _ in range(2):
        plan = groups.plan({g.name: range(0, g.size - 1, 3) for g in groups.groups if g.size > 2})
        plain = folded(model, rewrite)
        with gate_channels(plain, plan):
            expected = outputs(plain)
        apply_plan(plain, plan)
        assert error(outputs(plain), expected) <= 1e-12
        lifted = rewrite.lift(model)
        apply_plan(model, plan)
        rewrite.again(model, lifted, plan)
        groups = groups.after(plan)
        assert [gate.norm.weight.numel() for gate in gates_of(model)] == [
            len(g.chance()) for g in gates_of(model)
        ]
        moved(model, rewrite)
        assert error(outputs(folded(model, rewrite)), outputs(model)) <= 1e-12
    assert (residual == "scatter") == any(isinstance(gate.norm, Scattering) for gate in gates_of(model))


@BOTH
def test_where_exactly_the_closed_channels_go_the_sliced_network_is_the_gated_one(name):
    """Unanimous gates: nothing else than dead channels is lost. On VGG every norm has a group of its own."""
    rewrite = build_rewrite(name, CLOSING[name])
    torch.manual_seed(0)
    model = trained(build_model("vgg16_bn", 10, width=0.125).double(), rewrite)
    plain = folded(model, rewrite)
    groups = find_groups(plain, IMAGES[:1])
    masks = {gate.place.layer: gate.mask() for gate in gates_of(model)}
    shut = {
        group.name: (~masks[group.name]).nonzero().flatten().tolist()
        for group in groups.groups
        if group.name in masks
    }
    before = measure_cost(plain, IMAGES[:1]).macs
    apply_plan(plain, groups.plan(shut))
    assert measure_cost(plain, IMAGES[:1]).macs < before
    assert error(outputs(plain), outputs(model)) <= 1e-12


def test_what_whitening_has_learned_survives_a_cut_in_the_weights():
    """Right after gates are put back the network computes in eval mode, masks open, what it computed without them; and
    batch statistics give about the same in training mode."""
    rewrite = build_rewrite("batch_whitening")
    torch.manual_seed(0)
    model = trained(build_model("resnet20", 10, width=0.5).double(), rewrite, steps=30)
    lifted = rewrite.lift(model)
    with_running = outputs(model)
    weights = {name: p.clone() for name, p in model.named_parameters() if "conv" in name}
    plan = find_groups(model, IMAGES[:1]).plan({})
    rewrite.again(model, lifted, plan)
    for gate in gates_of(model):
        gate.mask = lambda gate=gate: torch.ones(len(gate.chance()), dtype=torch.bool)
    assert error(outputs(model), with_running) <= 1e-12
    now = {name: p for name, p in model.named_parameters() if "conv" in name}
    assert all(torch.equal(weights[name], now[name]) for name in weights)


def test_the_lengths_of_filters_are_kept_when_whitening_is_folded_into_them():
    """A filter before a norm has no scale of its own, but its length sets how fast it learns."""
    rewrite = build_rewrite("batch_whitening")
    model = trained(build_model("vgg_tiny", 10, width=0.5).double(), rewrite)
    before = model.features[3].weight.flatten(1).norm(dim=1).clone()
    rewrite.lift(model)
    assert torch.allclose(model.features[3].weight.flatten(1).norm(dim=1), before, atol=1e-12)


def test_a_layer_with_a_bias_folds_too():
    rewrite = build_rewrite("batch_whitening")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(5400, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 10),
    ).double()  # fmt: skip
    trained(model, rewrite)
    assert len(list(gates_of(model))) == 2
    assert error(outputs(folded(model, rewrite)), outputs(model)) <= 1e-12


# --- where gates stand --------------------------------------------------------------------------------------------


class Readers(nn.Module):
    """One conv is read by its norm alone, one also by a sum, one norm reads a sum, one is used twice."""

    def __init__(self):
        super().__init__()
        for name in ("one", "two", "three"):
            setattr(self, name, nn.Conv2d(3, 3, 3, padding=1))
            setattr(self, f"{name}_norm", nn.BatchNorm2d(3))
        self.of_sum, self.twice, self.fc = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(3, 10)

    def forward(self, x):
        a = self.one_norm(self.one(x))
        raw = self.two(a)
        b = self.two_norm(raw) + raw
        c = self.three(self.of_sum(b))
        return self.fc(self.twice(self.twice(self.three_norm(c))).mean((2, 3)))


def test_gates_stand_where_a_norm_alone_reads_a_layer_and_others_are_listed(caplog):
    model = Readers()
    places, left = find_places(model, IMAGES[:1].float())
    assert [(place.layer, place.norm, place.positions) for place in places] == [
        ("one", "one_norm", 1024),
        ("three", "three_norm", 1024),
    ]
    assert set(left) == {"two_norm", "of_sum", "twice"}
    with caplog.at_level(logging.WARNING):
        build_rewrite("batch_whitening").install(model, IMAGES[:1].float())
    assert "no gate at two_norm: two has other readers" in caplog.text


def test_whitening_leaves_grouped_convolutions_as_they_are_and_gates_alone_do_not():
    def net():
        return nn.Sequential(
            *(
                nn.Conv2d(3, 8, 3),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, groups=8),
                nn.BatchNorm2d(8),
            ),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
        ).double()

    for name, number in (("batch_whitening", 1), ("consensus_gates", 2)):
        rewrite, model = build_rewrite(name), net()
        trained(model, rewrite)
        assert len(list(gates_of(model))) == number
        assert error(outputs(folded(model, rewrite)), outputs(model)) <= 1e-12


@BOTH
def test_a_network_without_a_norm_behind_a_layer_is_refused(name):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    with pytest.raises(
        ConfigError, match=r"train\.rewrite: the network has no batch norm that gates can stand at"
    ):
        build_rewrite(name).install(model, IMAGES[:1].float())
    dense = small_nets.Dense()
    dense.stem[1] = nn.Identity()
    with pytest.raises(ConfigError, match="stands behind no layer"):
        build_rewrite(name).install(dense, torch.zeros(1, 3, 8, 8))


# --- what leaves --------------------------------------------------------------------------------------------------


def test_a_folded_model_that_differs_is_refused():
    rewrite = build_rewrite("batch_whitening")
    model = trained(build_model("vgg_tiny", 10, width=0.5), rewrite)
    plain = folded(model, rewrite)
    check_folded(model, plain, IMAGES.float())
    for fault in (1.01, float("nan")):
        wrong = copy.deepcopy(plain)
        with torch.no_grad():
            wrong.features[1].weight.mul_(fault)
        with pytest.raises(
            ModelError, match=r"train\.rewrite: the folded model's outputs differ by .* \(nothing was"
        ):
            check_folded(model, wrong, IMAGES.float())


# --- what it costs ------------------------------------------------------------------------------------------------


def test_whitening_costs_its_covariance_its_product_and_the_iteration_once_a_batch():
    """vgg_tiny, width 0.5, 3 channels of 32 x 32: groups of 16 (16 16 P 32 32 P 64 64)."""
    model, rewrite = build_model("vgg_tiny", 10, width=0.5), build_rewrite("batch_whitening")
    expected = 0.0
    for channels, positions in ((16, 1024), (16, 1024), (32, 256), (32, 256), (64, 64), (64, 64)):
        groups = channels // 16
        expected += groups * (2 * 16 * 16 * positions + 5 * 3 * 16**3 / 32)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert added_macs(rewrite, model, IMAGES[:1].float(), 32) == pytest.approx(expected)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_consensus_gates_cost_their_linear_layers():
    model, rewrite = build_model("vgg_tiny", 10, width=0.5), build_rewrite("consensus_gates")
    expected = 2 * (16**2 + 32**2 + 64**2)
    assert added_macs(rewrite, model, IMAGES[:1].float(), 32) == expected
    trained(model, rewrite)
    linear = sum(gate.weight.numel() for gate in gates_of(model))
    assert linear == expected


# --- gates of one's own -------------------------------------------------------------------------------------------


class OwnGate(nn.Module):
    """A network that has gates of its own: a sigmoid of a parameter times the maps."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.conv, self.norm, self.alpha = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Parameter(torch.randn(6))
        self.next, self.fc = nn.Conv2d(6, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        gate = torch.sigmoid(self.alpha)
        gate = gate.view(1, -1, 1, 1) if self.shape == "view" else gate[None, :, None, None]
        return self.fc(F.relu(self.next(F.relu(self.norm(self.conv(x)) * gate))).mean((2, 3)))


@pytest.mark.parametrize("shape", ["view", "index"])
def test_a_sigmoid_of_a_parameter_is_a_gate_that_is_cut_with_its_units(shape):
    torch.manual_seed(0)
    model = OwnGate(shape).double().eval()
    groups = find_groups(model, IMAGES[:1])
    assert "conv" in [group.name for group in groups.groups]
    assert "conv" not in groups.frozen
    plan = groups.plan({"conv": [1, 4]})
    with gate_channels(model, plan):
        expected = outputs(model)
    apply_plan(model, plan)
    assert model.alpha.shape == (4,)
    assert error(outputs(model), expected) <= 1e-12
