"""Criteria: what gives every channel a score, higher = keep. One file per criterion.

>>> build_criterion("frs", {"read": "branch"}).needs
'data'
"""

from gcp_core.criteria.base import (
    Batches,
    Criterion,
    GroupRanking,
    GroupsLike,
    Judgement,
    is_comparable,
    is_set_valued,
)
from gcp_core.criteria.registry import build_criterion, criterion_names
from gcp_core.slots import forwards_of

__all__ = [
    "Batches",
    "Criterion",
    "GroupRanking",
    "GroupsLike",
    "Judgement",
    "build_criterion",
    "criterion_names",
    "forwards_of",
    "is_comparable",
    "is_set_valued",
]
