"""``grasp``: channels whose removal harms the gradient flow least go, at initialisation."""

from __future__ import annotations

from gcp_core.methods.base import Method


def grasp() -> Method:
    """Before anything is trained the channels go whose removal harms the flow of the gradient least."""
    return Method(
        name="grasp",
        does="Once, before anything is trained, the channels go whose removal harms the gradient flow least.",
        slots={
            "prune.criterion": "grasp",
            "prune.allocator": "global",
            "prune.repair": "none",
            "train.penalty": "none",
        },
        single={"prune.start": 0, "prune.until": 0, "prune.finish": True},
        source="Wang, Zhang, Grosse: Picking Winning Tickets Before Training by Preserving Gradient Flow (arXiv "
        "2002.07376), and its authors' code",
        read="the abstract and the code",
        ours="The paper masks single weights. The channel form (a gate wherever a channel is read, with its second term) "
        "is ours. A path has no event before its dense phase: there the score is taken anew at every event of the "
        "trained network, which is not the paper's method.",
    )
