"""The control that asks what the weights are worth: a snapshot's widths, trained from scratch."""

from __future__ import annotations

from analysis.choose.scratch import from_scratch
from gcp_core.config import TrialConfig
from gcp_core.records.checkpoint import read_manifest
from gcp_core.records.results import Snapshot


def anew(config: TrialConfig, snapshot: Snapshot, epochs: int | None = None) -> TrialConfig:
    """A training from scratch of the snapshot's widths; its rate goes over one cycle, as that of other single trials.

    Args:
        epochs: None = as many as cost what the path has cost up to the snapshot.
    """
    assert snapshot.folder is not None, "the snapshot kept its model"
    finals = snapshot.finals
    length = epochs or round(finals["train_cost"] / (1 - finals["macs_removed"]))
    removed = finals[f"{config.pruning.of}_removed"]
    return from_scratch(config, read_manifest(snapshot.folder), removed, length)
