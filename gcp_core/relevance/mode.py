"""The torch function mode that swaps every operation of a running model for its relevance rule.

No tracing and no module replacement: the model runs as it is, and whatever its modules call arrives here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gcp_core.relevance.any_other import any_other
from gcp_core.relevance.marks import Mark, carriers, current, floating_in, is_image, marked
from gcp_core.relevance.operations import CONSTANT, LINEAR, OPERATIONS
from gcp_core.relevance.state import PassState


class RelevanceMode(TorchFunctionMode):
    """Active while the model runs forward; the graph it leaves behind carries relevance backward."""

    def __init__(self, state: PassState) -> None:
        super().__init__()
        self.state = state

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = {k: current(v) for k, v in kwargs.items()} if kwargs else {}
        args = tuple([current(v) for v in args])
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        sources = carriers(args, kwargs)
        if func in LINEAR or any(not is_image(t) for t in sources):
            return OPERATIONS.get(func, any_other)(self.state, func, args, kwargs)
        # In front of the first layer, or a constant: plain numbers.
        with torch.no_grad():
            out = func(*args, **kwargs)
        if sources and func not in CONSTANT:
            for tensor in floating_in(out):
                marked(tensor, Mark())
        return out
