"""``network_adjustment``: layers in which a MAC buys little shrink."""

from __future__ import annotations

from gcp_core.methods.base import Method


def network_adjustment() -> Method:
    """The layers in which a MAC buys the least loss, probed by channel dropout, shrink."""
    return Method(
        name="network_adjustment",
        does="The layers in which a MAC buys the least loss, as channel dropout tells, shrink.",
        slots={"prune.allocator": "least_used", "prune.repair": "none", "train.penalty": "none"},
        source="Chen et al.: Network Adjustment: Channel Search Guided by FLOPs Utilization Ratio "
        "(arXiv 2004.02767), and its authors' code",
        read="the abstract and the code",
        ours="Only the shrinking half: layers do not grow, weights are kept instead of trained anew, groups stand for "
        "layers, rates are bounded, and any criterion says which units go.",
    )
