"""Crop and mirror one image after the other: the slow second definition."""

import torch


def crop_flip_by_loop(images, padding, flip, rng):
    """uint8 (B, H, W, C) -> same; draws offsets and mirrors in the order the fast version draws them."""
    batch, height, width, channels = images.shape
    offsets = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=rng)
    mirrored = torch.rand(batch, 1, generator=rng) < 0.5 if flip else torch.zeros(batch, 1, dtype=torch.bool)
    out = torch.empty_like(images)
    for b in range(batch):
        canvas = torch.zeros(height + 2 * padding, width + 2 * padding, channels, dtype=images.dtype)
        canvas[padding : padding + height, padding : padding + width] = images[b]
        top, left = int(offsets[0, b]), int(offsets[1, b])
        crop = canvas[top : top + height, left : left + width]
        out[b] = crop.flip(1) if mirrored[b] else crop
    return out
