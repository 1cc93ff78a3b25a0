"""The control that asks what the weights are worth: a snapshot's widths, trained from scratch.

Which units go is of no consequence before training, so this is a single trial that is cut to the snapshot's widths before
its first epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from gcp_core.allocators import Budget, Scores
from gcp_core.checkpoint import load_model
from gcp_core.config import PruneConfig, TrialConfig
from gcp_core.groups import Groups, find_groups
from gcp_core.records.results import Snapshot


@dataclass(frozen=True)
class AsGiven:
    """An allocator that leaves every group the width it is given."""

    widths: Mapping[str, int]

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> Mapping[str, int]:
        """The widths, whatever the scores are."""
        return self.widths


def as_given(widths: Mapping[str, int]) -> AsGiven:
    """The factory that a config names."""
    return AsGiven(widths)


def widths_of(snapshot: Snapshot, example: torch.Tensor) -> dict[str, int]:
    """Group -> units that the snapshot has left."""
    assert snapshot.folder is not None, "the snapshot kept its model"
    return {group.name: group.size for group in find_groups(load_model(snapshot.folder), example).groups}


def anew(config: TrialConfig, snapshot: Snapshot) -> TrialConfig:
    """A training from scratch of the snapshot's widths for as much as its path has cost up to it.

    Its rate goes over one cycle, as that of the other single trials.
    """
    assert config.prune is not None
    left = 1 - snapshot.finals["macs_removed"]
    prune = PruneConfig(
        criterion="random",
        allocator="anew:as_given",
        allocator_options={"widths": widths_of(snapshot, torch.zeros(1, 3, 32, 32))},
        start=0,
        until=0,
        ratio=1.0,
        target=snapshot.finals["macs_removed"],
        min_share=config.prune.min_share,
    )
    epochs = round(snapshot.finals["train_cost"] / left)
    train = replace(config.train, schedule="one_cycle", epochs=epochs)
    return replace(config, train=train, prune=prune)
