"""Whether there is a GPU to train on: this process sees one, and is not asked to do without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_without = 0


def has_gpu() -> bool:
    """Whether ``train.device: auto`` is a GPU here; False inside :func:`on_cpu`."""
    return not _without and torch.cuda.is_available()


@contextmanager
def on_cpu(wanted: bool = True) -> Iterator[None]:
    """Inside, this process does as one that sees no GPU. For work of those that had none, and for a look at it.

    Args:
        wanted: False = nothing changes.
    """
    global _without
    _without += wanted
    try:
        yield
    finally:
        _without -= wanted
