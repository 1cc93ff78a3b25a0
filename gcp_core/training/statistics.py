"""Running statistics of norms: those of a model that was just cut are those of the larger one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from gcp_core.errors import required
from gcp_core.models.mode import mode


@contextmanager
def recomputed(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, keep: bool) -> Iterator[None]:
    """Inside, every norm of ``model`` has the mean statistics over ``batches`` (images, labels) instead of its own.

    Only statistics change, and only those of norms that keep running ones. Afterwards the former ones come back, so
    that training goes on as if nobody had looked; with ``keep`` (nothing will be trained any more) the new ones stay.
    """
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    _recompute(model, norms, batches)
    try:
        yield
    finally:
        if not keep:
            for norm, buffers in zip(norms, before, strict=True):
                for name, buffer in norm.named_buffers():
                    buffer.copy_(buffers[name])


@torch.no_grad()
def _recompute(model: nn.Module, norms: list[_NormBase], batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Dropout and the like stay off: a norm shall see what it will see in use."""
    momenta = [norm.momentum for norm in norms]
    counters = [required(norm.num_batches_tracked, "a norm's counter") for norm in norms]
    seen = [counter.clone() for counter in counters]
    # These take no momentum of None for a mean, but for 0.
    of_instances = [norm for norm in norms if isinstance(norm, _InstanceNorm)]
    try:
        with mode(model, training=False), torch.autocast(next(model.parameters()).device.type, enabled=False):
            for norm in norms:
                norm.train()
                norm.momentum = None  # the plain mean over all batches
                norm.reset_running_stats()
            for so_far, (images, _) in enumerate(batches, start=1):
                for norm in of_instances:
                    norm.momentum = 1 / so_far
                model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, number in zip(counters, seen, strict=True):
            counter.copy_(number)
