"""Batch norms whose statistics are those of the whole batch, while several processes train on parts of it.

Torch's ``SyncBatchNorm`` runs on GPUs only, and waits for the other processes wherever a model is in training mode, also
where only one of them looks. So the model keeps the norms that it has, scattering ones among them, and they see the whole
batch as long as :func:`synchronised` says.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcp_core.scatter import Scattering

_KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextlib.contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """Inside, every batch norm of ``model`` that is in training mode takes its statistics over all processes.

    All processes have to run the model as often as each other. Torch's own norms and those that scatter; what another
    subclass does besides would be lost.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and (type(module) in _KNOWN or isinstance(module, Scattering))
    ]
    for norm in norms:
        # Of the instance: it goes before the class's, and leaves module, parameters and names as they are.
        norm.__dict__["forward"] = functools.partial(_forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    y = _normalised(norm, x) if norm.training else type(norm).forward(norm, x)
    return norm.spread(y) if isinstance(norm, Scattering) and norm.training else y


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """``(N, C, ...)``, N of this process -> the same shape, normalised over all processes; keeps running statistics."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    others = [d for d in range(x.ndim) if d != 1]
    full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    number = full.new_full((1,), x.numel() / x.shape[1])  # not from a list: a GPU would wait for that
    sums = _sum_over_all(torch.cat([full.sum(others), number]))
    count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
    away = full - mean.view(shape)
    variance = _sum_over_all(away.square().sum(others)) / count
    _keep(norm, mean.detach(), variance.detach(), count)
    y = away * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.weight is not None:
        y = y * norm.weight.view(shape)
    if norm.bias is not None:
        y = y + norm.bias.view(shape)
    return y.to(x.dtype)


class _SumOverAll(torch.autograd.Function):
    """Every process's loss depends on what each of them puts in: the gradients are summed as the values are."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_all(own: Tensor) -> Tensor:
    return _SumOverAll.apply(own)


@torch.no_grad()
def _keep(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Running statistics as the norm itself keeps them: the variance is the unbiased one."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    factor = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
    norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var.dtype), factor)
