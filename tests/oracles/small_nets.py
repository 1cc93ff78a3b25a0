"""One small network for each thing channels can go through. Input: (N, 3, 8, 8) float64; output: 5 logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(num_in: int, num_out: int, kernel: int = 3, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, kernel, padding=kernel // 2, groups=groups, bias=bias)


def block(num_in: int, num_out: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(num_in, num_out, kernel, groups), nn.BatchNorm2d(num_out), nn.ReLU())


class Net(nn.Module):
    """``stem`` (3 -> 8), ``body(x)``, global mean, ``fc``."""

    def __init__(self, features: int, **parts: nn.Module) -> None:
        super().__init__()
        self.stem = block(3, 8)
        for name, part in parts.items():
            setattr(self, name, part)
        self.fc = nn.Linear(features, 5)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


class Concat(Net):
    def __init__(self):
        super().__init__(14, left=block(8, 6), right=conv(8, 5, 1), mix=block(11, 6))

    def body(self, x):
        y = torch.cat([self.left(x), self.right(x)], dim=1)
        return torch.cat((self.mix(y), x), 1)


class Dense(Net):
    """Features stay raw in the concatenation; each reader has a norm of its own."""

    def __init__(self):
        super().__init__(16, n1=nn.BatchNorm2d(8), c1=conv(8, 4), n2=nn.BatchNorm2d(12), c2=conv(12, 4))
        self.last = nn.BatchNorm2d(16)

    def body(self, x):
        x = torch.cat([x, self.c1(F.relu(self.n1(x)))], 1)
        x = torch.cat([x, self.c2(F.relu(self.n2(x)))], 1)
        return F.relu(self.last(x))


class Shuffle(Net):
    def __init__(self):
        super().__init__(8, inner=block(4, 6, 1), outer=block(6, 4, 1))

    def body(self, x):
        kept, worked = x.chunk(2, dim=1)
        x = torch.cat([kept, self.outer(self.inner(worked))], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class SqueezeExcite(Net):
    def __init__(self):
        super().__init__(6, wide=block(8, 12), down=conv(12, 4, 1, bias=True), up=conv(4, 12, 1, bias=True))
        self.out = block(12, 6)

    def body(self, x):
        x = self.wide(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.out(x * gate)


class LinearGate(Net):
    def __init__(self):
        super().__init__(8, down=nn.Linear(8, 3), up=nn.Linear(3, 8))

    def body(self, x):
        n, c, _, _ = x.size()
        gate = F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate.view(n, c, 1, 1)


class Depthwise(Net):
    def __init__(self):
        super().__init__(6, deep=block(8, 16, 3, groups=8), out=block(16, 6, 1))

    def body(self, x):
        return self.out(self.deep(x))


class ManyGroups(Net):
    def __init__(self):
        super().__init__(6, wide=block(8, 16, 1), grouped=block(16, 24, 3, groups=8), out=block(24, 6, 1))

    def body(self, x):
        return self.out(self.grouped(self.wide(x)))


class FewGroups(Net):
    def __init__(self):
        super().__init__(6, wide=block(8, 16, 1), grouped=block(16, 12, 3, groups=2), out=block(12, 6, 1))

    def body(self, x):
        return self.out(self.grouped(self.wide(x)))


class PreActivation(Net):
    def __init__(self):
        super().__init__(8, n1=nn.BatchNorm2d(8), c1=conv(8, 6), n2=nn.BatchNorm2d(6), c2=conv(6, 8))
        self.n3, self.c3, self.last = nn.BatchNorm2d(8), conv(8, 8), nn.BatchNorm2d(8)

    def body(self, x):
        x = x + self.c2(F.relu(self.n2(self.c1(F.relu(self.n1(x))))))
        x += self.c3(F.relu(self.n3(x)))
        return F.relu(self.last(x))


class PaddedShortcut(Net):
    """The parameter-free shortcut of the original CIFAR ResNet: stride by slicing, zero channels padded on."""

    def __init__(self):
        super().__init__(12, c1=block(8, 10), c2=conv(10, 12), norm=nn.BatchNorm2d(12))

    def body(self, x):
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return F.relu(self.norm(self.c2(F.max_pool2d(self.c1(x), 2))) + short)


class SpatialAttention(Net):
    def __init__(self):
        super().__init__(6, map=conv(8, 1, bias=True), out=block(8, 6))

    def body(self, x):
        return self.out(x * torch.sigmoid(self.map(x)))


class LayerScale(Net):
    def __init__(self):
        super().__init__(8, inner=block(8, 6), outer=conv(6, 8, 1, bias=True))
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def body(self, x):
        return x + self.scale * self.outer(self.inner(x))


class ScaledNorm(Net):
    """Per-channel values between a branch's last norm and the residual sum."""

    def __init__(self):
        super().__init__(8, inner=block(8, 6), outer=conv(6, 8), norm=nn.BatchNorm2d(8), act=nn.PReLU(8))
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)

    def body(self, x):
        return x + self.act(self.norm(self.outer(self.inner(x))) * self.scale)


