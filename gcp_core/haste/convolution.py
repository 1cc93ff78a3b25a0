"""A convolution that merges similar channels patch by patch (HASTE), and counts what that costs.

The input is cut into patches of K + 2 pixels a side that overlap by K - 1; each makes a tile of 3 x 3 outputs. (The
sources say K + 2 and an overlap of 2 for K = 3; that 3 x 3 outputs come of it for every K is our reading.) In every patch
the channels with equal hash codes form a bucket B: their mean stands for them, and their filters are summed,

    y_o = sum over B of (sum of F_oi over i in B) * (mean of x_i over i in B).

Tiles that reach over the edge of the output are cut there; their patches are filled up with zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcp_core.errors import ModelError
from gcp_core.haste.hashing import Hashing, buckets, codes, projections
from gcp_core.haste.tally import PARTS, Tally, TileCost

#: Outputs of a tile, along each side.
TILE = 3
#: Numbers in the largest tensor that is made at once; more images are taken in turns.
_AT_ONCE = 1 << 22


def why_not(conv: nn.Conv2d) -> str:
    """Why a convolution is left as it is, in words; empty if it can be replaced."""
    if type(conv) is not nn.Conv2d:
        return f"a convolution of its own kind, {type(conv).__name__}"
    if conv.stride != (1, 1):
        return f"stride {_sides(conv.stride)}"
    if conv.groups != 1:
        return f"{conv.groups} groups"
    if any(side % 2 == 0 for side in conv.kernel_size):
        return f"even kernel {_sides(conv.kernel_size)}"
    if conv.dilation != (1, 1):
        return f"dilation {_sides(conv.dilation)}"
    if conv.padding_mode != "zeros":
        return f"padding by {conv.padding_mode}"
    return ""


class HasteConv2d(nn.Module):
    """Stands for ``conv`` and has its very parameters; for evaluation only.

    Args:
        layer: the convolution's name, by which its projections are drawn.
        tally: is told the multiply-adds of every image.
        merged: sum the filters of each patch and multiply once per bucket, which is what is counted. Otherwise the mean
            of a bucket takes the place of its channels, and the filters stay as they are: the same sum, by
            distributivity, in less time with dense kernels.

    Raises:
        ModelError: the convolution is none that can be replaced (:func:`why_not`).
    """

    vectors: Tensor

    def __init__(
        self, conv: nn.Conv2d, layer: str, hashing: Hashing, tally: Tally, merged: bool = False
    ) -> None:
        super().__init__()
        if reason := why_not(conv):
            raise ModelError(f"cannot be replaced: {reason}", layer)
        self.weight, self.bias = conv.weight, conv.bias
        self.layer, self.hashing, self.tally, self.merged = layer, hashing, tally, merged
        self.pad = _padding(conv)
        self.patch = (conv.kernel_size[0] + TILE - 1, conv.kernel_size[1] + TILE - 1)
        drawn = projections(hashing, layer, math.prod(self.patch))
        self.cost = TileCost(
            kernel=math.prod(conv.kernel_size),
            channels=conv.in_channels,
            filters=conv.out_channels,
            patch=math.prod(self.patch),
            nonzero=int(drawn.count_nonzero()),
            centred=hashing.centre != "none",
        )
        self.register_buffer("vectors", drawn.to(conv.weight), persistent=False)
        self.train(conv.training)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, O, H', W')``."""
        tiles = max(1, images[0, 0].numel() // TILE**2)
        widest = max(self.cost.patch, self.cost.kernel * self.cost.filters if self.merged else 0)
        step = max(1, _AT_ONCE // (tiles * self.cost.channels * widest))
        some = [self._some(images[first : first + step]) for first in range(0, len(images), step)]
        self.tally.add(self.layer, torch.cat([macs for _, macs in some]))
        return torch.cat([made for made, _ in some])

    def _some(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of some images, and their multiply-adds, ``(N, 4)``."""
        left, right, top, bottom = self.pad
        height = images.shape[2] + top + bottom - self.weight.shape[2] + 1
        width = images.shape[3] + left + right - self.weight.shape[3] + 1
        rows, columns = -(-height // TILE), -(-width // TILE)
        filled = F.pad(images, (left, right + TILE * columns - width, top, bottom + TILE * rows - height))
        # (N, C, rows, columns, *patch) -> (M, C, *patch), M = all tiles of all images
        patches = filled.unfold(2, self.patch[0], TILE).unfold(3, self.patch[1], TILE)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.cost.channels, *self.patch)
        members, number = buckets(codes(patches.flatten(2), self.vectors, self.hashing.centre))
        made = (_merged if self.merged else _spread)(patches, members, number, self.weight)
        made = made.reshape(len(images), rows, columns, -1, TILE, TILE).permute(0, 3, 1, 4, 2, 5)
        made = made.reshape(len(images), -1, TILE * rows, TILE * columns)[:, :, :height, :width]
        outputs = _lengths(height, rows)[:, None] * _lengths(width, columns)
        macs = self.cost.macs(number.reshape(len(images), rows, columns), outputs.to(number.device))
        if self.bias is not None:
            made = made + self.bias[:, None, None]
        return made, macs.reshape(len(images), -1, len(PARTS)).sum(1)


def _merged(patches: Tensor, members: Tensor, number: Tensor, weight: Tensor) -> Tensor:
    """One product per bucket: ``(M, C, *patch)`` to ``(M, O, 3, 3)``."""
    most, kernel = int(number.max()), weight[0, 0].numel()
    means = _means(patches, members, most)
    columns = F.unfold(means, weight.shape[2:])  # (M, most * K^2, 9)
    rows = (members + most * torch.arange(len(members), device=members.device)[:, None]).flatten()
    per_channel = weight.transpose(0, 1).reshape(1, weight.shape[1], -1).expand(len(members), -1, -1)
    summed = weight.new_zeros(len(members) * most, per_channel.shape[2])
    summed.index_add_(0, rows, per_channel.reshape(len(rows), -1))
    filters = summed.reshape(len(members), most, len(weight), kernel).transpose(1, 2).flatten(2)
    return (filters @ columns).reshape(len(members), len(weight), TILE, TILE)


def _spread(patches: Tensor, members: Tensor, number: Tensor, weight: Tensor) -> Tensor:
    """The same sum over channels: every channel's patch is its bucket's mean."""
    means = _means(patches, members, int(number.max()))
    own = means.gather(1, members[:, :, None, None].expand_as(patches))
    return F.conv2d(own, weight)


def _means(patches: Tensor, members: Tensor, most: int) -> Tensor:
    """Mean patch of every bucket, ``(M, most, *patch)``; zeros where a patch has fewer buckets."""
    number, _, *sides = patches.shape
    where = members[:, :, None, None].expand_as(patches)
    sums = patches.new_zeros(number, most, *sides).scatter_add_(1, where, patches)
    sizes = patches.new_zeros(number, most).scatter_add_(
        1, members, torch.ones_like(members, dtype=patches.dtype)
    )
    return sums / sizes.clamp_min(1)[:, :, None, None]


def _lengths(side: int, tiles: int) -> Tensor:
    """Outputs of each tile along a side: 3, and what is left over in the last."""
    return torch.tensor([TILE] * (tiles - 1) + [side - TILE * (tiles - 1)])


def _padding(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    if isinstance(conv.padding, str):
        across = conv.kernel_size if conv.padding == "same" else (1, 1)
        high, wide = ((side - 1) // 2 for side in across)
    else:
        high, wide = conv.padding
    return wide, wide, high, high


def _sides(pair: tuple[int, ...]) -> str:
    return " x ".join(map(str, pair)) if len(set(pair)) > 1 else str(pair[0])
