"""The hashed convolution against loops, against the plain convolution where they must agree, and its count."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gcp_core.errors import ConfigError, ModelError
from gcp_core.haste.convolution import HasteConv2d, why_not
from gcp_core.haste.hashing import CENTRES, MOST_BITS, Hashing, buckets, projections
from gcp_core.haste.tally import Tally, TileCost
from tests.oracles.haste import haste_conv

#: Enough bits for the few channels of these tests never to meet by chance.
MANY = 48


def conv_of(channels: int, filters: int, kernel: int = 3, *, bias: bool = True, padding=None) -> nn.Conv2d:
    torch.manual_seed(channels + filters)
    padding = kernel // 2 if padding is None else padding
    return nn.Conv2d(channels, filters, kernel, padding=padding, bias=bias).double().eval()


def hashed(conv: nn.Conv2d, bits: int, merged: bool = False, **more) -> HasteConv2d:
    return HasteConv2d(conv, "layer", Hashing(bits, **more), Tally(), merged).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize(
    ("kernel", "pad", "bits", "height", "width"),
    [(3, 1, 2, 8, 7), (3, 0, 3, 6, 9), (1, 0, 3, 5, 4), (5, 2, 4, 6, 6), (3, 1, 0, 4, 4)],
)
def test_outputs_and_counts_are_those_of_the_loops(merged, centre, kernel, pad, bits, height, width):
    conv = conv_of(6, 4, kernel, bias=False, padding=pad)
    images = noise(2, 6, height, width).relu()
    ours = hashed(conv, bits, merged, centre=centre)
    vectors = projections(ours.hashing, "layer", (kernel + 2) ** 2).numpy()
    outputs, macs = haste_conv(images.numpy(), conv.weight.detach().numpy(), pad, vectors, centre)
    with torch.no_grad():
        found = ours(images)
    torch.testing.assert_close(found, torch.from_numpy(outputs), rtol=0, atol=1e-12)
    assert ours.tally.take().tolist() == macs.tolist()


def test_channels_that_are_copies_are_merged_without_any_loss():
    conv = conv_of(12, 5)
    images = noise(3, 4, 10, 10).repeat(1, 3, 1, 1)  # channels i, i + 4 and i + 8 are equal
    ours = hashed(conv, MANY)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), conv(images), rtol=0, atol=1e-12)
    products, *_, sums = ours.tally.take()[0].tolist()
    assert products == 9 * 4 * 5 * 100, "4 buckets instead of 12 channels"
    assert sums == 9 * 8 * 5 * 16, "8 filters added in each of the 16 tiles"


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_without_any_merging_it_is_the_convolution_padding_and_bias_included(kernel):
    conv = conv_of(4, 6, kernel)
    images = noise(2, 4, 11, 8)
    ours = hashed(conv, MANY)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), conv(images), rtol=0, atol=1e-12)
    assert ours.tally.take()[:, 0].tolist() == [kernel**2 * 4 * 6 * 88] * 2, "as many as the convolution's"


@pytest.mark.parametrize("padding", ["same", "valid", (2, 0)])
def test_padding_by_name_and_by_side_is_the_convolutions(padding):
    conv = conv_of(3, 2, 3, padding=padding)
    images = noise(1, 3, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(hashed(conv, MANY)(images), conv(images), rtol=0, atol=1e-12)


def test_with_no_bits_it_is_the_sum_of_the_filters_on_the_mean_channel():
    conv = conv_of(5, 3)
    images = noise(2, 5, 6, 6)
    closed = F.conv2d(images.mean(1, keepdim=True), conv.weight.sum(1, keepdim=True), conv.bias, padding=1)
    with torch.no_grad():
        torch.testing.assert_close(hashed(conv, 0)(images), closed, rtol=0, atol=1e-12)


def test_the_cost_of_a_tile_is_the_formula():
    # K^2 C' O p + (nonzero C + 2 d C) + d C + K^2 (C - C') O  with K 3, C 8, C' 5, O 4, p 9, d 25, 30 entries
    cost = TileCost(kernel=9, channels=8, filters=4, patch=25, nonzero=30, centred=True)
    parts = cost.macs(torch.tensor([5]), torch.tensor([9]))[0].tolist()
    assert parts == [9 * 5 * 4 * 9, 30 * 8 + 2 * 25 * 8, 25 * 8, 9 * 3 * 4]


def test_a_projection_costs_its_share_of_entries_on_average():
    found = [
        projections(Hashing(20, sparsity, seed), "layer", 25).count_nonzero().item()
        for sparsity in (0.5, 2 / 3)
        for seed in range(40)
    ]
    # L d (1 - s) = 250 and 166.7; 40 draws of 500 entries: standard errors 1.8 and 1.7
    assert sum(found[:40]) / 40 == pytest.approx(250, abs=7)
    assert sum(found[40:]) / 40 == pytest.approx(500 / 3, abs=7)


def test_both_signs_are_as_likely():
    drawn = projections(Hashing(MOST_BITS, 0.5), "layer", 1000)
    assert set(drawn.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert abs((drawn == 1).sum() - (drawn == -1).sum()) < 4 * math.sqrt(26_000)


def test_one_seed_gives_one_output_and_another_seed_another():
    conv, images = conv_of(8, 4), noise(2, 8, 9, 9)
    with torch.no_grad():
        first, again, other = (hashed(conv, 2, seed=seed)(images) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_layers_draw_their_own_projections():
    setting = Hashing(8)
    assert not torch.equal(projections(setting, "a", 25), projections(setting, "b", 25))


def test_more_bits_only_split_buckets():
    conv, images = conv_of(16, 4), noise(2, 16, 12, 12)
    costs = []
    for bits in (0, 1, 2, 4, 8, 16, 32):
        ours = hashed(conv, bits)
        ours(images)
        costs.append(ours.tally.take()[:, 0].tolist())
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_images_do_not_depend_on_who_else_is_in_the_batch(monkeypatch):
    conv, images = conv_of(6, 4), noise(5, 6, 9, 9)
    ours = hashed(conv, 3)
    with torch.no_grad():
        together, count = ours(images), ours.tally.take()
        monkeypatch.setattr("gcp_core.haste.convolution._AT_ONCE", 1)  # one image at a time
        apart = ours(images)
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-12)
    assert torch.equal(ours.tally.take(), count)


def test_buckets_are_numbered_in_the_order_of_the_codes():
    members, number = buckets(torch.tensor([[7, 2, 7, 9], [5, 5, 5, 5]]))
    assert members.tolist() == [[1, 0, 1, 2], [0, 0, 0, 0]]
    assert number.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(4, 4, 3, stride=2), "stride 2"),
        (nn.Conv2d(4, 4, 3, stride=(1, 2)), "stride 1 x 2"),
        (nn.Conv2d(4, 4, 3, groups=4), "4 groups"),
        (nn.Conv2d(4, 4, 2), "even kernel 2"),
        (nn.Conv2d(4, 4, 3, dilation=2), "dilation 2"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding by reflect"),
        (nn.Conv2d(4, 4, (1, 3)), ""),
    ],
)
def test_what_cannot_be_replaced_says_why(conv, reason):
    assert why_not(conv) == reason
    if reason:
        with pytest.raises(ModelError, match="cannot be replaced"):
            hashed(conv, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bits": -1}, "L: -1 is not a number of hash bits (a whole number from 0 to 52)"),
        ({"bits": 53}, "L: 53 is not a number of hash bits"),
        ({"bits": 2.0}, "L: 2.0 is not a number of hash bits"),
        ({"bits": 4, "sparsity": 1.0}, "s: 1.0 is not a share of zeros (from 0 to below 1"),
        ({"bits": 4, "sparsity": -0.1}, "s: -0.1 is not a share of zeros"),
        ({"bits": 4, "sparsity": float("nan")}, "s: nan is not a share of zeros"),
        ({"bits": 4, "centre": "both"}, "centre: 'both' is not known (one of channel, pixel, none)"),
    ],
)
def test_settings_out_of_range_are_refused(given, said):
    with pytest.raises(ConfigError) as caught:
        Hashing(**given)
    assert str(caught.value).startswith(said)
