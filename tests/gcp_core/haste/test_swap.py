"""Which convolutions of a model are replaced, which are left and listed, and what the whole then costs."""

import copy

import pytest
import torch
from torch import nn

from gcp_core.cost import measure_cost
from gcp_core.errors import DataError, ModelError
from gcp_core.groups import find_groups
from gcp_core.haste import Hashing, measure_haste, swap, swappable
from gcp_core.haste.swap import COUNTED
from gcp_core.models import build_model
from gcp_core.selection import Budget, select_channels
from gcp_core.surgery import apply_plan

EXAMPLE = torch.zeros(1, 3, 16, 16)


def images(number: int) -> torch.Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(3))


class Branches(nn.Module):
    """One convolution of every kind that is left, one that is not, by two names, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.twice
        self.strided = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, padding=1)
        self.even = nn.Conv2d(8, 8, 2)
        self.idle = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.again(self.twice(self.first(x)).relu()).relu()
        return self.fc(self.even(self.grouped(self.strided(x))).mean((2, 3)))


def test_strided_grouped_and_even_kernels_are_left_and_listed():
    found = swappable(Branches().eval(), EXAMPLE)
    assert found.replaced == ("twice",)
    assert found.left == {
        "first": "reads the images",
        "strided": "stride 2",
        "grouped": "2 groups",
        "even": "even kernel 2",
        "idle": "does not run",
    }


def test_a_convolution_that_runs_twice_under_two_names_is_replaced_and_counted_twice():
    model = Branches().eval()
    swapped = swap(model, swappable(model, EXAMPLE), Hashing(50))
    assert swapped.model.twice is swapped.model.again
    with torch.no_grad():
        swapped.model(images(2))
    products = swapped.macs()[:, 0]
    assert (products <= 2 * 9 * 8 * 8 * 256).all()
    assert (products > 9 * 8 * 8 * 256).all()


def test_every_other_convolution_of_a_resnet_is_replaced_and_the_model_itself_is_untouched():
    model = build_model("resnet20", 10).eval()
    before = copy.deepcopy(model.state_dict())
    found = swappable(model, EXAMPLE)
    assert set(found.left.values()) == {"reads the images", "stride 2"}
    assert len(found.replaced) == 16
    swapped = swap(model, found, Hashing(4))
    with torch.no_grad():
        swapped.model(images(2))
    assert [type(m) for m in model.modules() if isinstance(m, nn.Conv2d)] == [nn.Conv2d] * len(
        [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert swapped.model.state_dict().keys() == before.keys()


def test_the_total_is_the_counters_where_nothing_is_merged_and_nothing_is_charged():
    """Products plus the rest = torch's own count of the plain model, for no two channels share a code."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.Flatten())
    found = swappable(model, EXAMPLE)
    swapped = swap(model, found, Hashing(48))
    with torch.no_grad():
        swapped.model(images(3))
    macs = dict(zip(COUNTED, swapped.macs().T.tolist(), strict=True))
    plain = measure_cost(model, EXAMPLE).macs
    assert [a + b for a, b in zip(macs["products"], macs["untouched"], strict=True)] == [plain] * 3
    assert macs["filter_sums"] == [0] * 3


def test_a_pruned_model_is_replaced_like_any_other():
    model = build_model("resnet20", 10).eval()
    groups = find_groups(model, EXAMPLE, residual="scatter")
    scores = {
        name: module.weight.detach().abs().sum((1, 2, 3))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    apply_plan(model, select_channels(scores, groups, Budget(ratio=0.4)))
    model.double()
    swapped = swap(model, swappable(model, EXAMPLE), Hashing(50))
    with torch.no_grad():
        logits, plain = swapped.model(images(2).double()), model(images(2).double())
    assert (logits - plain).abs().max() < 0.05 * plain.abs().max()
    assert (swapped.macs() > 0).all()


def test_settings_are_measured_beside_the_plain_model_on_the_same_images():
    model = build_model("vgg_tiny", 10).eval()
    found = swappable(model, EXAMPLE)
    batches = [(images(6), torch.arange(6)), (images(4), torch.arange(4))]
    ticks = iter(range(1000))
    measured = measure_haste(
        model, found, [Hashing(bits) for bits in (0, 4)], batches, clock=lambda: float(next(ticks))
    )
    assert (measured.images, measured.macs) == (10, found.cost.macs)
    with torch.no_grad():
        hits = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    assert measured.accuracy == pytest.approx(10 * hits)
    none, four = measured.hashed
    assert (none.bits, four.bits) == (0, 4)
    # Every image costs the same where all channels are one.
    assert none.macs_sd == 0
    assert none.macs_low == none.macs_high == none.macs_mean
    assert four.macs_low < four.macs_mean < four.macs_high
    assert four.macs_sd > 0
    for one in measured.hashed:
        assert sum(one.parts.values()) == pytest.approx(one.macs_mean)
        # The clock ticks once a second: two batches of 6 and 4 images took a second each.
        assert one.ms == pytest.approx(1000 * (1 / 6 + 1 / 4) / 2)
        assert one.time_share == one.time_share_low == one.time_share_high == 1.0


def test_a_model_without_any_such_convolution_is_refused_with_the_reasons():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten())
    with pytest.raises(
        ModelError, match=r"none of its convolutions can be replaced \(0: reads the images; 1: stride 2\)"
    ):
        swappable(model, EXAMPLE)
    with pytest.raises(ModelError, match="it has no convolution"):
        swappable(nn.Flatten(), EXAMPLE)


def test_no_images_are_an_error_and_not_a_division_by_zero():
    model = build_model("vgg_tiny", 10).eval()
    with pytest.raises(DataError, match="no images"):
        measure_haste(model, swappable(model, EXAMPLE), [Hashing(2)], [])


def test_images_that_are_folded_into_the_batch_inside_the_model_are_refused():
    """Their multiply-adds would be counted to the wrong image."""

    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.third = nn.Conv2d(4, 4, 3)

        def forward(self, x):
            x = self.second(self.first(x))
            return self.third(torch.cat([x, x])).mean((2, 3))[: len(x)]

    model = Crops().eval()
    swapped = swap(model, swappable(model, EXAMPLE), Hashing(2))
    with torch.no_grad():
        swapped.model(images(2))
    with pytest.raises(ModelError, match="third: saw 4 images where others saw 2"):
        swapped.macs()
