"""Torch's optimisers and dispatch modes without their shields against torch's compiler.

To make an optimiser, to step it and to count under a dispatch mode imports ``torch._dynamo``, just to tell it to keep
off: 1.7 s of processor time in every process that trains, and most never compile anything. What is compiled here
(:mod:`gcp_core.steps.compiled`) is forward and backward pass, never one of these, so nothing needs the shield.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)

_SHIELDED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def eager(kind: type[AnyOptimizer]) -> type[AnyOptimizer]:
    """A class of optimisers that does bit for bit what ``kind`` does.

    Where torch has no shield, or another one than today, the method is that of ``kind``.
    """
    bare: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _SHIELDED}
    # Its wrapper switches gradients off as well: none of the optimisers here is differentiable.
    bare["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), bare)


class EagerMode(TorchDispatchMode):
    """A dispatch mode to derive from."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class FlopCounter(FlopCounterMode):
    """Torch's counter of floating-point operations."""

    def __enter__(self) -> FlopCounter:
        super().__enter__()
        mode: Any = type(self.mode)
        bare = {"__torch_dispatch__": inspect.unwrap(mode.__torch_dispatch__)}
        self.mode.__class__ = type(mode.__name__, (EagerMode, mode), bare)
        return self