class ChannelsLastMlp(Net):
    """Layer norm over the channels fixes the stream; the hidden layer in between is free."""

    def __init__(self):
        super().__init__(8, norm=nn.LayerNorm(8), up=nn.Linear(8, 12), down=nn.Linear(12, 8))

    def body(self, x):
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1)))))
        return x + y.permute(0, 3, 1, 2)


class SigmoidFirst(Net):
    """A sigmoid in front of a conv: a gated channel would be 0.5 there, so it must stay."""

    def __init__(self):
        super().__init__(6, mid=conv(8, 7), out=block(7, 6))

    def body(self, x):
        return self.out(torch.sigmoid(self.mid(x)))


class Prelu(Net):
    def __init__(self):
        super().__init__(6, mid=conv(8, 7, bias=True), act=nn.PReLU(7), out=block(7, 6))

    def body(self, x):
        return self.out(self.act(self.mid(x)))


class Clamped(Net):
    """min 0 keeps zero, min 0.1 does not; a pool that also returns indices is not followed."""

    def __init__(self):
        super().__init__(6, mid=block(8, 7), other=block(7, 5), out=block(5, 6), last=block(6, 6))

    def body(self, x):
        y = self.other(torch.clamp(self.mid(x), min=0, max=6))
        y = self.out(y.clamp(0.1, 6.0))
        return self.last(F.max_pool2d(-y, 2, return_indices=True)[0])


class Shifted(Net):
    """A constant is added: zero does not stay zero."""

    def __init__(self):
        super().__init__(6, mid=block(8, 7), out=block(7, 6))

    def body(self, x):
        return self.out(self.mid(x) + 1.0)


class FixedView(Net):
    """A literal size in a view cannot follow; the other layers can."""

    def __init__(self):
        super().__init__(8, mid=block(8, 6), out=block(6, 8))

    def body(self, x):
        return self.out(self.mid(x)).view(-1, 8, 64).unsqueeze(-1)


class Unknown(Net):
    """``cumsum`` over the channels is no operation the analysis follows."""

    def __init__(self):
        super().__init__(6, mid=block(8, 7), out=block(7, 6))

    def body(self, x):
        return self.out(torch.cumsum(self.mid(x), 1))


class WrittenInPlace(Net):
    def __init__(self):
        super().__init__(6, mid=block(8, 7), out=block(7, 6))

    def body(self, x):
        y = self.mid(x)
        y[:, 0] = 1.0
        return self.out(y)


class Transposed(Net):
    def __init__(self):
        super().__init__(6, mid=block(8, 7), up=nn.ConvTranspose2d(7, 6, 2, 2), out=block(6, 6))

    def body(self, x):
        return self.out(self.up(self.mid(x)))


class FlatHead(Net):
    def __init__(self):
        super().__init__(
            6, mid=block(8, 4), hidden=nn.Linear(4 * 16, 9), norm=nn.BatchNorm1d(9), low=nn.Linear(9, 6)
        )

    def body(self, x):
        y = F.avg_pool2d(self.mid(x), 2)
        y = self.low(F.relu(self.norm(self.hidden(y.reshape(y.size(0), -1)))))
        return y[:, :, None, None]


class ExtraHead(Net):
    """A head that exists in training mode only."""

    def __init__(self):
        super().__init__(6, mid=block(8, 7), side=block(7, 4), head=nn.Linear(4, 5), out=block(7, 6))

    def forward(self, x):
        y = self.mid(self.stem(x))
        out = self.fc(self.out(y).mean((2, 3)))
        return (out, self.head(self.side(y).mean((2, 3)))) if self.training else out


class Products(Net):
    """A matrix product outside of conv and linear layers (its MACs still count)."""

    def __init__(self):
        super().__init__(8, mid=block(8, 6), out=block(6, 8))

    def body(self, x):
        y = self.out(self.mid(x))
        flat = y.flatten(2)
        return (torch.softmax(flat @ flat.transpose(1, 2), -1) @ flat).reshape(y.shape)


