"""Slow definitions of what compensation and its rankings compute: rows taken one by one, plain least squares."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rows_of(layer: nn.Module, x: Tensor, sampling_stride: int = 1) -> Tensor:
    """``(rows, C P)``: what each filter sees, cut out of the padded input position by position."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    if layer.padding == "same":
        total = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation)]
        sides = [n for t in reversed(total) for n in (t // 2, t - t // 2)]
    else:
        sides = [n for p in reversed(layer.padding) for n in (p, p)]
    x = F.pad(x, sides, mode=mode)
    reach = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation)]
    step = [s * sampling_stride for s in layer.stride]
    starts = [range(0, size - r + 1, s) for size, r, s in zip(x.shape[2:], reach, step)]
    rows = []
    for image in x:
        for place in product(*starts):
            window = tuple(slice(a, a + r, d) for a, r, d in zip(place, reach, layer.dilation))
            rows.append(image[(slice(None), *window)].reshape(-1))
    return torch.stack(rows)


def fit_with_intercept(u: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Weights ``(O, K)``, bias ``(O,)`` and mean squared error (summed over outputs) of plain least squares."""
    ones = torch.cat([u, torch.ones(len(u), 1, dtype=u.dtype)], dim=1)
    solution = torch.linalg.lstsq(ones, y, driver="gelsd").solution
    error = float((y - ones @ solution).square().sum() / len(u))
    return solution[:-1].T, solution[-1], error


def loss_of(u: Tensor, weight: Tensor, kept: list[int]) -> float:
    """Mean squared error of the best fit of ``weight u`` to the kept columns and a constant."""
    y = u @ weight.T
    if not kept:
        return float((y - y.mean(0)).square().sum() / len(u))
    return fit_with_intercept(u[:, kept], y)[2]


def greedy_keep_order(u: Tensor, weight: Tensor, units: list[list[int]]) -> tuple[list[int], list[float]]:
    """Units from the first to keep to the last, and what each takes off the loss, by trying all of them."""
    order: list[int] = []
    gains: list[float] = []
    kept: list[int] = []
    while len(order) < len(units):
        before = loss_of(u, weight, kept)
        tried = {
            t: before - loss_of(u, weight, kept + columns)
            for t, columns in enumerate(units)
            if t not in order
        }
        best = max(tried, key=lambda t: tried[t])
        order.append(best)
        gains.append(tried[best])
        kept = kept + units[best]
    return order, gains
