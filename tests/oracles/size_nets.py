"""Small networks in which a number that is read from one activation is the size of another. Input: (N, 3, 8, 8)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.oracles.small_nets import Net, block


class ViewedAsAnother(Net):
    """A view names the number of channels of another activation: they can only go together."""

    def __init__(self):
        super().__init__(6, mid=block(8, 8), out=block(8, 6))

    def body(self, x):
        n, c, h, w = x.shape
        return self.out(self.mid(x).view(n, c, h, w))


class ViewedInRows(Net):
    """Two rows of as many channels as another activation has."""

    def __init__(self):
        super().__init__(6, mid=block(8, 16), out=block(16, 6))

    def body(self, x):
        n, c, h, w = x.shape
        return self.out(self.mid(x).view(n, 2, c, h, w).transpose(1, 2).reshape(n, 2 * c, h, w))


class ExpandedAsAnother(Net):
    """What is read of the whole image stands beside every pixel."""

    def __init__(self):
        super().__init__(6, mid=block(8, 8, 1), out=block(16, 6))

    def body(self, x):
        return self.out(torch.cat([x, self.mid(F.adaptive_avg_pool2d(x, 1)).expand_as(x)], 1))


class ExpandedToAnother(ExpandedAsAnother):
    def body(self, x):
        return self.out(torch.cat([x, self.mid(F.adaptive_avg_pool2d(x, 1)).expand(x.shape)], 1))


class ExpandedToANumber(ExpandedAsAnother):
    """Eight channels, whatever goes."""

    def body(self, x):
        return self.out(torch.cat([x, self.mid(F.adaptive_avg_pool2d(x, 1)).expand(-1, 8, 8, 8)], 1))


class SplitAsAnother(Net):
    """Signal and gate in one layer, told apart by the width of what it reads."""

    def __init__(self):
        super().__init__(6, mid=block(8, 16), out=block(8, 6))

    def body(self, x):
        signal, gate = self.mid(x).split(x.size(1), dim=1)
        return self.out(signal * torch.sigmoid(gate))


class Regrouped(Net):
    """Twelve channels in as many rows as there are others: no channel stays one."""

    def __init__(self):
        super().__init__(6, mid=block(8, 12), out=block(8, 6))

    def body(self, x):
        n, c, _, w = x.shape
        return self.out(self.mid(x).view(n, c, -1, w))


class UnknownViewed(ViewedAsAnother):
    """What has no channels any more is viewed with the number of those of another activation."""

    def body(self, x):
        n, c, h, w = x.shape
        return self.out(torch.cumsum(self.mid(x), 1).view(n, c, h, w))


class Asks(Net):
    """Questions about an activation take none of its values."""

    def __init__(self):
        super().__init__(6, mid=block(8, 7), out=block(7, 6))

    def body(self, x):
        y = self.mid(x) if x.ndim == 4 and not x.is_cuda else x
        return self.out(F.avg_pool2d(y, 2)).view(len(y), -1, 4, 4)


class AsksForChannels(Asks):
    """Where channels come first, the length is their number, here as a value."""

    def body(self, x):
        y = self.mid(x)
        return self.out(y * (len(y.transpose(0, 1)) / 7))


class Scaled(Net):
    """The number of channels is a value, in one spelling or another: it has to stay."""

    def __init__(self):
        super().__init__(6, mid=block(8, 7), out=block(7, 6))

    def scaled(self, y):
        return y * (y.shape[1] / 7)

    def body(self, x):
        return self.out(self.scaled(self.mid(x)))


class ScaledByAPower(Scaled):
    def scaled(self, y):
        return y * y.shape[1] ** -0.5


class ScaledByARoot(Scaled):
    def scaled(self, y):
        return y / math.sqrt(y.shape[1])


class ScaledByAHalf(Scaled):
    def scaled(self, y):
        return y * (3 - round(y.shape[1] * 0.2) - 1 / y.size(1))


class ScaledByAnInteger(Scaled):
    def scaled(self, y):
        return y * (int(y.shape[1]) / 7)


class ScaledByElements(Scaled):
    def scaled(self, y):
        return 400 * y / y.numel()


class ScaledInside(Scaled):
    """The upper end of an activation."""

    def scaled(self, y):
        return F.hardtanh(y, -1.0, y.shape[1] / 14)


class OnlyLookedAt(Scaled):
    """Numbers of which nothing is made."""

    def scaled(self, y):
        assert y.numel() > y.shape[1] / 2 >= 1
        return y * (y.shape[2] / 7)


class CentredByHand(Scaled):
    """How many values a channel has is worked out from all of them: that number stays."""

    def scaled(self, y):
        n, c = y.shape[:2]
        mean = y.sum((2, 3), keepdim=True) / (y.numel() / (n * c))
        return y.view(n, c, y.numel() // (n * c)).view(y.shape) - mean


class SlicedToAnother(Net):
    def __init__(self):
        super().__init__(6, mid=block(8, 8), out=block(8, 6))

    def body(self, x):
        return self.out(self.mid(x)[:, : x.shape[1]])


class SplitInOne(SlicedToAnother):
    def body(self, x):
        (y,) = self.mid(x).split(x.shape[1], 1)
        return self.out(y)


class NarrowedToAnother(Net):
    """Eight of twelve channels: none of the twelve can go, and none of the eight."""

    def __init__(self):
        super().__init__(6, mid=block(8, 12), out=block(8, 6))

    def body(self, x):
        return self.out(self.mid(x).narrow(1, 0, x.shape[1]))


class PixelsToAWidth(Asks):
    """As many rows of pixels as there are channels."""

    def body(self, x):
        return self.out(self.mid(x)[:, :, : x.shape[1]])


class TwiceAndAHalf(SlicedToAnother):
    """All channels twice, and the first half of them: it is the same at first."""

    def body(self, x):
        y = self.mid(x)
        return self.out(torch.cat([y, y], 1)[:, :8])


class TwiceAndItself(TwiceAndAHalf):
    def body(self, x):
        y = self.mid(x)
        return self.out(torch.cat([y, y], 1)[:, : y.shape[1]])


class SplitLessEight(Net):
    """A half of sixteen channels, as a number that falls twice as fast."""

    def __init__(self):
        super().__init__(6, mid=block(8, 16), out=block(8, 6))

    def body(self, x):
        y = self.mid(x)
        signal, gate = y.split(y.shape[1] - 8, dim=1)
        return self.out(signal * torch.sigmoid(gate))


class SplitInHalves(SplitLessEight):
    def body(self, x):
        y = self.mid(x)
        signal, gate = y.split((y.shape[1] + 1) // 2, dim=1)
        return self.out(signal * torch.sigmoid(gate))


class SplitAtAShift(SplitLessEight):
    def body(self, x):
        y = self.mid(x)
        signal, gate = y.split((y.shape[1] + 1) >> 1, dim=1)
        return self.out(signal * torch.sigmoid(gate))


class RowsLessEight(Net):
    def __init__(self):
        super().__init__(6, mid=block(8, 16), out=block(16, 6))

    def body(self, x):
        y = self.mid(x)
        n, c, h, w = y.shape
        return self.out(y.view(n, 2, c - 8, h, w).transpose(1, 2).reshape(n, c, h, w))


class ViewedWithAConstant(Net):
    """Four channels beside those of the stem never go; the width is that of the stem and four."""

    def __init__(self):
        super().__init__(6, out=block(12, 6))

    def body(self, x):
        n, c, h, w = x.shape
        return self.out(torch.cat([x, x.new_ones(n, 4, h, w)], 1).view(n, c + 4, h, w))


class GainOfAnother(Net):
    """A parameter has the form of one activation and scales the other: both are tied."""

    def __init__(self):
        super().__init__(6, mid=block(8, 8), out=block(8, 6))
        self.gain = nn.Parameter(torch.rand(8) + 0.5)

    def body(self, x):
        return self.out(self.mid(x) * self.gain.sigmoid().view(1, x.shape[1], 1, 1))


class GainOfPixels(GainOfAnother):
    """Its form is a number of pixels, which stays."""

    def body(self, x):
        return self.out(self.mid(x) * self.gain.view(1, x.shape[2], 1, 1))


class GainOfNobody(GainOfAnother):
    """What has the form of the stem meets no channels."""

    def body(self, x):
        gain = self.gain.view(1, x.shape[1], 1, 1) * torch.ones(1, 8, 1, 1)
        return self.out(self.mid(x) * gain.mean())


#: network -> units that can be removed, worked out by hand.
UNITS: dict[type[Net], int] = {
    ViewedAsAnother: 8 + 6,  # 8 pairs of the stem's and mid's channels
    ViewedInRows: 8 + 6,  # 8 triples: two channels of mid in each
    ExpandedAsAnother: 8 + 6,
    ExpandedToAnother: 8 + 6,
    ExpandedToANumber: 8 + 6,  # mid stays
    SplitAsAnother: 8 + 6,  # 8 triples
    Regrouped: 6,
    UnknownViewed: 6,
    Asks: 8 + 7 + 6,
    AsksForChannels: 8 + 6,
    Scaled: 8 + 6,  # mid stays
    ScaledByAPower: 8 + 6,
    ScaledByARoot: 8 + 6,
    ScaledByAHalf: 8 + 6,
    ScaledByAnInteger: 8 + 6,
    ScaledByElements: 8 + 6,
    ScaledInside: 8 + 6,
    OnlyLookedAt: 8 + 7 + 6,
    CentredByHand: 8 + 7 + 6,
    SlicedToAnother: 8 + 6,  # 8 pairs
    SplitInOne: 8 + 6,
    NarrowedToAnother: 6,
    PixelsToAWidth: 7 + 6,  # the stem stays
    TwiceAndAHalf: 8 + 6,  # mid stays
    TwiceAndItself: 8 + 8 + 6,
    SplitLessEight: 8 + 6,
    SplitInHalves: 8 + 8 + 6,  # 8 pairs of mid's channels
    SplitAtAShift: 8 + 8 + 6,
    RowsLessEight: 8 + 6,
    ViewedWithAConstant: 8 + 6,
    GainOfAnother: 8 + 6,
    GainOfPixels: 8 + 6,
    GainOfNobody: 8 + 6,
}