class ZerosBeside(Net):
    """Zeros made like an activation lose the channels that it loses."""

    def __init__(self):
        super().__init__(6, out=block(16, 6))

    def body(self, x):
        return self.out(torch.cat([x, torch.zeros_like(x)], 1))


class OnesBeside(ZerosBeside):
    """A one stays a one when its channel is gated."""

    def body(self, x):
        return self.out(torch.cat([torch.ones_like(x), x], 1))


class NewZerosBeside(ZerosBeside):
    def body(self, x):
        return self.out(torch.cat([x, x.new_zeros(x.size(0), x.size(1), *x.shape[2:])], 1))


class ZerosOfASizeBeside(ZerosBeside):
    def body(self, x):
        n, c, h, w = x.shape
        return self.out(torch.cat([x, torch.zeros(n, 16 - c, h, w, dtype=x.dtype)], 1))


class ExpandedBeside(ZerosBeside):
    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.ones(1, 1, 1, 1))

    def body(self, x):
        n, c, h, w = x.shape
        return self.out(torch.cat([x, self.level.expand(n, c, h, w)], 1))


class ExpandedAsBeside(ExpandedBeside):
    def body(self, x):
        return self.out(torch.cat([x, self.level.expand_as(x)], 1))


class PaddedToWidth(ZerosBeside):
    """The padding grows when channels go."""

    def body(self, x):
        return self.out(F.pad(x, (0, 0, 0, 0, 0, 16 - x.size(1))))


class PaddedOnBothSides(ZerosBeside):
    def body(self, x):
        side = (16 - x.shape[1]) // 2
        return self.out(F.pad(x, (0, 0, 0, 0, side, side)))


class Reordered(Net):
    """Channels that a stored number names would be others after a cut."""

    def __init__(self):
        super().__init__(6, out=block(8, 6))
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))

    def body(self, x):
        return self.out(x[:, self.order])


class ReorderedAtTheEnd(Reordered):
    def body(self, x):
        return self.out(x.permute(0, 2, 3, 1)[..., self.order.tolist()].permute(0, 3, 1, 2))


class Selected(Reordered):
    def body(self, x):
        return self.out(torch.index_select(x, 1, self.order))


class Narrowed(Reordered):
    def body(self, x):
        return self.out(x.narrow(1, 0, 8))


class NarrowedToItsSize(Reordered):
    def body(self, x):
        return self.out(x.narrow(1, 0, x.size(1)))


class Rolled(Reordered):
    def body(self, x):
        return self.out(x.roll(2, 1))


class RolledInSpace(Reordered):
    """Shifted windows: numbers along positions, not along channels."""

    def body(self, x):
        y = torch.roll(x.permute(0, 2, 3, 1), (1, 2), dims=(1, 2)).permute(0, 3, 1, 2)
        return self.out(y[:, :, self.order].index_select(3, self.order))


#: network -> units that can be removed, worked out by hand.
UNITS: dict[type[Net], int] = {
    Concat: 8 + 6 + 5 + 6,
    Dense: 8 + 4 + 4,
    Shuffle: 6 + 4,  # the halves are tied: 4 pairs with the outer conv
    SqueezeExcite: 8 + 12 + 4 + 6,
    LinearGate: 8 + 3,
    Depthwise: 8 + 6,
    ManyGroups: 8 + 8 + 6,
    FewGroups: 8 + 8 + 6 + 6,
    PreActivation: 8 + 6,
    PaddedShortcut: 10 + 8,  # the stem, tied to 8 of 12 channels; the other 4 meet the padding
    SpatialAttention: 8 + 6,
    LayerScale: 8 + 6,
    ScaledNorm: 8 + 6,
    ChannelsLastMlp: 12,
    SigmoidFirst: 8 + 6,
    Prelu: 8 + 7 + 6,
    Clamped: 8 + 7 + 6,
    Shifted: 8 + 6,
    FixedView: 8 + 6,
    Unknown: 8 + 6,
    WrittenInPlace: 8 + 6,
    Transposed: 8 + 6,
    FlatHead: 8 + 4 + 9 + 6,
    ExtraHead: 8 + 7 + 6,  # the head's own channels stay
    Products: 8 + 6,
    ZerosBeside: 8 + 6,
    **dict.fromkeys((OnesBeside, NewZerosBeside, ZerosOfASizeBeside, PaddedToWidth, PaddedOnBothSides), 6),
    **dict.fromkeys((ExpandedBeside, ExpandedAsBeside), 6),
    **dict.fromkeys((Reordered, ReorderedAtTheEnd, Selected, Narrowed, Rolled), 6),
    **dict.fromkeys((NarrowedToItsSize, RolledInSpace), 8 + 6),
}
