"""Penalties: a term added to the loss of every step. One file per penalty."""

from gcp_core.penalties.base import Penalty
from gcp_core.penalties.registry import PENALTIES, build_penalty, penalty_names

__all__ = ["PENALTIES", "Penalty", "build_penalty", "penalty_names"]
