"""Accuracy and loss of a model on a split: always eval mode, always in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gcp_core.config import TrialConfig
from gcp_core.data import Images, Normalise, evaluation_batches, load_splits
from gcp_core.errors import CheckpointError, ConfigError, ModelError
from gcp_core.models.arithmetic import float32_products
from gcp_core.models.mode import mode

#: Recorded in every manifest: another batch size may change the last bits of the logits.
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """``accuracy`` in per cent, ``loss`` in nats (mean cross-entropy), over ``num_images`` images."""

    accuracy: float
    loss: float
    num_images: int


@torch.no_grad()
def check_logits(model: nn.Module, example: Tensor, num_classes: int) -> None:
    """Refuse a model that cannot be trained on so many classes: on a GPU a class too few ends the whole process.

    Args:
        example: ``(1, C, H, W)`` on the model's device; one eval forward is run.

    Raises:
        ModelError: it does not return a row of logits for each image.
    """
    with mode(model, training=False):
        found = model(example)
    if isinstance(found, Tensor) and found.ndim == 2 and len(found) == 1 and found.shape[1] >= num_classes:
        return
    is_tensor = isinstance(found, Tensor)
    returned = f"tensor of shape {tuple(found.shape)}" if is_tensor else type(found).__name__
    raise ModelError(
        f"the model returns a {returned} for one image, no row of {num_classes} logits",
        "model.name",
        f"in eval mode it is to return one tensor, (images, {num_classes})",
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Images,
    normalise: Normalise,
    *,
    batch_size: int = EVALUATION_BATCH,
    channels_last: bool = True,
) -> Evaluation:
    """Evaluate on every image of the split, on the device of the model's parameters."""
    device = next(model.parameters()).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with mode(model, training=False), float32_products(), torch.autocast(device.type, enabled=False):
        for x, y in evaluation_batches(images.to(device), normalise, batch_size, channels_last):
            logits = model(x)
            correct += (logits.argmax(1) == y).sum()
            loss += nn.functional.cross_entropy(logits, y, reduction="sum").double()
    return Evaluation(100 * correct.item() / len(images), loss.item() / len(images), len(images))


def evaluate_folder(folder: str | Path, split: str = "val", device: str | None = None) -> Evaluation:
    """Evaluate a saved model as its trial did: same data, float32, batch size and memory format.

    Args:
        folder: a ``model`` folder written by :func:`gcp_core.training.run_trial`.
        split: ``val`` or ``test``.

    Raises:
        CheckpointError: the folder is damaged, or the data is not what the model was trained on.
    """
    from gcp_core.records.checkpoint import load_model, read_manifest

    if split not in ("val", "test"):
        raise ConfigError(f"{split!r} is not a split to evaluate on", "split", "val or test")
    manifest = read_manifest(folder)
    try:
        config = TrialConfig.from_dict(manifest["config"])
        trained_on, batch_size = manifest["data_digest"], int(manifest["evaluation_batch"])
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as exc:
        raise CheckpointError(f"the manifest is incomplete: {exc!r}", str(folder)) from exc
    splits = load_splits(config.data)
    if splits.digest != trained_on:
        raise CheckpointError(
            f"the data now has digest {splits.digest}, the model was trained on {trained_on}", str(folder)
        )
    model = load_model(folder).to(device or "cpu")
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return evaluate(
        model,
        getattr(splits, split),
        splits.normalise,
        batch_size=batch_size,
        channels_last=config.train.channels_last,
    )
