"""``catro``: the sets of channels that separate the classes best stay."""

from __future__ import annotations

from gcp_core.methods.base import Method


def catro() -> Method:
    """The sets of channels whose maps separate the classes best (trace ratio) stay."""
    return Method(
        name="catro",
        does="In every layer the set of channels stays whose maps separate the classes best.",
        slots={
            "prune.criterion": "trace_ratio",
            "prune.allocator": "global",
            "prune.repair": "none",
            "train.penalty": "none",
        },
        source="Hu et al.: CATRO: Channel Pruning via Class-Aware Trace Ratio Optimization (arXiv "
        "2110.10921)",
        read="the abstract",
        ours="Both scatters, and how layers are set against each other (one lambda for the network, worth = between - "
        "lambda within). It is not divided by cost: a worth may be negative. The paper cuts once and fine-tunes.",
    )
