"""From relevance per image to one score per channel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gcp_core.errors import RelevanceError
from gcp_core.models import build_model
from gcp_core.relevance import channel_relevance, feature_relevance_scores
from gcp_core.relevance.frs import class_sums, class_weights, scores_from_sums, winsorised
from tests.oracles.relevance_slow import frs_by_loops


def small_case() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = build_model("vgg_tiny", 4, width=0.125).double()
    return (
        model,
        torch.randn(12, 3, 8, 8, dtype=torch.float64),
        torch.tensor([0, 0, 1, 1, 1, 3, 3, 3, 3, 0, 1, 3]),
    )


def batched(x: torch.Tensor, y: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(size), y.split(size)))


def test_scores_equal_the_loops_over_images_and_classes_with_an_empty_class():
    model, x, y = small_case()  # no image of class 2
    accuracy = [0.5, 0.0, 0.9, 1.0]
    scores = feature_relevance_scores(model, batched(x, y, 5), 4, class_accuracy=accuracy)
    for layer, relevance in channel_relevance(model, x, y).items():
        expected = frs_by_loops(relevance, y, accuracy)
        assert torch.allclose(scores[layer], expected, rtol=1e-10, atol=1e-12), layer
        assert scores[layer].dtype == torch.float64
        assert float(scores[layer].norm()) == pytest.approx(1.0, abs=1e-5)


def test_class_accuracy_is_measured_in_the_same_pass():
    """The network takes every image for one of class 0, so it is right about that class and no other."""
    model, x, y = small_case()
    with torch.no_grad():
        model.classifier[0].bias[0] += 1000.0
    measured = feature_relevance_scores(model, batched(x, y, 4), 4)
    given, equal = (
        feature_relevance_scores(model, batched(x, y, 4), 4, class_accuracy=accuracy)
        for accuracy in ([1.0, 0.0, 0.0, 0.0], [1.0] * 4)
    )
    assert measured.keys() == given.keys()
    assert all(torch.equal(measured[layer], given[layer]) for layer in given)
    assert differ(measured, equal), "the accuracies matter here"


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """By far more than by rounding."""
    return any(not torch.allclose(a[layer], b[layer], rtol=1e-4, atol=1e-6) for layer in a)


def test_scores_do_not_depend_on_how_the_images_are_batched():
    model, x, y = small_case()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    one = feature_relevance_scores(model, [(x, y)], 4)
    many = feature_relevance_scores(model, batched(x[order], y[order], 5), 4)
    for layer in one:
        assert torch.allclose(one[layer], many[layer], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ([1.0, 0.5], [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]),
        ([80.0, 40.0], [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]),  # per cent: only ratios count
        ([1.0, 0.0], [1 / (1 + math.exp(-1)), 1.0]),
        ([0.0, 0.0], [1.0, 1.0]),
    ],
)
def test_class_weights_are_the_sigmoid_of_the_inverse_relative_accuracy(accuracy, expected):
    weights = class_weights(torch.tensor(accuracy, dtype=torch.float64), 2)
    assert weights.tolist() == pytest.approx(expected, abs=1e-15)


def test_signs_survive_until_after_the_class_mean():
    relevance = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    sums = class_sums(relevance, torch.tensor([0, 1]), 2)
    scores = scores_from_sums(sums, torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert scores.tolist() == pytest.approx([0.0, 1.0], abs=1e-8)


def test_sums_are_accumulated_in_float64():
    # 1 + 2^-30 is 1 in float32
    relevance = torch.tensor([[1.0], [2.0**-30]])
    assert class_sums(relevance, torch.tensor([0, 0]), 1).item() == 1.0 + 2.0**-30


def test_winsorising_clips_each_channel_at_both_quantiles():
    column = torch.arange(101, dtype=torch.float64)
    clipped = winsorised(torch.stack([column, 10 * column], 1), 0.95)
    assert clipped[:, 0].min() == pytest.approx(5.0)
    assert clipped[:, 0].max() == pytest.approx(95.0)
    assert clipped[:, 1].max() == pytest.approx(950.0)
    assert torch.equal(clipped[10:90, 0], column[10:90])


def test_winsorising_at_one_changes_nothing():
    model, x, y = small_case()
    plain = feature_relevance_scores(model, batched(x, y, 5), 4)
    clipped = feature_relevance_scores(model, batched(x, y, 5), 4, winsorise=1.0)
    for layer in plain:
        assert torch.allclose(plain[layer], clipped[layer], rtol=1e-10, atol=1e-13)
    assert differ(plain, feature_relevance_scores(model, batched(x, y, 5), 4, winsorise=0.8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 5}, "num_classes: the model has 4 classes, not 5"),
        ({"class_accuracy": [1.0, 1.0]}, r"class_accuracy: \(2,\) accuracies for 4 classes"),
        ({"class_accuracy": [1.0, float("nan"), 1.0, 1.0]}, "class_accuracy: accuracies must be finite"),
        ({"winsorise": 0.3}, r"winsorise: 0.3 is not in \(0.5, 1\]"),
        ({"read": "skip"}, "read: 'skip' is unknown"),
        ({"stabiliser": "sign"}, "stabiliser: 'sign' is unknown .did you mean .signed"),
        ({"batches": []}, "batches: there are no images to score"),
    ],
)
def test_bad_input_is_refused_with_its_place(options, message):
    model, x, y = small_case()
    arguments = {"batches": [(x, y)], "num_classes": 4, **options}
    with pytest.raises(RelevanceError, match=message):
        feature_relevance_scores(model, **arguments)
