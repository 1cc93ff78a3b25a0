"""Operations of other networks: what each does to relevance, and that whole torchvision classifiers go through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from gcp_core.errors import RelevanceError
from gcp_core.models import build_model
from gcp_core.relevance import channel_relevance, relevance_pass
from gcp_core.relevance.state import layer_names
from gcp_core.scatter import ScatterBatchNorm2d


class Net(nn.Module):
    """conv ``a`` -> ReLU -> ``middle`` -> conv ``b`` -> ReLU -> sum over positions -> linear."""

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.b = nn.Conv2d(width, 5, 3, padding=1, bias=False)
        self.fc = nn.Linear(5, 3, bias=False)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(F.relu(self.a(x)))
        return self.fc(F.relu(self.b(x)).sum((2, 3)))


X = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2])


def net(middle: Callable[[Tensor], Tensor], width: int = 4) -> Net:
    torch.manual_seed(1)
    return Net(middle, width).double()


def relevance(middle: Callable[[Tensor], Tensor], width: int = 4) -> dict[str, Tensor]:
    return channel_relevance(net(middle, width), X, Y)


def in_place_relu(x: Tensor) -> Tensor:
    F.relu_(x)  # the result is dropped: x itself is meant to change
    return x


def in_place_sum(x: Tensor) -> Tensor:
    y = x * 1.0
    y += x
    return y


SAME = {
    "nothing": lambda x: x,
    "in-place ReLU": in_place_relu,
    "ReLU module in place": nn.ReLU(inplace=True),
    "dropout": nn.Dropout(0.5),
    "feature dropout": nn.Dropout2d(0.5),
    "clone, contiguous": lambda x: x.clone().contiguous(),
    "permute there and back": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "view there and back": lambda x: x.view(3, 2, 2, 6, 6).view(x.size(0), -1, 6, 6),
    "split and join": lambda x: torch.cat([*x.chunk(2, 1)], 1),
    "cut and join": lambda x: torch.cat([x[:, :1], x[:, 1:]], dim=1),
    "sum with itself": lambda x: x + x,
    "in-place sum": in_place_sum,
    "a factor": lambda x: 2.0 * x * 3,
    "division by a number": lambda x: x / 4,
    "adding zero": lambda x: x + 0,
    "a full-size index copy": lambda x: torch.zeros_like(x).index_copy(1, torch.arange(4), x),
    "an index add": lambda x: torch.zeros_like(x).index_add(1, torch.arange(4), x),
    "an assertion": lambda x: (torch._assert(x.shape[1] == 4, "width"), x)[1],
    "an unknown power": lambda x: x.pow(1.0),
    "the largest of one": lambda x: torch.max(x.unsqueeze(2), dim=2)[0],
    "a mean of one, by axis": lambda x: x.unsqueeze(2).mean(axis=2),
    "both ends of one": lambda x: sum(x.unsqueeze(2).aminmax(dim=2)) / 2,
    "the first of one, by name": lambda x: x.unsqueeze(2).topk(1, dim=2).values.squeeze(2),
    "an unknown product": lambda x: torch.einsum("nchw,cd->ndhw", x, torch.eye(4, dtype=x.dtype)),
}


@pytest.mark.parametrize("name", sorted({*SAME} - {"nothing"}))
def test_an_operation_that_changes_nothing_or_only_scales_leaves_relevance_unchanged(name):
    expected, found = relevance(SAME["nothing"]), relevance(SAME[name])
    for layer, r in expected.items():
        assert torch.allclose(found[layer], r, rtol=1e-5, atol=1e-8 * float(r.abs().max())), layer


MIDDLES = {
    "batch norm": nn.BatchNorm2d(4),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group norm": nn.GroupNorm(2, 4),
    "local response": nn.LocalResponseNorm(3),
    "silu": nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish(inplace=True),
    "gelu": nn.GELU(),
    "hardsigmoid": nn.Hardsigmoid(),
    "tanh": torch.tanh,
    "clamp": lambda x: x.clamp(max=0.5),
    "relu6": nn.ReLU6(inplace=True),
    "leaky": nn.LeakyReLU(0.1),
}


@pytest.mark.parametrize("name", sorted(MIDDLES))
def test_norms_and_activations_pass_relevance_unchanged(name):
    seen: dict[str, Tensor] = {}

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, where):
            ctx.where = where
            return x.view_as(x)

        @staticmethod
        def backward(ctx, r):
            seen[ctx.where] = r
            return r, None

    # permute is handed to autograd as it is, so a watcher beside it sees relevance on its way down
    def watched(where: str, x: Tensor) -> Tensor:
        from gcp_core.relevance.marks import mark_of, marked

        return marked(Watch.apply(x, where), mark_of(x))

    middle = MIDDLES[name].double() if isinstance(MIDDLES[name], nn.Module) else MIDDLES[name]
    relevance(lambda x: watched("out", middle(watched("in", x))))
    assert torch.equal(seen["in"], seen["out"])
    assert float(seen["in"].abs().sum()) > 0


def test_a_spatial_attention_over_mean_and_maximum_goes_through():
    look = nn.Conv2d(2, 1, 3, padding=1).double()

    def attention(x: Tensor) -> Tensor:
        strongest, _ = torch.max(x, dim=1, keepdim=True)
        return x * torch.sigmoid(look(torch.cat([x.mean(1, keepdim=True), strongest], 1)))

    found = relevance(attention)
    assert set(found) == {"a", "b"}
    assert all(bool(torch.isfinite(r).all()) and float(r.abs().sum()) > 0 for r in found.values())


def test_attention_that_also_returns_its_weights_gets_what_it_gets_without_them():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()

    def look(x: Tensor, weights: bool) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        seen, _ = attention(tokens, tokens, tokens, need_weights=weights)
        return seen.transpose(1, 2).reshape(x.shape)

    found, expected = relevance(lambda x: look(x, True)), relevance(lambda x: look(x, False))
    for layer, r in expected.items():
        assert torch.allclose(found[layer], r, rtol=1e-5, atol=1e-8 * float(r.abs().max())), layer


def test_a_gate_gets_no_relevance_and_its_signal_all_of_it():
    torch.manual_seed(0)
    squeeze = nn.Conv2d(4, 4, 1).double()

    def gate(x: Tensor) -> Tensor:
        return torch.sigmoid(squeeze(F.adaptive_avg_pool2d(x, 1)))

    model = net(lambda x: gate(x) * x)
    model.squeeze = squeeze
    gated = channel_relevance(model, X, Y)
    fixed = {}

    def constant_gate(x: Tensor) -> Tensor:
        fixed["gate"] = gate(x).detach()
        return x * fixed["gate"]

    expected = relevance(constant_gate)
    assert "squeeze" not in gated
    for layer, r in expected.items():
        assert torch.allclose(gated[layer], r, rtol=1e-9), layer


@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_of_two_signals_shares_relevance_equally(swapped):
    """A half each: ``a`` has that of its own, and twice what ``c`` has, which has no negative weight."""
    model = net(lambda x: x)
    model.c = nn.Conv2d(4, 4, 1, groups=4, bias=False).double()
    nn.init.constant_(model.c.weight, 0.5)

    def middle(x: Tensor) -> Tensor:
        return F.relu(model.c(x)) * x if swapped else x * F.relu(model.c(x))

    model.middle = middle
    found = channel_relevance(model, X, Y)
    assert torch.allclose(found["a"], 3 * found["c"], rtol=1e-6)


def test_concatenated_branches_keep_their_own_relevance():
    """Beside a branch of zeros a branch has what it has alone."""
    wide, alone = net(lambda x: torch.cat([x, torch.zeros_like(x)], 1), width=8), net(lambda x: x)
    alone.load_state_dict(wide.state_dict() | {"b.weight": wide.b.weight[:, :4]})
    found, expected = (channel_relevance(model, X, Y) for model in (wide, alone))
    for layer in ("a", "b"):
        assert torch.allclose(found[layer], expected[layer], rtol=1e-9), layer


class Block(nn.Module):
    """A residual block whose last norm writes into the stream at registered places."""

    def __init__(self, kept: list[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(5, len(kept), 3, padding=1, bias=False)
        self.bn2 = ScatterBatchNorm2d(torch.tensor(kept), 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.fc(F.relu(self.bn2(self.conv2(F.relu(self.conv1(x)))) + x).mean((2, 3)))


@pytest.mark.parametrize("read", ["sum", "branch"])
def test_a_scattered_last_conv_is_read_at_its_registered_places(read):
    torch.manual_seed(0)
    kept = [0, 2, 5]
    small, full = Block(kept).double(), Block([0, 1, 2, 3, 4, 5]).double()
    state = small.state_dict()
    with torch.no_grad():
        for name in ("stem", "conv1", "fc"):
            getattr(full, name).load_state_dict(getattr(small, name).state_dict())
        full.conv2.weight.zero_()[kept] = state["conv2.weight"]
    found = channel_relevance(small, X, Y, read=read)
    expected = channel_relevance(full, X, Y, read=read)
    assert found["conv2"].shape == (3, 3)
    assert torch.allclose(found["conv2"], expected["conv2"][:, kept], rtol=1e-7, atol=1e-12)
    assert torch.allclose(found["conv1"], expected["conv1"], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (
            lambda x: (x.__setitem__((slice(None), 0), 1.0), x)[1],
            "in-place operation torch.Tensor.__setitem__",
        ),
        (lambda x: x.round(), None),
        (lambda x: x.exponential_(), "in-place operation torch.Tensor.exponential_"),
    ],
)
def test_an_operation_without_a_rule_is_named(middle, message):
    if message is None:  # differentiable with derivative zero: no relevance, but no failure either
        assert float(relevance(middle)["a"].abs().sum()) == 0
        return
    with pytest.raises(RelevanceError, match=message):
        relevance(middle)


class Swish(torch.autograd.Function):
    """As networks write it that save memory; with a bound that is learned, of which it knows the gradient too."""

    @staticmethod
    def forward(ctx, x, bound):
        ctx.save_for_backward(x, bound)
        return (x * torch.sigmoid(x)).clamp(max=bound)

    @staticmethod
    def backward(ctx, r):
        x, bound = ctx.saved_tensors
        s = torch.sigmoid(x)
        return r * (s * (1 + x * (1 - s))) * (x * s < bound), (r * (x * s >= bound)).sum()


class Product(torch.autograd.Function):
    """More than a function of one signal, element by element."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, r):
        x, weight = ctx.saved_tensors
        return r @ weight.T, (x.flatten(0, -2).T @ r.flatten(0, -2)).reshape(weight.shape)


