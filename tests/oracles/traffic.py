"""A device that is not there, and what would go to it and come back from it.

The ``meta`` device stands for a GPU: its tensors have shapes and no values, and it refuses to compute with those of the
CPU. Every operation is looked at: copies between CPU and device, and reads of a value, for which a GPU has to be waited.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")

#: Operations whose result's size or value the host has to know.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}


def on_device(tensor: object) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.device.type == "meta"


def on_host(tensor: object) -> bool:
    """A tensor of the CPU; one without dimensions travels as a number with the call."""
    return isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.dim() > 0


class Traffic(TorchDispatchMode):
    """Counts, while it is entered: ``up`` = copies to the device, ``sent`` = those that nobody waits for, ``down`` =
    copies from it, ``reads`` = of a value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = tree_leaves((args, kwargs))
        if name in READS and any(on_device(value) for value in given):
            self.seen["reads"] += 1
            return 0.0 if name == "_local_scalar_dense" else func(*args, **kwargs)
        if name.startswith(("_fused_sgd", "_fused_adam")):
            assert not any(on_host(value) for value in given)
            return None  # there is none for meta, and it has nothing to compute
        if name == "_to_copy" and on_device(args[0]) and kwargs.get("device") == torch.device("cpu"):
            self.seen["down"] += 1
            return torch.zeros_like(args[0], dtype=kwargs.get("dtype"), device="cpu")
        out = func(*args, **kwargs)
        made = [value for value in tree_leaves(out) if isinstance(value, torch.Tensor)]
        if name == "lift_fresh":  # made of numbers of the host
            self.seen.update(["up"] if any(on_device(value) for value in made) else [])
        elif any(on_host(value) for value in given) and any(on_device(value) for value in [*made, *given]):
            self.seen["sent" if kwargs.get("non_blocking") else "up"] += 1
        return out


@contextmanager
def pretended_gpu():
    """Optimisers and autocast take the device for one that they know."""
    supported = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    with (
        mock.patch(supported, return_value=["cpu", "meta"]),
        mock.patch.object(torch, "autocast", return_value=nullcontext()),
    ):
        yield
