"""``compensation``: what is removed is made up for by least squares in the layers that read it (CaP)."""

from __future__ import annotations

from gcp_core.methods.base import Method


def compensation() -> Method:
    """Layers that read removed channels are refitted to the rest; accuracy after that says what each group may lose."""
    return Method(
        name="compensation",
        does="Layers that read removed channels are refitted by least squares; accuracy after it says what may go where.",
        slots={
            "prune.criterion": "compensation",
            "prune.allocator": "compensation_threshold",
            "prune.repair": "least_squares",
            "train.penalty": "none",
        },
        source="Xie et al.: Pruning with Compensation: Efficient Channel Pruning for Deep Convolutional Neural "
        "Networks (arXiv 2108.13728), and the code of its first author (pseudopruner)",
        read="the abstract and the code",
        ours="Training goes on after every event; the paper has none. What the search allows is cut down evenly, or "
        "filled up with the lowest units, to what the event is to remove. Gains of several readers are added up.",
        needs="prune.residual: coupled or inner (a layer must read the units)",
    )
