"""One trial: set-up, the loops of single trials and paths, events, evaluation, finals.

``run_trial`` is loaded when first used: everything else is imported by its own name.
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
