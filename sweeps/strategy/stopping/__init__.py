"""Early stopping for several objectives: which trials are worth their remaining epochs (:mod:`.rungs`)."""

from sweeps.strategy.stopping.rungs import Rungs, Standing

__all__ = ["Rungs", "Standing"]
