"""Feature relevance scores: from relevance per image to one number per channel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcp_core.errors import RelevanceError
from gcp_core.relevance.channels import relevance_pass


def feature_relevance_scores(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    class_accuracy: Sequence[float] | Tensor | None = None,
    read: str = "sum",
    stabiliser: str = "signed",
    winsorise: float | None = None,
    layers: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """One score per channel, ``{layer: (C,)}`` float64 on the CPU, unit L2 norm per layer; higher = keep.

    ``s_i = | mean over classes of (S[c, i] * w_c / n_c) |``, ``FRS_i = s_i / (||s||_2 + 1e-9)`` with S = sum of the
    relevances (:func:`gcp_core.relevance.channel_relevance`) of class c (paper, section III). A class without images
    is left out of the mean.

    Args:
        batches: ``(images, labels)`` pairs on the model's device; read once.
        class_accuracy: accuracy of each class, any common scale; None = measured in the same pass.
        read, stabiliser, layers: as in :func:`gcp_core.relevance.channel_relevance`.
        winsorise: for instance 0.999: each channel's relevances are clipped at this quantile and at its mirror image
            (0.001) before they are averaged. One image in 50,000 can otherwise carry a channel.

    Raises:
        RelevanceError: no images, a relevance that is not finite (names the layer), bad options.
    """
    if winsorise is not None and not 0.5 < winsorise <= 1.0:
        raise RelevanceError(f"{winsorise!r} is not in (0.5, 1]", "winsorise")
    samples: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}
    labels_seen: list[Tensor] = []
    hits: list[Tensor] = []
    with relevance_pass(model, read=read, stabiliser=stabiliser, layers=layers) as run:
        for images, labels in batches:
            readings, logits = run(images, labels)
            if logits.shape[1] != num_classes:
                raise RelevanceError(
                    f"the model has {logits.shape[1]} classes, not {num_classes}", "num_classes"
                )
            labels = labels.to(logits.device).long()
            labels_seen.append(labels)
            hits.append(logits.argmax(1) == labels)
            for layer, relevance in readings.items():
                if winsorise is None:
                    sums[layer] = sums.get(layer, 0.0) + class_sums(relevance, labels, num_classes)
                else:
                    samples.setdefault(layer, []).append(relevance)
    if not labels_seen:
        raise RelevanceError("there are no images to score", "batches")
    labels = torch.cat(labels_seen)
    for layer, parts in samples.items():
        sums[layer] = class_sums(winsorised(torch.cat(parts), winsorise or 1.0), labels, num_classes)
    counts = torch.bincount(labels, minlength=num_classes).double().cpu()
    if class_accuracy is None:
        correct = torch.bincount(labels[torch.cat(hits)], minlength=num_classes).double().cpu()
        class_accuracy = correct / counts.clamp_min(1)
    weights = class_weights(torch.as_tensor(class_accuracy, dtype=torch.float64, device="cpu"), num_classes)
    return {layer: scores_from_sums(total.cpu(), counts, weights) for layer, total in sums.items()}


def class_sums(relevance: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``S[c, i]``: sum of ``relevance (N, C)`` over the images of each class, ``(classes, C)`` float64."""
    return F.one_hot(labels.long(), num_classes).double().T @ relevance.double()


def class_weights(class_accuracy: Tensor, num_classes: int) -> Tensor:
    """``w_c = sigmoid(1 / (a_c / max a))``; 1 for a class of accuracy 0. Badly known classes count more."""
    if class_accuracy.shape != (num_classes,):
        raise RelevanceError(
            f"{tuple(class_accuracy.shape)} accuracies for {num_classes} classes", "class_accuracy"
        )
    if not bool(((class_accuracy >= 0) & torch.isfinite(class_accuracy)).all()):
        raise RelevanceError("accuracies must be finite and not negative", "class_accuracy")
    relative = class_accuracy / class_accuracy.max().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.sigmoid(1.0 / relative)


def scores_from_sums(sums: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """FRS ``(C,)`` from class sums ``(classes, C)``, images per class and class weights."""
    present = counts > 0
    per_class = sums[present] * (weights[present] / counts[present]).unsqueeze(1)
    s = per_class.mean(0).abs()
    return s / (s.norm() + 1e-9)


def winsorised(relevance: Tensor, quantile: float) -> Tensor:
    """``relevance (N, C)`` with each column clipped at its ``1 - quantile`` and ``quantile`` quantiles (linear)."""
    ordered = relevance.double().sort(0).values

    def at(q: float) -> Tensor:
        position = q * (ordered.shape[0] - 1)
        low = min(int(position), ordered.shape[0] - 1)
        high = min(low + 1, ordered.shape[0] - 1)
        return torch.lerp(ordered[low], ordered[high], position - low)

    return torch.clamp(relevance.double(), at(1.0 - quantile), at(quantile))
