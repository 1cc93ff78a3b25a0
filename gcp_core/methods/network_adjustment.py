"""``network_adjustment``: layers in which a MAC buys much grow, those in which it buys little shrink."""

from __future__ import annotations

from gcp_core.methods.base import Method


def network_adjustment() -> Method:
    """Layers grow where a MAC buys the most loss, as channel dropout tells, and shrink where it buys the least."""
    return Method(
        name="network_adjustment",
        does="Layers grow where a MAC buys the most loss, as channel dropout tells, and shrink where it buys the least.",
        slots={"prune.allocator": "network_adjustment", "prune.repair": "none", "train.penalty": "none"},
        source="Chen et al.: Network Adjustment: Channel Search Guided by FLOPs Utilization Ratio "
        "(arXiv 2004.02767), and its authors' code",
        read="the abstract and the code",
        ours="Weights are kept instead of trained anew (grown units start without an effect), groups stand for layers, "
        "rates are bounded, any criterion says which units go, and widths are adjusted at every event, up to what a "
        "group once had; with prune.of: params to a number of parameters.",
        needs="prune.residual: coupled or inner",
    )
