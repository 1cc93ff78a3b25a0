"""Sweeps of pruning-while-training trials: Ray Tune runs them, Optuna proposes them, MLflow shows them.

>>> import sweeps
>>> sweep = sweeps.run("configs/demo.yaml", {"search.trials": 8})  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.config.sweep_config import SweepConfig, load_config
    from sweeps.driver.launch import Launch, Sweep, run

__all__ = ["Launch", "Sweep", "SweepConfig", "load_config", "run"]


def __getattr__(name: str) -> Any:
    """Load on first use: ``gcp-sweep --help`` imports neither ray nor mlflow nor torch."""
    if name in ("SweepConfig", "load_config"):
        from sweeps.config import sweep_config as config

        return getattr(config, name)
    if name in ("Launch", "Sweep", "run"):
        from sweeps.driver import launch

        return getattr(launch, name)
    raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
