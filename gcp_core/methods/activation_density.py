"""``activation_density``: widths go to the share of activations that are not zero, when that share has come to rest."""

from __future__ import annotations

from gcp_core.methods.base import Method


def activation_density() -> Method:
    """When the densities of activations have stopped moving, every layer keeps the share of its units that they say."""
    return Method(
        name="activation_density",
        does="When activation densities stop moving, every layer keeps the share of its units that its density says.",
        slots={"prune.allocator": "activation_density", "prune.repair": "none", "train.penalty": "none"},
        single={"prune.clock": "density_saturated", "prune.ratio": 1.0, "prune.interval": 1},
        source="Foldy-Porto, Venkatesha, Panda: Activation Density driven Energy-Efficient Pruning in Training (arXiv "
        "2002.02949)",
        read="the abstract; the density's definition is in another paper of the group (arXiv 2101.04354)",
        ours="When densities count as at rest, that one density stands for a group, that weights are kept, and that any "
        "criterion says which units go. A target ends it, which the paper does not have. On a path its events are "
        "the path's, and the densities only say how a level is spread over the layers.",
    )
