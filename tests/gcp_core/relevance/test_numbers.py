"""The published program's numbers on a thin VGG-16-BN (tests/data/vgg16bn_thin_case.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gcp_core.models import build_model
from gcp_core.relevance import channel_relevance, feature_relevance_scores

CASE = np.load(Path(__file__).parents[2] / "data" / "vgg16bn_thin_case.npz")
CONVS = [f"features.{i}" for i in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)]
HIDDEN = "classifier.0"
DTYPES = {"f32": torch.float32, "f64": torch.float64}


def thin_vgg(dtype: torch.dtype) -> torch.nn.Module:
    model = build_model("vgg16_bn", 10, width=0.125)
    model.load_state_dict({k[3:]: torch.from_numpy(CASE[k]) for k in CASE.files if k.startswith("sd/")})
    return model.to(dtype)


def images(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(CASE["x"]).to(dtype), torch.from_numpy(CASE["y"]).long()


def worst(found: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference, relative to the layer's largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    ("precision", "stabiliser", "expected", "tolerance"),
    [
        ("f64", "published", "f64", 1e-9),
        ("f32", "published", "f32", 2e-5),
        ("f64", "signed", "f64", 1e-7),
        ("f32", "signed", "f64", 2e-5),
    ],
)
def test_relevance_equals_the_check_numbers(precision, stabiliser, expected, tolerance):
    dtype = DTYPES[precision]
    found = channel_relevance(thin_vgg(dtype), *images(dtype), stabiliser=stabiliser)
    assert list(found) == [*CONVS, HIDDEN]
    for i, name in enumerate(CONVS):
        assert found[name].dtype == dtype
        assert worst(found[name], CASE[f"{expected}/relevance_conv{i:02d}"]) < tolerance, name
    assert worst(found[HIDDEN], CASE[f"{expected}/relevance_fc_hidden"]) < tolerance


@pytest.mark.parametrize(("stabiliser", "tolerance"), [("published", 5e-8), ("signed", 1e-7)])
def test_scores_equal_the_check_numbers_from_class_accuracies(stabiliser, tolerance):
    scores = published_scores(torch.float64, stabiliser=stabiliser)
    for i, name in enumerate(CONVS):
        if i >= 2:
            assert np.abs(scores[name].numpy() - CASE[f"f64/frs_conv{i:02d}"]).max() < tolerance, name
    assert np.abs(scores[HIDDEN].numpy() - CASE["f64/frs_fc_hidden"]).max() < tolerance


def test_scores_equal_the_check_numbers_from_the_stored_weights_to_1e_9():
    # scale = sigmoid(1 / relative accuracy), stored in float32; inverted, it is the accuracy that gives it exactly
    scale = torch.from_numpy(CASE["scale"]).double()
    accuracy = 1.0 / torch.logit(scale)
    accuracy_max = float(accuracy.max())
    x, y = images(torch.float64)
    relevance = channel_relevance(thin_vgg(torch.float64), x, y, stabiliser="published")
    counts = torch.bincount(y, minlength=10).double()
    for i, name in enumerate(CONVS):
        if i < 2:
            continue
        sums = torch.zeros(10, relevance[name].shape[1], dtype=torch.float64).index_add_(
            0, y, relevance[name]
        )
        s = (sums * (scale / counts)[:, None]).mean(0).abs()
        assert np.abs((s / (s.norm() + 1e-9)).numpy() - CASE[f"f64/frs_conv{i:02d}"]).max() < 1e-9, name
    assert accuracy_max == pytest.approx(1.0, abs=1e-6)


def published_scores(dtype: torch.dtype, **options) -> dict[str, torch.Tensor]:
    x, y = images(dtype)
    batches = [(x[:7], y[:7]), (x[7:], y[7:])]
    return feature_relevance_scores(thin_vgg(dtype), batches, 10, class_accuracy=CASE["class_acc"], **options)


@pytest.mark.parametrize("stabiliser", ["published", "signed"])
def test_the_60_channels_and_8_hidden_units_picked_are_the_published_ones(stabiliser):
    scores = published_scores(torch.float64, stabiliser=stabiliser)
    # ties by lowest channel, then lowest column; column c holds conv 12 - c
    ranked = sorted(
        (float(s), i, 12 - conv) for conv in range(2, 13) for i, s in enumerate(scores[CONVS[conv]])
    )
    picks = [(channel, column) for _, channel, column in ranked[:60]]
    assert picks == [tuple(row) for row in CASE["round1/order"].tolist()]
    hidden = scores[HIDDEN].argsort(stable=True)[:8]
    assert sorted(hidden.tolist()) == sorted(CASE["round1/fc_hidden"].tolist())


def test_relevance_is_conserved_from_the_logits_to_the_first_convolution():
    found = channel_relevance(thin_vgg(torch.float64), *images(torch.float64))
    sides = {0: 32, 1: 32, 2: 16, 3: 16, 4: 8, 5: 8, 6: 8, 7: 4, 8: 4, 9: 4, 10: 2, 11: 2, 12: 2}
    for i, name in enumerate(CONVS):
        total = found[name].sum(1) * sides[i] ** 2
        assert torch.allclose(total, torch.ones(20, dtype=torch.float64), atol=1e-6), name
        assert np.abs(CASE["f64/sum_read"][i] - 1).max() < 1e-6