def test_a_function_with_a_gradient_of_its_own_passes_relevance_as_the_same_function_without_one():
    bound = nn.Parameter(torch.tensor(1e9, dtype=torch.float64))
    found, expected = relevance(lambda x: Swish.apply(x, bound)), relevance(F.silu)
    for layer, r in expected.items():
        assert torch.allclose(found[layer], r, rtol=1e-9), layer
    assert bound.grad is None


def test_a_function_of_its_own_that_mixes_channels_is_named():
    weight = nn.Parameter(torch.eye(6, dtype=torch.float64))
    with pytest.raises(RelevanceError, match="no relevance rule for the autograd function Product"):
        relevance(lambda x: Product.apply(x, weight))


def test_a_layer_used_twice_has_the_sum_of_both_uses():
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3, padding=1, bias=False).double()

    def twice(x: Tensor) -> Tensor:
        return F.relu(shared(F.relu(shared(x))))

    model = net(twice)
    model.shared = shared
    found = channel_relevance(model, X, Y)
    first, second = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
    for copy in (first, second):
        copy.double().load_state_dict(shared.state_dict())
    unshared = net(lambda x: F.relu(second(F.relu(first(x)))))
    unshared.first, unshared.second = first, second
    expected = channel_relevance(unshared, X, Y)
    assert torch.allclose(found["shared"], expected["first"] + expected["second"], rtol=1e-9)


