"""Which channels of a network must be removed together: groups of units, found by one traced forward.

>>> import torch
>>> from gcp_core.models import build_model
>>> groups = find_groups(build_model("vgg_tiny", 10, width=0.25), torch.zeros(1, 3, 8, 8))
>>> [group.size for group in groups.groups]
[8, 8, 16, 16, 32, 32]
"""

from gcp_core.groups.find import check_weights, find_groups
from gcp_core.groups.labels import MacTerm
from gcp_core.groups.structure import Consumer, Edges, Group, Groups, Layout, Member

__all__ = [
    "Consumer",
    "Edges",
    "Group",
    "Groups",
    "Layout",
    "MacTerm",
    "Member",
    "check_weights",
    "find_groups",
]
