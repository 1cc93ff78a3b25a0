"""Which channels of a patch count as one: signed very sparse random projections, one bit each (HASTE).

What follows is a labelled reading of arXiv 2309.17211, of which only the abstract and reviews that quote the paper could
be read: the paper's values of L, its first layer and what is centred were not found. Our choices say so where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcp_core.errors import ConfigError
from gcp_core.seeds import generator

#: Codes are whole numbers that a float64 holds exactly.
MOST_BITS = 52
#: Reported for CIFAR-10 by a port's page; 1/2 for ImageNet.
SPARSITY = 2 / 3
#: What is taken off a patch before it is hashed: each channel's own mean over the patch, the mean over the channels at
#: each pixel, or nothing. The sources say "centred" and not which (a reading).
CENTRES = ("channel", "pixel", "none")


@dataclass(frozen=True)
class Hashing:
    """How channels are hashed.

    Attributes:
        bits: L, projections per patch, 0 to :data:`MOST_BITS`: more bits = fewer channels merged. 0 merges all of them.
        sparsity: s, the chance of a zero in a projection, 0 <= s < 1; +1 and -1 share the rest.
        seed: of the projections; every layer draws its own. The first bits of a layer are the same for every L, so more
            bits only split buckets.
        centre: one of :data:`CENTRES`.
    """

    bits: int
    sparsity: float = SPARSITY
    seed: int = 0
    centre: str = "pixel"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 0 <= self.bits <= MOST_BITS:
            raise ConfigError(
                f"{self.bits!r} is not a number of hash bits", "L", f"a whole number from 0 to {MOST_BITS}"
            )
        if not isinstance(self.sparsity, (int, float)) or not 0 <= self.sparsity < 1:
            hint = "from 0 to below 1; 2/3 and 1/2 are the published ones"
            raise ConfigError(f"{self.sparsity!r} is not a share of zeros", "s", hint)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError(f"{self.seed!r} is not a whole number", "seed")
        if self.centre not in CENTRES:
            raise ConfigError(f"{self.centre!r} is not known", "centre", f"one of {', '.join(CENTRES)}")


def projections(hashing: Hashing, layer: str, size: int) -> Tensor:
    """``(bits, size)`` of -1, 0 and 1, float64: P(0) = sparsity, the two signs share the rest."""
    drawn = torch.rand(
        MOST_BITS, size, dtype=torch.float64, generator=generator(hashing.seed, "haste", layer)
    )
    plus = (1 + hashing.sparsity) / 2
    return ((drawn >= plus).double() - ((drawn >= hashing.sparsity) & (drawn < plus)).double())[
        : hashing.bits
    ]


def codes(patches: Tensor, vectors: Tensor, centre: str) -> Tensor:
    """One whole number per channel: bit l = 1 where the projection on vector l is above 0.

    Args:
        patches: ``(M, C, d)``.
        vectors: ``(L, d)``.

    Returns:
        ``(M, C)``, int64.
    """
    if not len(vectors):
        return torch.zeros(patches.shape[:2], dtype=torch.int64, device=patches.device)
    if centre == "channel":
        patches = patches - patches.mean(2, keepdim=True)
    elif centre == "pixel":
        patches = patches - patches.mean(1, keepdim=True)
    places = torch.arange(len(vectors), device=patches.device, dtype=torch.float64).exp2()
    return ((patches @ vectors.T > 0).double() @ places).long()


def buckets(found: Tensor) -> tuple[Tensor, Tensor]:
    """Channels with equal codes share a bucket, numbered from 0 in the order of the codes.

    Args:
        found: codes, ``(M, C)``.

    Returns:
        ``(M, C)``: each channel's bucket; ``(M,)``: how many there are.

    >>> buckets(torch.tensor([[7, 2, 7], [5, 5, 5]]))
    (tensor([[1, 0, 1],
            [0, 0, 0]]), tensor([2, 1]))
    """
    ordered, places = found.sort(dim=1)
    rank = torch.zeros_like(found)
    rank[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    return torch.empty_like(found).scatter_(1, places, rank), rank[:, -1] + 1
