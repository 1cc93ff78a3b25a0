"""Small networks in which a module is called more than once. Input: (N, 3, 8, 8)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from tests.oracles.small_nets import Net, block, conv


class SharedMlp(Net):
    """CBAM's attention over channels: one small network reads the mean and the largest value of each."""

    def __init__(self):
        super().__init__(6, wide=block(8, 12), out=block(12, 6))
        self.mlp = nn.Sequential(conv(12, 4, 1, bias=True), nn.ReLU(), conv(4, 12, 1, bias=True))

    def second(self):
        return self.mlp

    def body(self, x):
        x = self.wide(x)
        mean, largest = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        return self.out(x * torch.sigmoid(self.mlp(mean) + self.second()(largest)))


class TwoMlps(SharedMlp):
    """The same network, written with a second module of the same weights."""

    def __init__(self):
        super().__init__()
        self.other = copy.deepcopy(self.mlp)

    def second(self):
        return self.other


class SharedLinear(Net):
    """As :class:`SharedMlp`, with linear layers."""

    def __init__(self):
        super().__init__(6, down=nn.Linear(8, 3), up=nn.Linear(3, 8), out=block(8, 6))

    def body(self, x):
        gate = sum(self.up(F.relu(self.down(y))) for y in (x.mean((2, 3)), x.amax((2, 3))))
        return self.out(x * torch.sigmoid(gate)[..., None, None])


class Recurrent(Net):
    """A convolution over and over."""

    def __init__(self):
        super().__init__(6, inner=block(8, 7), again=block(7, 7), out=block(7, 6))

    def body(self, x):
        return self.out(self.again(self.again(self.again(self.inner(x)))))


class SharedNorm(Net):
    """One norm behind two convolutions, the second of which ends a residual branch."""

    def __init__(self):
        super().__init__(5, first=conv(8, 6), deeper=block(6, 7), back=conv(7, 6), out=block(6, 5))
        self.norm = nn.BatchNorm2d(6)

    def body(self, x):
        x = self.norm(self.first(x))
        return self.out(x + self.norm(self.back(self.deeper(F.relu(x)))))


class SharedPrelu(Net):
    """One slope for each channel of two layers."""

    def __init__(self):
        super().__init__(6, act=nn.PReLU(8), inner=block(8, 8), out=block(8, 6))

    def body(self, x):
        return self.out(self.act(self.inner(self.act(x - 1))))


#: Units that can be removed, counted by hand: what a shared module reads or makes stays.
UNITS: dict[type[Net], int] = {
    SharedMlp: 8 + 6,
    SharedLinear: 6,
    Recurrent: 8 + 6,
    SharedNorm: 8 + 7 + 5,
    SharedPrelu: 6,
}
