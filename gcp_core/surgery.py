"""Surgery under the name that users import; see :mod:`gcp_core.pruning.surgery`."""

from gcp_core.pruning.surgery import apply_plan, gate_channels, remove_channels

__all__ = ["apply_plan", "gate_channels", "remove_channels"]
