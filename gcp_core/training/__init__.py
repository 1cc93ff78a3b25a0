"""One trial: set-up, loop, schedule, events, evaluation, checkpoints, shared stages, results.

``run_trial`` is loaded when first used: the schedule alone, which a sweep's driver reads, needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcp_core.training.trial import run_trial

__all__ = ["run_trial"]


def __getattr__(name: str) -> Any:
    if name == "run_trial":
        from gcp_core.training.trial import run_trial

        return run_trial
    raise AttributeError(f"module 'gcp_core.training' has no attribute {name!r}")
