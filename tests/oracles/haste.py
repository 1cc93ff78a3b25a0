"""HASTE by loops: one image, one patch, one channel at a time; every multiply-add is counted where it is done."""

from __future__ import annotations

import numpy as np


def haste_conv(
    images: np.ndarray, weight: np.ndarray, pad: int, vectors: np.ndarray, centre: str
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs ``(N, O, H, W)`` and multiply-adds ``(N, 4)``: products, hashing, averages, sums of filters.

    Args:
        images: ``(N, C, H, W)``; weight: ``(O, C, K, K)``; vectors: ``(L, (K + 2)^2)``.
    """
    number, channels, height, width = images.shape
    filters, _, kernel, _ = weight.shape
    high, wide = height + 2 * pad - kernel + 1, width + 2 * pad - kernel + 1
    side = kernel + 2
    outputs, macs = np.zeros((number, filters, high, wide)), np.zeros((number, 4), dtype=int)
    for n in range(number):
        room = np.zeros((channels, height + 2 * pad + 3, width + 2 * pad + 3))
        room[:, pad : pad + height, pad : pad + width] = images[n]
        for top in range(0, high, 3):
            for left in range(0, wide, 3):
                patch = room[:, top : top + side, left : left + side].reshape(channels, -1)
                found: dict[tuple[bool, ...], list[int]] = {}
                for c in range(channels):
                    vector = patch[c]
                    if centre == "channel":
                        vector = vector - vector.mean()
                    elif centre == "pixel":
                        vector = vector - patch.mean(0)
                    if centre != "none" and len(vectors):
                        macs[n, 1] += 2 * len(vector)
                    code = []
                    for direction in vectors:
                        code.append(bool(sum(a * b for a, b in zip(direction, vector, strict=True) if a) > 0))
                        macs[n, 1] += np.count_nonzero(direction)
                    found.setdefault(tuple(code), []).append(c)
                    macs[n, 2] += len(vector)
                rows, columns = min(3, high - top), min(3, wide - left)
                for members in found.values():
                    mean = np.mean([patch[c] for c in members], axis=0).reshape(side, side)
                    summed = weight[:, members].sum(1)
                    macs[n, 3] += (len(members) - 1) * filters * kernel**2
                    for y in range(rows):
                        for x in range(columns):
                            window = mean[y : y + kernel, x : x + kernel]
                            outputs[n, :, top + y, left + x] += (summed * window).sum((1, 2))
                            macs[n, 0] += filters * kernel**2
    return outputs, macs
