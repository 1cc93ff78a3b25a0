"""In which arithmetic a piece of work is done: products in float32 or TF32, kernels that repeat themselves bit by bit.

torch's own switches are of the whole process. Here they are set for a while and put back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch

from gcp_core.errors import ConfigError, first_line

# cuBLAS repeats itself only with workspaces of a fixed size. torch reads that once, at a process's first GPU product,
# which may be another trial's, or this one's before its training: so it is said here, before there is any.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

#: Autocast computes in these.
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Forward passes in ``train.precision``; with ``fp32`` whatever autocast is around is off."""
    half = HALVES.get(precision)
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Products of float32 matrices in float32. TF32, cuDNN's default for convolutions, keeps 10 of 23 bits.

    Args:
        tf32: in TF32 all the same, where the GPU has it; on a CPU float32 stays float32.
    """
    on_gpu = attrgetter("cuda.matmul", "cudnn.conv", "cudnn.rnn")(torch.backends)
    switches = [*on_gpu, *attrgetter("mkldnn.conv", "mkldnn.matmul")(torch.backends)]
    before = [switch.fp32_precision for switch in switches]
    # Older switches are another name for these, and torch refuses to read them where the two do not agree.
    _set_older(tf32, tf32)
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if tf32 and switch in on_gpu else "ieee"
        yield
    finally:
        _set_older(before[0] == "tf32", before[1] == "tf32")
        for switch, was in zip(switches, before):
            switch.fp32_precision = was


def _set_older(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def repeatable(wanted: bool, device: torch.device) -> Iterator[None]:
    """Only kernels that give the same bits every time, on this kind of GPU with these versions. A CPU has no others.

    Args:
        wanted: False = whatever is fastest.

    Raises:
        ConfigError: the model has an operation without such a kernel.
    """
    if not wanted or device.type == "cpu":
        yield
        return
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    chosen = cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as exc:
        if "deterministic" not in str(exc):
            raise
        reason = first_line(exc).partition(". ")[0]
        raise ConfigError(reason, "train.deterministic", "false, or a model without it") from exc
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = chosen
