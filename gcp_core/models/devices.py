"""The device to train on: whether there is a GPU (this process sees one, and is not asked to do without), which one, and
the processor's name.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gcp_core.errors import ConfigError

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


def device_named(name: str) -> torch.device:
    """The device that ``train.device`` names; a GPU comes with its number.

    Raises:
        ConfigError: there is no such device for this process.
    """
    if name == "auto":
        name = "cuda" if has_gpu() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise ConfigError(f"{name!r} is not a device", "train.device", "auto, cpu, cuda, cuda:1") from exc
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{name!r} is not supported", "train.device", "auto, cpu, cuda, cuda:1")
    if device.type == "cpu":
        return device
    if not has_gpu():
        raise ConfigError(f"{name!r}: this process sees no GPU", "train.device", "auto or cpu")
    number = torch.cuda.current_device() if device.index is None else device.index
    if number >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise ConfigError(
            f"{name!r}: this process sees {seen} GPUs", "train.device", f"cuda:0 .. cuda:{seen - 1}"
        )
    # With its number: tensors know theirs, and "cuda" is not equal to "cuda:0".
    return torch.device("cuda", number)


def processor() -> str:
    """The processor's model name, or its architecture where that is all there is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