def weight_normed() -> nn.Sequential:
    """Five convolutions, of which the first, third and fourth make their weights anew for every call."""
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    for place in range(5):
        conv = nn.Conv2d(4 if place else 3, 4, 3, padding=1)
        layers += [parametrizations.weight_norm(conv) if place in (0, 2, 3) else conv, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()


def test_layers_whose_weights_are_computed_have_no_name_and_carry_relevance_as_plain_ones_do():
    model, folded = weight_normed(), weight_normed()
    for place in (0, 4, 6):
        parametrize.remove_parametrizations(folded[place], "weight")
    # A name under the id of a tensor that is gone would be given to whatever has that id next.
    assert layer_names(model) == {id(model[place].weight): str(place) for place in (2, 8, 12)}
    found = channel_relevance(model, X, Y)
    expected = channel_relevance(folded, X, Y, layers=list(found))
    assert set(found) == set(expected) == {"2", "8"}
    for layer, r in expected.items():
        assert torch.allclose(found[layer], r, rtol=1e-9), layer


def test_uneven_same_padding_equals_padding_by_hand():
    torch.manual_seed(0)
    same = nn.Conv2d(4, 4, 2, padding="same").double()
    by_hand = nn.Conv2d(4, 4, 2).double()
    by_hand.load_state_dict(same.state_dict())
    results = []
    for layer, middle in ((same, same), (by_hand, lambda x: by_hand(F.pad(x, (0, 1, 0, 1))))):
        model = net(lambda x, middle=middle: F.relu(middle(x)))
        model.layer = layer
        results.append(channel_relevance(model, X, Y))
    for layer in results[0]:
        assert torch.allclose(results[0][layer], results[1][layer], rtol=1e-9), layer


def plausible(model: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms with random scales and the statistics of a batch, as after some training."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(0.5 + torch.rand(module.num_features, generator=generator))
            module.bias.data.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "fitted"),
    [
        *(("mobilenet_v2", True), ("mobilenet_v3_small", True), ("mnasnet0_5", False), ("mnasnet0_5", True)),
        *(("shufflenet_v2_x0_5", False), ("shufflenet_v2_x0_5", True), ("squeezenet1_1", False)),
        *(("regnet_y_400mf", True), ("efficientnet_b0", True), ("densenet121", False), ("googlenet", True)),
    ],
)
def test_torchvision_classifiers_have_finite_relevance_and_keep_their_logits(name, fitted):
    side = 64
    torch.manual_seed(0)
    model = build_model(f"torchvision:{name}", 10).eval()
    x, y = torch.randn(2, 3, side, side), torch.tensor([1, 7])
    if fitted:
        model = plausible(model, torch.randn(4, 3, side, side))
    with torch.no_grad():
        expected = model(x)
    with relevance_pass(model) as run:
        found, logits = run(x, y)
    assert torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    unread = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n not in found]
    # left out: the layer that makes the logits, auxiliary heads, and the two layers of each squeeze-excite gate
    gates = [n for n in unread if n.endswith(("fc1", "fc2")) or ".fc1." in n or ".fc2." in n]
    assert len([n for n in unread if n not in gates and not n.startswith("aux")]) == 1
    assert all(bool(torch.isfinite(r).all()) for r in found.values())


def test_relevance_is_conserved_on_a_residual_network_with_fitted_norms():
    torch.manual_seed(0)
    model = plausible(build_model("torchvision:regnet_x_400mf", 10), torch.randn(4, 3, 64, 64)).double()
    x, y = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.tensor([1, 7])
    found = channel_relevance(model, x, y)
    stem = next(iter(found.values()))
    # 32 x 32 positions at the stem; the global pool over 2 x 2 positions multiplies by 4
    assert torch.allclose(stem.sum(1) * 32 * 32, torch.full((2,), 4.0, dtype=torch.float64), rtol=0.02)
