"""Small networks in which a number that is read from one activation is the size of another. Input: (N, 3, 8, 8)."""

from __future__ import annotations

import torch
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
}
