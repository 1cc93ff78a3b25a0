"""``consensus``: gates look at each sample and come to agree; channels go whose gates are open least often."""

from __future__ import annotations

from gcp_core.methods.base import Method


def consensus() -> Method:
    """Gates that look at each sample come to agree; the channels go whose gates are open least often."""
    return Method(
        name="consensus",
        does="Gates that look at each sample come to agree; the channels go whose gates are open least often.",
        slots={
            "prune.criterion": "gate_mean",
            "prune.allocator": "global",
            "prune.repair": "none",
            "train.rewrite": "consensus_gates",
            "train.penalty": "consensus",
        },
        single={"prune.clock": "end", "prune.finish": True},
        source="after A New Baseline for GreenAI: Finding the Optimal Sub-Network via Layer and Channel Pruning (arXiv "
        "2302.10798, consensus sub-networks)",
        read="the abstract",
        ours="Everything but the idea: the gate network, both terms of its penalty and their weights, that gates start "
        "open, that a channel leaves by the moving average of its gate. Layers are not gated. The events of a path are "
        "ours too.",
        needs="batch norms right behind layers",
    )
