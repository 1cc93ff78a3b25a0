"""``variance``: channels that make the least of their readers' variance go."""

from __future__ import annotations

from gcp_core.methods.base import Method


def variance() -> Method:
    """The channels that would make the smallest share of their readers' output variance alone go."""
    return Method(
        name="variance",
        does="The channels go that make the smallest share of the variance of what reads them.",
        slots={
            "prune.criterion": "variance",
            "prune.allocator": "global",
            "prune.repair": "none",
            "train.penalty": "none",
        },
        source="after Khetan, Karnin: PruneNet: Channel Pruning via Global Importance (arXiv 2005.11282)",
        read="the abstract and a reader's note",
        ours="The formula. The paper's objective, regulariser and schedule could not be read, so this does not bear its "
        "name.",
    )
