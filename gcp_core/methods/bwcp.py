"""``bwcp``: channels are masked by the probability that they are active, behind batch whitening."""

from __future__ import annotations

from gcp_core.methods.base import Method


def bwcp() -> Method:
    """Channels are whitened and masked while training; those that are least likely active go."""
    return Method(
        name="bwcp",
        does="Behind every norm, channels are whitened and masked at random; those that are least likely active go.",
        slots={
            "prune.criterion": "active_probability",
            "prune.allocator": "global",
            "prune.repair": "none",
            "train.rewrite": "batch_whitening",
            "train.penalty": "scale_and_shift",
        },
        single={"prune.clock": "end", "prune.finish": True},
        source="Shao et al.: BWCP: Probabilistic Learning-to-Prune Channels for ConvNets via Batch Whitening (arXiv "
        "2105.06423)",
        read="the paper",
        ours="The number of steps, the momentum, groups of at most 16 channels on small images too, that tied channels "
        "have masks of their own, and that what is left is multiplied by its probability. The paper closes and removes "
        "every channel below 1/2: mask rounded, allocator threshold, target null, finish false. A single trial is cut "
        "once, after its last epoch, as in the paper; the events of a path, after which whitening begins anew, are not "
        "the paper's method.",
        needs="batch norms right behind layers",
    )
