"""What one process does of every step where several train together."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gcp_core.errors import required
from gcp_core.training.team.norms import synchronised

#: Buffers are not read while training. By the name that this torch wants to hear: the older one warns in newer ones.
_NEWER = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEWER else "broadcast_buffers": False}


class Share:
    """One process's part; the process group is formed.

    The data's order is that of one process, whatever their number: every process takes its part of each batch, and the
    gradient is that of the mean over the whole batch.

    Args:
        rank: 0 is the first process, which decides.
        processes: how many there are.
        sync_norms: batch norms see the whole batch.
        unused: the model has parameters that no output depends on, see :func:`has_unused`.
    """

    def __init__(self, rank: int, processes: int, *, sync_norms: bool = False, unused: bool = False) -> None:
        self.rank, self.processes, self._sync_norms, self._unused = rank, processes, sync_norms, unused
        self._forward: nn.Module | None = None
        self._batch = self._left = 0

    @property
    def part(self) -> tuple[int, int]:
        """(rank, processes), as batches are shared out."""
        return self.rank, self.processes

    @property
    def names(self) -> tuple[str | int, ...]:
        """What tells this process's stream of random numbers from the others'; nothing for the first one."""
        return ("rank", self.rank) if self.rank else ()

    @property
    def forward(self) -> nn.Module:
        """What is called instead of the model, inside :meth:`training`: its gradients are means over the processes."""
        return required(self._forward, "Share.training")

    @contextlib.contextmanager
    def training(self, model: nn.Module, images: int, batch_size: int) -> Iterator[None]:
        """Around an epoch of ``model`` over so many images, in all processes. At its end their buffers are those of the
        first one.

        Wrapper and synchronised norms live in here only. So the wrapper always has the parameters that an event has
        left, and whatever a process does alone waits for nobody.
        """
        device, self._batch, self._left = next(model.parameters()).device, batch_size, images
        self._forward = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            init_sync=False,  # all have the same weights, see Team
            gradient_as_bucket_view=True,
            find_unused_parameters=self._unused,
            **_NO_BUFFERS,
        )
        try:
            with synchronised(model) if self._sync_norms else contextlib.nullcontext():
                yield
        finally:
            self._forward = None
        first_to_all(list(model.buffers()))

    def of_batch(self, loss: Tensor, own: int) -> Tensor:
        """``loss``, a mean over this process's ``own`` images of the next batch, weighed.

        The mean of the processes' gradients is then the gradient of the mean over all images of that batch.
        """
        whole, self._left = min(self._batch, self._left), self._left - self._batch
        return loss if own * self.processes == whole else loss * (own * self.processes / whole)

    def over_all(self, total: Tensor, seen: int) -> tuple[Tensor, int]:
        """The sums over all processes of a float64 scalar and of a number."""
        both = torch.stack([total, total.new_tensor(float(seen))])
        dist.all_reduce(both)
        return both[0], int(both[1].item())


def has_unused(model: nn.Module, example: Tensor) -> bool:
    """Whether parameters of ``model`` get no gradient from its outputs: for those others would be waited for in vain.

    The model is trained in by this, so it should be one that nobody needs any more.
    """
    devices = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        outputs = model.train()(example.expand(2, *example.shape[1:]))
    heads = [outputs] if isinstance(outputs, Tensor) else [head for head in outputs if head is not None]
    torch.stack([head.sum() for head in heads]).sum().backward()
    return any(p.grad is None for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def first_to_all(tensors: Sequence[Tensor]) -> None:
    """Give all processes the values that the first one has, in place; one message for each type of number."""
    for kind in sorted({tensor.dtype for tensor in tensors}, key=str):
        same = [tensor for tensor in tensors if tensor.dtype == kind]
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        dist.broadcast(flat, 0)
        for tensor, values in zip(same, flat.split([t.numel() for t in same]), strict=True):
            tensor.copy_(values.view(tensor.shape))
