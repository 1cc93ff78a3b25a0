"""``gcp``: gradual channel pruning while training, by the feature relevance score."""

from __future__ import annotations

from gcp_core.methods.base import Method


def gcp() -> Method:
    """Gradual channel pruning while training by the feature relevance score: the lowest channels of the network go."""
    return Method(
        name="gcp",
        does="Every few epochs the channels with the lowest feature relevance score of the whole network go.",
        slots={
            "prune.criterion": "frs",
            "prune.allocator": "global",
            "prune.repair": "none",
            "prune.clock": "interval",
            "train.penalty": "none",
        },
        source="Aketi, Roy, Raghunathan, Roy: Gradual Channel Pruning while Training using Feature Relevance Scores "
        "for Convolutional Neural Networks (arXiv 2002.09958)",
        read="the authors' code",
        ours="Channels are removed instead of masked; `prune.residual: scatter` is the paper's removal in residual "
        "networks. Paths, levels, sharing and rates are ours.",
    )
