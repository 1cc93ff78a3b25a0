"""The control that asks what the weights are worth: a snapshot's widths, trained from scratch.

Which units go is of no consequence before training, so this is a single trial that is cut to the snapshot's widths before
its first epoch.
"""

from __future__ import annotations

from dataclasses import replace

from analysis.runs.widths import layer_widths
from gcp_core.config import PruneConfig, TrialConfig
from gcp_core.records.checkpoint import read_manifest
from gcp_core.records.results import Snapshot


def anew(config: TrialConfig, snapshot: Snapshot, epochs: int | None = None) -> TrialConfig:
    """A training from scratch of the snapshot's widths; its rate goes over one cycle, as that of other single trials.

    Args:
        epochs: None = as many as cost what the path has cost up to the snapshot.
    """
    assert config.prune is not None
    assert snapshot.folder is not None, "the snapshot kept its model"
    left = 1 - snapshot.finals["macs_removed"]
    prune = PruneConfig(
        criterion="random",
        allocator="given",
        allocator_options={
            "widths": {one.layer: one.after for one in layer_widths(read_manifest(snapshot.folder))}
        },
        start=0,
        until=0,
        ratio=1.0,
        target=snapshot.finals["macs_removed"],
        min_share=config.prune.min_share,
    )
    epochs = epochs or round(snapshot.finals["train_cost"] / left)
    train = replace(config.train, schedule="one_cycle", epochs=epochs)
    return replace(config, train=train, prune=prune)
