"""Selection under the name that users import; see :mod:`gcp_core.pruning.selection`."""

from gcp_core.pruning.selection import Budget, Ranking, select_channels

__all__ = ["Budget", "Ranking", "select_channels"]
