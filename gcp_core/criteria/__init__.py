"""Criteria: what gives every channel a score, higher = keep. One file per criterion.

>>> build_criterion("frs", {"read": "branch"}).needs
'data'
"""

from gcp_core.criteria.base import Batches, Criterion, GroupsLike, forwards_of, is_comparable
from gcp_core.criteria.registry import build_criterion, criterion_names

__all__ = [
    "Batches",
    "Criterion",
    "GroupsLike",
    "build_criterion",
    "criterion_names",
    "forwards_of",
    "is_comparable",
]
