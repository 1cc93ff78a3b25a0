"""One seed, many independent streams: every use of randomness derives its own seed by name.

Nothing is carried from epoch to epoch, so a resumed run draws exactly what an uninterrupted one draws.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called ``names`` (for instance ``"order", 7``) of trial seed ``seed``."""
    text = ":".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
