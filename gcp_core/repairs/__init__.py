"""Repairs: what is done to the weights that stay, just before an event removes the others. One file per repair."""

from gcp_core.repairs.base import Repair
from gcp_core.repairs.registry import REPAIRS, build_repair, repair_names

__all__ = ["REPAIRS", "Repair", "build_repair", "repair_names"]
