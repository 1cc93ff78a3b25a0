"""Whether there is a GPU to train on: this process sees one, and is not asked to do without; and the processor's name."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def processor() -> str:
    """The processor's model name, or its architecture where that is all there is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
