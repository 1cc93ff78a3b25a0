"""Relevance by the book: every layer as a matrix, every contribution z[c, i] = W[c, i] x[i] written out, one image at a
time. Float64. A positive contribution gets 2 R z / Z+, a negative one -R z / Z-; that is the published rule where
inputs are not negative, and its sign-split form where they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

E = 1e-9


def matrix(linear: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian (outputs, inputs) of a map that is linear, both flattened."""
    jacobian = torch.autograd.functional.jacobian(linear, x)
    return jacobian.reshape(-1, x.numel()).detach()


def through_linear(linear: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """Relevance at ``x`` (1, ...) from relevance ``r`` at the output of a bias-free linear map."""
    contributions = matrix(linear, x) * x.reshape(1, -1)
    up, down = contributions.clamp(min=0), contributions.clamp(max=0)
    z_up, z_down = up.sum(1, keepdim=True) + E, down.sum(1, keepdim=True) - E
    shares = 2 * up / z_up - down / z_down
    return (shares * r.reshape(-1, 1)).sum(0).reshape(x.shape)


def through_average(pool: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """``x R / y`` to every position of the window, not divided by the window's size unless windows overlap."""
    member = matrix(pool, x)
    overlapping = isinstance(pool, nn.AvgPool2d) and pool.stride < pool.kernel_size
    member = member if overlapping else (member != 0).double()
    y = pool(x).reshape(-1)
    y = y + E * torch.where(y >= 0, 1.0, -1.0)
    return (member.T @ (r.reshape(-1) / y)).reshape(x.shape) * x


def through_max(pool: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """All of a window's relevance to its winner."""
    winner = matrix(pool, x)
    return (winner.T @ r.reshape(-1)).reshape(x.shape)


def without_bias(layer: nn.Conv2d | nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's linear part."""
    if isinstance(layer, nn.Linear):
        return lambda x: x @ layer.weight.T
    return lambda x: nn.functional.conv2d(
        x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
    )


def sequential_relevance(model: nn.Sequential, image: Tensor, label: int) -> dict[str, Tensor]:
    """Relevance at the output of every conv and linear layer of a chain; ``image`` is (1, C, H, W)."""
    inputs = []
    x = image
    for layer in model:
        inputs.append(x)
        x = layer(x).detach()
    r = torch.zeros_like(x)
    r[0, label] = 1.0
    found = {}
    for i in reversed(range(len(model))):
        layer, x = model[i], inputs[i]
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found[str(i)] = r
            r = through_linear(without_bias(layer), x, r)
        elif isinstance(layer, nn.MaxPool2d):
            r = through_max(layer, x, r)
        elif isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            r = through_average(layer, x, r)
        else:
            r = r.reshape(x.shape)
    return found


def resnet_relevance(model: nn.Module, image: Tensor, label: int, read: str) -> dict[str, Tensor]:
    """Channel means of relevance in a CIFAR ResNet of basic blocks, walked block by block, for one image (1, C, H, W)."""
    blocks = [
        (f"layer{s}.{b}", block)
        for s in (1, 2, 3)
        for b, block in enumerate(getattr(model, f"layer{s}").children())
    ]
    x = torch.relu(model.bn1(model.conv1(image))).detach()
    saved = []
    for _, block in blocks:
        middle = torch.relu(block.bn1(block.conv1(x))).detach()
        branch = block.bn2(block.conv2(middle)).detach()
        skip = (x if block.downsample is None else block.downsample(x)).detach()
        saved.append((x, middle, branch, skip))
        x = torch.relu(branch + skip)
    pooled = model.avgpool(x).flatten(1).detach()
    r = torch.zeros(1, model.fc.out_features, dtype=torch.float64)
    r[0, label] = 1.0
    r = through_linear(without_bias(model.fc), pooled, r)
    r = through_average(model.avgpool, x, r)
    found = {}
    for (name, block), (x, middle, branch, skip) in reversed(list(zip(blocks, saved))):
        s = branch + skip
        q = r / (s + E * torch.where(s >= 0, 1.0, -1.0))
        r_branch, r_skip = branch * q, skip * q
        found[f"{name}.conv2"] = (r if read == "sum" else r_branch).mean((2, 3))[0]
        r_middle = through_linear(without_bias(block.conv2), middle, r_branch)
        found[f"{name}.conv1"] = r_middle.mean((2, 3))[0]
        r = through_linear(without_bias(block.conv1), x, r_middle)
        if block.downsample is None:
            r = r + r_skip
        else:
            found[f"{name}.downsample.0"] = r_skip.mean((2, 3))[0]
            r = r + through_linear(without_bias(block.downsample[0]), x, r_skip)
    found["conv1"] = r.mean((2, 3))[0]
    return found


def frs_by_loops(relevance: Tensor, labels: Tensor, class_accuracy: list[float]) -> Tensor:
    """Feature relevance scores of one layer from relevance (N, C), image by image and class by class."""
    classes = len(class_accuracy)
    sums = [torch.zeros(relevance.shape[1], dtype=torch.float64) for _ in range(classes)]
    counts = [0] * classes
    for r, c in zip(relevance.double(), labels.tolist()):
        sums[c] = sums[c] + r
        counts[c] += 1
    total, present = torch.zeros(relevance.shape[1], dtype=torch.float64), 0
    for c in range(classes):
        if counts[c] == 0:
            continue
        relative = class_accuracy[c] / max(class_accuracy)
        weight = (
            1.0 if relative == 0 else 1 / (1 + torch.exp(torch.tensor(-1 / relative, dtype=torch.float64)))
        )
        total = total + sums[c] * weight / counts[c]
        present += 1
    s = (total / present).abs()
    return s / (s.pow(2).sum().sqrt() + 1e-9)
