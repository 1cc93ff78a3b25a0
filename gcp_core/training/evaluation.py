"""Accuracy and loss of a model on a split: always eval mode, always in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.config import TrialConfig
from gcp_core.cost.macs import runs_on
from gcp_core.data import Images, Normalise, evaluation_batches, load_splits
from gcp_core.errors import CheckpointError, ConfigError, ModelError
from gcp_core.models.arithmetic import float32_products
from gcp_core.models.mode import mode, untouched

#: Recorded in every manifest: another batch size may change the last bits of the logits.
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """``accuracy`` in per cent, ``loss`` in nats (mean cross-entropy), over ``num_images`` images."""

    accuracy: float
    loss: float
    num_images: int


@torch.no_grad()
def check_logits(model: nn.Module, example: Tensor, num_classes: int, batch: int) -> None:
    """Refuse a model that cannot be trained on so many classes: on a GPU a class too few ends the whole process.

    Args:
        example: ``(1, C, H, W)`` on the model's device; a forward is run in eval mode, and one in training mode.
        batch: images of a training step.

    Raises:
        ModelError: it does not return a row of logits for each image (in training mode those of auxiliary heads may
            follow), or does not run in training mode.
    """
    with mode(model, training=False):
        found = model(example)
    if not _is_logits(found, 1) or found.shape[1] < num_classes:
        raise ModelError(
            f"the model returns {_described(found)} for one image, no row of {num_classes} logits",
            "model.name",
            f"in eval mode it is to return one tensor, (images, {num_classes})",
        )
    with mode(model, training=True), untouched(model, example.device):
        images, trained = _trained(model, example, batch)
    heads = _heads(trained)
    if not heads or not all(_is_logits(head, images, found.shape[1]) for head in heads):
        raise ModelError(
            f"in training mode the model returns {_described(trained)} for {images} images, "
            f"no row of {found.shape[1]} logits for each",
            "model.name",
            "it is to return in training mode what it returns in eval mode: one tensor; or a tuple of such tensors, the "
            "logits first, then those of auxiliary heads",
        )


def _trained(model: nn.Module, example: Tensor, batch: int) -> tuple[int, Any]:
    """A number of images, and what a model in training mode returns for them."""
    try:
        return 2, model(example.repeat(2, 1, 1, 1))
    except Exception:
        # A whole batch shows what is wrong; a norm over parts of a batch needs one to run at all.
        images = example.repeat(batch, 1, 1, 1)
    try:
        with runs_on(images):
            return batch, model(images)
    except ModelError as exc:
        raise ModelError(f"in training mode, {exc.message}", "model.name", exc.hint) from exc


def _heads(returned: Any) -> list[Any]:
    """What :func:`gcp_core.steps.step.loss_of` takes for logits."""
    if isinstance(returned, tuple | list):
        return [head for part in returned if part is not None for head in _heads(part)]
    return [returned]


def _is_logits(found: Any, images: int, width: int | None = None) -> bool:
    return (
        isinstance(found, Tensor)
        and found.ndim == 2
        and len(found) == images
        and width in (None, found.shape[1])
    )


def _described(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    parts = f" of {', '.join(map(_described, found))}" if isinstance(found, tuple | list) else ""
    return f"a {type(found).__name__}{parts}"


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
        batch_size = int(manifest["evaluation_batch"])
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as exc:
        raise CheckpointError(f"the manifest is incomplete: {exc!r}", str(folder)) from exc
    splits = load_splits(config.data)
    changed = splits.unlike(manifest)
    if changed:
        raise CheckpointError(changed, str(folder))
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
