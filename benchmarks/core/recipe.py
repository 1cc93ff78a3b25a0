"""Our training recipe against the plain torchvision recipe: seconds per epoch, same model, batch and threads.

Plain: PIL images, random crop + flip + to-tensor + normalise, a DataLoader, NCHW, SGD as it comes. Ours: tensors in
memory, one batched gather, channels-last, fused SGD; once in float32 and once in bfloat16. Interleaved rounds in one
process; CPU time of the process and its workers is given beside the wall time, for machines that others use too.

    python -m benchmarks.core.recipe --path /data/cifar10 --out benchmarks/results/recipe.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import record
from gcp_core.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from gcp_core.cost.latency import threads
from gcp_core.training.epoch import build_optimizer, train_epoch
from gcp_core.training.setup import Setup, build_setup


class PilImages(Dataset):
    """The training images as PIL images through torchvision's transforms, as its references do it."""

    def __init__(self, setup: Setup) -> None:
        splits = setup.splits
        self._images, self._labels = splits.train.images.numpy(), splits.train.labels.tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(splits.image_size, setup.padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(splits.mean, splits.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def plain_epoch(setup: Setup, workers: int) -> Callable[[int], None]:
    """One epoch of the plain recipe, as a function of its number."""
    train = setup.config.train
    model = setup.new_model().to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(
        model.parameters(), train.lr, momentum=train.momentum, weight_decay=train.weight_decay
    )
    loader = DataLoader(
        PilImages(setup),
        train.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )

    def run(epoch: int) -> None:
        model.train()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def our_epoch(setup: Setup) -> Callable[[int], None]:
    """One epoch of the trial loop."""
    model = setup.new_model()
    optimizer = build_optimizer(model, setup.config.train)
    return lambda epoch: train_epoch(model, optimizer, setup, epoch)


def cpu_seconds() -> float:
    """User and system time of this process and of its workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Warm up each recipe with one epoch, then time epochs in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="of the plain recipe's DataLoader")
    record.add_out(parser)
    options = parser.parse_args()

    def setup(precision: str) -> Setup:
        data = DataConfig(name="parquet", path=options.path, train_images=options.images)
        train = TrainConfig(
            epochs=options.epochs + 1, batch_size=options.batch_size, lr=0.05, precision=precision
        )
        return build_setup(TrialConfig(data=data, model=ModelConfig(options.model), train=train, prune=None))

    with threads(1):
        recipes = {
            "plain": plain_epoch(setup("fp32"), options.workers),
            "ours, fp32": our_epoch(setup("fp32")),
            "ours, bf16": our_epoch(setup("bf16")),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in recipes}
        for epoch in range(1, options.epochs + 2):
            for name, run in recipes.items():
                wall, cpu = time.perf_counter(), cpu_seconds()
                run(epoch)
                seconds[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    results = {}
    for name, values in seconds.items():
        ratios = [(w / wp, c / cp) for (w, c), (wp, cp) in zip(values[1:], seconds["plain"][1:])]
        results[name] = {
            "wall_s": [round(wall, 2) for wall, _ in values[1:]],
            "cpu_s": [round(cpu, 2) for _, cpu in values[1:]],
            "wall_ratio": statistics.median(wall for wall, _ in ratios),
            "cpu_ratio": statistics.median(cpu for _, cpu in ratios),
        }
    record.write(options.out, {"model": options.model, "images": options.images, "recipes": results})


if __name__ == "__main__":
    main()
