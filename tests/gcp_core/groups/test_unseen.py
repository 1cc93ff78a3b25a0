"""Operations that are not seen by their names: scripted functions, extensions, NumPy."""

import ctypes

import numpy as np
import pytest
import torch
from torch import nn

from gcp_core.groups import find_groups
from tests.oracles.nets import images, lively, removed_against_gated
from tests.oracles.small_nets import Net, block

X = images(size=8)
UNSEEN = "an operation that is not seen reads it (is it scripted?)"


@torch.jit.script
def relu_and_half(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) + 0.5 * x


def scripted(x):
    return relu_and_half(x)


def hidden(x):
    with torch._C.DisableTorchFunction():
        return torch.nn.functional.silu(x)


def mapped(x):
    return torch.func.vmap(torch.relu)(x)


class InARow(Net):
    """An activation as a scripted function: the trace sees nothing of it."""

    def __init__(self, activation=scripted):
        super().__init__(6, mid=block(8, 7), out=block(7, 6))
        self.activation = activation

    def body(self, x):
        return self.out(self.activation(self.mid(x)))


class AfterASum(Net):
    """A block's first convolution reads the stream before its scripted activation, the next block reads it after."""

    def __init__(self, activation=scripted):
        super().__init__(6, c1=block(8, 7), c2=block(7, 8), c3=block(8, 9), out=block(9, 6))
        self.activation = activation

    def body(self, x):
        x = self.activation(x + self.c2(self.c1(x)))
        return self.out(self.c3(x))


class BesideAReader(Net):
    """One activation is read by a convolution and by a scripted function."""

    def __init__(self, activation=scripted):
        super().__init__(6, c1=block(8, 7), c2=block(8, 7), out=block(7, 6))
        self.activation = activation

    def body(self, x):
        return self.out(self.c1(x) + self.c2(self.activation(x)))


def doubled_in_memory(x):
    """As a kernel of one's own, which is told where the values are."""
    out = torch.empty(x.shape[0], 7, 8, 8, dtype=x.dtype)
    ctypes.memmove(out.data_ptr(), x.data_ptr(), out.numel() * 8)
    return out


WAYS = {
    "numpy": lambda x: torch.from_numpy(x.numpy() * 2),
    "__array__": lambda x: torch.from_numpy(np.asarray(x) * 2),
    "tolist": lambda x: torch.tensor(x.tolist(), dtype=x.dtype),
    "data_ptr": doubled_in_memory,
}


class OneByOne(InARow):
    """The images of a batch, one after the other."""

    def body(self, x):
        return self.out(torch.cat([image[None] for image in self.mid(x)]))


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


class OwnGradient(InARow):
    """A function with a gradient of its own is seen through; so are masks that are made on the way."""

    def __init__(self):
        super().__init__(Swish.apply)
        self.scale = torch.linspace(0.5, 1.5, 8)

    def body(self, x):
        mask = torch.arange(8) % 3 + torch.from_numpy(self.scale.numpy()) + torch.Tensor([1.0])
        return self.out(self.activation(self.mid(x)) * mask)


def build(net):
    torch.manual_seed(0)
    return lively(net)


@pytest.mark.parametrize("activation", [scripted, hidden, mapped])
@pytest.mark.parametrize(
    ("kind", "groups", "frozen"),
    [
        (InARow, ["stem.0", "out.0"], {"mid.0"}),
        (AfterASum, ["c1.0", "c3.0", "out.0"], {"stem.0", "c2.0"}),
        (BesideAReader, ["c1.0", "out.0"], {"stem.0"}),
    ],
)
def test_channels_that_an_unseen_operation_reads_stay_and_no_others(kind, groups, frozen, activation):
    model = build(kind(activation))
    found = find_groups(model, X)
    assert [group.name for group in found.groups] == groups
    assert {layer: reason for layer, reason in found.frozen.items() if layer != "fc"} == dict.fromkeys(
        frozen, UNSEEN
    )
    plan = found.plan({name: [1, 4] for name in groups})
    difference, moved = removed_against_gated(model, plan, X)
    assert difference <= 1e-12 < moved


@pytest.mark.parametrize("way", WAYS)
def test_values_that_leave_the_trace_are_of_channels_that_stay(way):
    found = find_groups(build(InARow(WAYS[way])), X)
    assert found.frozen["mid.0"] == f"{way} takes its values away"
    assert [group.name for group in found.groups] == ["stem.0", "out.0"]


@pytest.mark.parametrize("kind", [OneByOne, OwnGradient])
def test_batches_taken_apart_functions_with_their_own_gradient_and_constants_freeze_nothing(kind):
    model = build(kind())
    found = find_groups(model, X)
    assert [group.name for group in found.groups] == ["stem.0", "mid.0", "out.0"]
    difference, moved = removed_against_gated(model, found.plan({"mid.0": [1, 4]}), X)
    assert difference <= 1e-12 < moved


class Stolen(nn.Module):
    """Its result stands in memory of its own, and no operation on its input is seen."""

    def forward(self, x):
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            return nn.functional.silu(x)


def test_channels_that_nobody_is_seen_to_read_stay():
    found = find_groups(build(InARow(Stolen())), X)
    assert [group.name for group in found.groups] == ["stem.0", "out.0"]
    assert found.frozen["mid.0"] == "no layer is seen to read it (is it scripted?)"
