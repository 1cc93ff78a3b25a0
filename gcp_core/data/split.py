"""Stratified, seeded choices of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_core.errors import DataError


def stratified_choice(labels: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Positions of ``number`` items, classes in proportion (largest remainder), ascending.

    Args:
        labels: int64 ``(N,)``.
        number: 0 .. N.
    """
    classes, counts = labels.unique(return_counts=True)
    exact = counts.double() * number / len(labels)
    quota = exact.floor().long()
    # Ties of the remainder go to the smaller class index (stable sort), so the choice is a function of the seed alone.
    order = (exact - quota).argsort(descending=True, stable=True)
    quota[order[: number - int(quota.sum())]] += 1
    return _choose(labels, classes, quota, generator)


def balanced_choice(labels: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Positions of about ``number`` items with equally many per class (a small class gives what it has)."""
    classes, counts = labels.unique(return_counts=True)
    quota = torch.full_like(counts, max(1, round(number / len(classes)))).minimum(counts)
    return _choose(labels, classes, quota, generator)


def _choose(labels: Tensor, classes: Tensor, quota: Tensor, generator: torch.Generator) -> Tensor:
    chosen = []
    for c, n in zip(classes.tolist(), quota.tolist()):
        positions = (labels == c).nonzero().flatten()
        chosen.append(positions[torch.randperm(len(positions), generator=generator)[:n]])
    return torch.cat(chosen).sort().values


def train_val_rows(
    labels: Tensor,
    val_share: float,
    val_images: int | None,
    train_images: int | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Rows for training and for validation: disjoint, stratified, ascending.

    Raises:
        DataError: more images are asked for than there are, or a class would have no training image.
    """
    total = len(labels)
    num_val = round(val_share * total) if val_images is None else val_images
    if not 1 <= num_val < total:
        raise DataError(f"{num_val} of {total} images cannot be held out", "data.val_images")
    val = stratified_choice(labels, num_val, generator)
    held_out = torch.zeros(total, dtype=torch.bool)
    held_out[val] = True
    rest = (~held_out).nonzero().flatten()
    if train_images is not None:
        if train_images > len(rest):
            raise DataError(
                f"{train_images} training images were requested, only {len(rest)} are left",
                "data.train_images",
            )
        rest = rest[stratified_choice(labels[rest], train_images, generator)]
    if len(labels[rest].unique()) < len(labels.unique()):
        raise DataError(
            "a class would have no training image", "data", "use more images or a smaller val_share"
        )
    return rest, val
