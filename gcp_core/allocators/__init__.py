"""Allocators: how many units of each group stay when an event takes what its budget says. One file per allocator.

>>> build_allocator("uniform").per_unit
False
"""

from gcp_core.allocators.base import Allocator, Scores
from gcp_core.allocators.budget import Budget, Ranking, hidden_groups, rankings, removable
from gcp_core.allocators.registry import ALLOCATORS, allocator_names, build_allocator

__all__ = [
    "ALLOCATORS",
    "Allocator",
    "Budget",
    "Ranking",
    "Scores",
    "allocator_names",
    "build_allocator",
    "hidden_groups",
    "rankings",
    "removable",
]
