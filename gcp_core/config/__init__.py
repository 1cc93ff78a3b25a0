"""What one trial is made of: frozen dataclasses that check themselves.

``sweeps.config.sweep_config`` builds these from YAML; a notebook builds them by hand. A path such as ``prune.interval``
in an error message is the path in the YAML file too.
"""

from gcp_core.config.data_model import AUGMENTATIONS, DataConfig, ModelConfig
from gcp_core.config.prune import (
    END_CLOCK,
    INTERVAL_CLOCK,
    NO_REPAIR,
    NORMALISATIONS,
    RESIDUAL_MODES,
    PruneConfig,
)
from gcp_core.config.train import CYCLES, LR_SCHEDULES, NO_PENALTY, NO_REWRITE, OPTIMIZERS, TrainConfig
from gcp_core.config.trial import TrialConfig, digest

__all__ = [
    "AUGMENTATIONS",
    "CYCLES",
    "END_CLOCK",
    "INTERVAL_CLOCK",
    "LR_SCHEDULES",
    "NORMALISATIONS",
    "NO_PENALTY",
    "NO_REPAIR",
    "NO_REWRITE",
    "OPTIMIZERS",
    "RESIDUAL_MODES",
    "DataConfig",
    "ModelConfig",
    "PruneConfig",
    "TrainConfig",
    "TrialConfig",
    "digest",
]
