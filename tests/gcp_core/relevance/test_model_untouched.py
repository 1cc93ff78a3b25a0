"""A relevance pass leaves no trace on the model, whether it ends well or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gcp_core.errors import RelevanceError
from gcp_core.relevance import channel_relevance, feature_relevance_scores
from gcp_core.testing import differences, fingerprint


class Failing(nn.Module):
    """Fails in the middle of the forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("broken module")


class Root(nn.Module):
    """sqrt has an infinite slope at 0: relevance below it is not finite although the logits are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(x)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Identity()),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    model.train()
    model[1].eval()  # a frozen norm inside a model in training
    model[4].weight.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    return model


X, Y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("grad", [True, False])
def test_a_model_is_left_as_found_after_success(grad):
    model = network()
    with torch.set_grad_enabled(grad):
        before, x = fingerprint(model), X.clone()
        channel_relevance(model, x, Y)
        feature_relevance_scores(model, [(x, Y)], 3)
        assert differences(before, fingerprint(model)) == []
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    ("spoil", "labels", "error"),
    [
        (lambda model: model.__setitem__(3, Failing()), Y, ValueError),
        (lambda model: model.__setitem__(3, Root()), Y, RelevanceError),
        (lambda model: None, torch.tensor([0, 1, 2, 3]), RelevanceError),
    ],
)
def test_a_model_is_left_as_found_after_an_error(spoil, labels, error):
    model = network()
    spoil(model)
    before = fingerprint(model)
    with pytest.raises(error):
        channel_relevance(model, X, labels)
    assert differences(before, fingerprint(model)) == []


def test_relevance_that_is_not_finite_names_the_layer_where_it_began():
    model = network()
    model[3] = Root()
    with pytest.raises(RelevanceError, match=r"^0: relevance is not finite"):
        channel_relevance(model, X, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: channel_relevance(m, X, torch.tensor([0, 1, 2, 3])),
            "labels: labels from 0 to 3 for 3 classes",
        ),
        (
            lambda m: channel_relevance(m, X, Y[:2]),
            r"batches: \(4, 3, 8, 8\) images and \(2,\) labels do not form a batch",
        ),
        (lambda m: channel_relevance(m, X * float("nan"), Y), "model: the logits are not finite"),
        (lambda m: channel_relevance(m.half(), X, Y), "weights of type torch.float16 cannot be scored"),
        (
            lambda m: channel_relevance(m, X, Y, layers=["9"]),
            "layers: '9' is not a convolution or linear layer",
        ),
        (lambda m: channel_relevance(m[:8], X, Y), r"the model returned \(4, 6, 8, 8\), not logits"),
        (lambda m: channel_relevance(nn.Flatten(), X, Y), "the model has no weights"),
        (lambda m: channel_relevance(m, X, Y, layers=[]), "none of the requested layers leads to the logits"),
    ],
)
def test_unusable_input_is_refused_with_its_place(call, message):
    with pytest.raises(RelevanceError, match=message):
        call(network())


def test_asking_for_some_layers_computes_nothing_below_the_lowest_of_them():
    model = network()
    all_layers = channel_relevance(model, X, Y)
    some = channel_relevance(model, X, Y, layers=["4"])
    assert list(all_layers) == ["0", "4"]
    assert list(some) == ["4"]
    assert torch.allclose(some["4"], all_layers["4"], rtol=1e-5, atol=1e-8)


class Twisted(nn.Module):
    """A residual net with operations in front of the sum that have no rule, or change a tensor in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)
        self.twist = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.twist:
            x[:, 0] = x[:, 0]
            x = torch.topk(x, x.shape[-1], sorted=False)[0].gather(-1, torch.arange(8).expand(x.shape))
        x = torch.relu(x)
        return self.fc(torch.relu(self.branch(x) + x).mean((2, 3)))


def test_a_layer_is_read_the_same_whatever_else_is_read():
    torch.manual_seed(0)
    model, y = Twisted().double(), Y
    x = X.double()
    model.twist = False
    expected = channel_relevance(model, x, y)
    found = channel_relevance(model, x, y, layers=["branch"])
    assert list(found) == ["branch"]
    assert torch.allclose(found["branch"], expected["branch"], rtol=1e-12)


def test_operations_without_a_rule_may_stand_below_all_layers_that_are_read():
    torch.manual_seed(0)
    model = Twisted().double()
    found = channel_relevance(model, X.double(), Y, layers=["branch"])
    assert bool(torch.isfinite(found["branch"]).all())
    with pytest.raises(RelevanceError, match="no relevance rule for the in-place operation"):
        channel_relevance(model, X.double(), Y)


class OnTheImage(nn.Module):
    """The image itself is the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.branch(x) + x).sum((2, 3)))


def test_a_sum_with_the_image_gives_it_its_share():
    torch.manual_seed(0)
    model, x = OnTheImage().double(), X.double()
    whole = channel_relevance(model, x, Y)["branch"]  # read at the sum, before the split
    branch = channel_relevance(model, x, Y, read="branch")["branch"]
    assert not torch.allclose(whole, branch, rtol=1e-3)


def test_a_pass_under_autocast_and_inference_mode_gives_float32_relevance():
    model = network()
    expected = channel_relevance(model, X, Y)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        found = channel_relevance(model, X.clone(), Y.clone())
    for layer, r in expected.items():
        assert found[layer].dtype == torch.float32
        assert torch.equal(found[layer], r)


def test_large_images_go_through_in_parts_with_the_same_result():
    model = network().double()
    x = torch.randn(3, 3, 144, 144, dtype=torch.float64)  # more than half of what goes at once: one by one
    together = channel_relevance(model, x, Y[:3])
    for n in range(3):
        alone = channel_relevance(model, x[n : n + 1], Y[n : n + 1])
        for layer, r in alone.items():
            assert torch.allclose(together[layer][n], r[0], rtol=1e-9, atol=1e-15)


class Small(nn.Module):
    """Has memory for so many images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.asked = room, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x


def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_after_it_with_the_same_scores():
    torch.manual_seed(1)
    batches = [(torch.randn(7, 3, 8, 8, dtype=torch.float64), torch.arange(7) % 3) for _ in range(2)]
    model = network().double()
    expected = feature_relevance_scores(model, batches, 3)
    model[3] = Small(2)
    found = feature_relevance_scores(nn.Sequential(*model), batches, 3)
    assert model[3].asked == [7, 4] + [2, 2, 2, 1] * 2
    for layer, scores in expected.items():
        assert torch.allclose(found[layer], scores, rtol=1e-12, atol=0)


def test_an_image_that_does_not_fit_alone_is_an_error():
    model = network()
    model[3] = Small(0)
    before = fingerprint(model)
    with pytest.raises(torch.OutOfMemoryError):
        channel_relevance(model, X, Y)
    assert not differences(before, fingerprint(model))
