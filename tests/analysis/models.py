"""Small pruned models on disk with honest numbers: what a finished trial leaves, made without training; a short path."""

from __future__ import annotations

from pathlib import Path

import torch

from gcp_core import schema
from gcp_core.config import TrialConfig
from gcp_core.cost import measure_cost
from gcp_core.data import load_splits
from gcp_core.models import build_model
from gcp_core.pruning.surgery import remove_channels
from gcp_core.records.checkpoint import plans_to_json, save_model
from gcp_core.training.evaluation import EVALUATION_BATCH, evaluate
from gcp_core.training.trial import run_trial


def write_model(folder: Path, config: TrialConfig, removed: dict[str, list[int]]) -> dict[str, float]:
    """Write ``folder/model`` for an untrained network that lost ``removed``; returns its finals."""
    splits = load_splits(config.data)
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    model = build_model(config.model.name, splits.num_classes, splits.in_channels, config.model.width)
    example = torch.zeros(2, splits.in_channels, *splits.image_size)
    dense = measure_cost(model, example)
    plans = [remove_channels(model, removed, example_input=example)] if removed else []
    cost = measure_cost(model, example)
    model = model.to(memory_format=torch.channels_last)
    val = evaluate(model, splits.val, splits.normalise).accuracy
    test = evaluate(model, splits.test, splits.normalise).accuracy
    manifest = {
        "schema": schema.SCHEMA_VERSION,
        "config": config.to_dict(),
        "num_classes": splits.num_classes,
        "in_channels": splits.in_channels,
        "image_size": list(splits.image_size),
        "class_names": list(splits.class_names),
        "mean": list(splits.mean),
        "std": list(splits.std),
        "data_digest": splits.digest,
        "evaluation_batch": EVALUATION_BATCH,
        "threads": 1,
        "device": "cpu",
        "torch": torch.__version__,
        "plans": plans_to_json(plans),
    }
    save_model(folder / "model", model, manifest)
    return {
        "val_accuracy": val,
        "test_accuracy": test,
        "macs": float(cost.macs),
        "params": float(cost.params),
        "macs_removed": 1 - cost.macs / dense.macs,
        "params_removed": 1 - cost.params / dense.params,
        "latency_ms": 0.3,
        "epochs": 0.0,
        "device_hours": 0.0,
        "target_reached": 1.0,
    }


def write_path(folder: Path, config: TrialConfig) -> list[dict[str, float]]:
    """Train a path into ``folder`` as a sweep does; the finals of its snapshots."""
    torch.set_num_threads(1)
    result = run_trial(config, checkpoint_dir=folder)
    return [dict(snapshot.finals) for snapshot in result.snapshots]
