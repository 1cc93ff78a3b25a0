"""The sweep a good engineer would write today, with the tools everybody has.

Ray Tune function trainable, Optuna through ``OptunaSearch`` (two objectives), ``MLflowLoggerCallback``, torch-pruning
(magnitude, one ranking over all layers), PIL transforms behind a ``DataLoader``. It imports nothing of this repository.

What is done well here, because a good engineer would: one thread per trial and as many trials as cores, workers are
reused, images are decoded once and shared through Ray's object store, channels-last, the optimiser is rebuilt after
each event and its learning rate goes on where it was, a per-layer floor, MACs are checked after each tenth of an
event so that the target is hardly overshot, the seed is set, the final model is kept.

    python peer.py SPEC.json        run by run.py; SPEC holds what both sides must have in common
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
import torch_pruning as tp
from PIL import Image
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
STEPS_PER_EVENT = 10


class Cifar(Dataset):
    """Decoded images in memory, transformed one by one, as torchvision's own data sets do it."""

    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def decode(path, rows=None):
    """(images uint8 (N, 32, 32, 3), labels) of the chosen rows."""
    table = pq.read_table(path)
    if rows is not None:
        table = table.take(rows)
    columns = table.to_pydict()
    encoded = columns.get("img") or columns["image"]
    images = np.stack([np.asarray(Image.open(io.BytesIO(e["bytes"])).convert("RGB")) for e in encoded])
    return images, np.asarray(columns["label"])


def vgg_tiny(num_classes=10):
    layers, channels = [], 3
    for item in (32, 32, "M", 64, 64, "M", 128, 128):
        if item == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            conv = nn.Conv2d(channels, item, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.BatchNorm2d(item), nn.ReLU(inplace=True)]
            channels = item
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers)


def one_cycle(step, total, warmup=0.25, start=0.04):
    """Linear up over the first quarter, linear down to zero."""
    where = step / total
    return start + (1 - start) * where / warmup if where < warmup else (1 - where) / (1 - warmup)


def new_optimizer(model, spec):
    return torch.optim.SGD(model.parameters(), lr=spec["lr"], momentum=0.9, weight_decay=5e-4)


def new_pruner(model, example, config, events):
    """Each event removes ``ratio`` of the channels that are left, in ten steps."""
    steps = STEPS_PER_EVENT * max(events, 1)

    def shares(final, number):
        return [1 - (1 - config["ratio"]) ** (step / STEPS_PER_EVENT) for step in range(number + 1)]

    return tp.pruner.MagnitudePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=1),
        global_pruning=True,
        pruning_ratio=1 - (1 - config["ratio"]) ** max(events, 1),
        max_pruning_ratio=0.9,
        iterative_steps=steps,
        iterative_pruning_ratio_scheduler=shares,
        ignored_layers=[model[-1]],
    )


def count_macs(model, example):
    """Multiply-adds of conv and linear layers."""
    _, _, by_layer, _ = tp.utils.count_ops_and_params(model, example, layer_wise=True)
    return sum(macs for layer, macs in by_layer.items() if isinstance(layer, (nn.Conv2d, nn.Linear)))


def prune(model, pruner, example, limit):
    """One event; whether anything was removed."""
    before = count_macs(model, example)
    for _ in range(STEPS_PER_EVENT):
        pruner.step()
        if count_macs(model, example) <= limit:
            break
    return count_macs(model, example) < before


def train_epoch(model, optimizer, loader, spec, epoch):
    model.train()
    total = spec["epochs"] * len(loader)
    step = (epoch - 1) * len(loader)
    losses = 0.0
    for images, labels in loader:
        for group in optimizer.param_groups:
            group["lr"] = spec["lr"] * one_cycle(step, total)
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
        loss.backward()
        optimizer.step()
        losses += loss.item()
        step += 1
    return losses / len(loader)


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    right = total = 0
    for images, labels in loader:
        right += (model(images.to(memory_format=torch.channels_last)).argmax(1) == labels).sum().item()
        total += len(labels)
    return 100.0 * right / total


def train(config, data, spec):
    """The function trainable: one trial."""
    torch.set_num_threads(1)
    torch.manual_seed(spec["seed"])
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    augmented = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *plain.transforms]
    )
    loader = DataLoader(
        Cifar(*data["train"], augmented), batch_size=spec["batch_size"], shuffle=True, drop_last=False
    )
    seen, val, test = (
        DataLoader(Cifar(*data[name], plain), batch_size=250) for name in ("epoch_val", "val", "test")
    )
    model = vgg_tiny().to(memory_format=torch.channels_last)
    optimizer = new_optimizer(model, spec)
    example = torch.randn(1, 3, 32, 32)
    limit = (1 - config["target"]) * count_macs(model, example)
    last = int(spec["until"] * spec["epochs"] + 1e-9)
    events = [epoch for epoch in range(1, last + 1) if epoch % config["interval"] == 0]
    pruner = new_pruner(model, example, config, len(events))
    for epoch in range(1, spec["epochs"] + 1):
        loss = train_epoch(model, optimizer, loader, spec, epoch)
        due = epoch in events and count_macs(model, example) > limit
        if due and prune(model, pruner, example, limit):
            model.to(memory_format=torch.channels_last)
            optimizer = new_optimizer(model, spec)  # the old one holds parameters that are gone
        done = epoch == spec["epochs"]
        metrics = {
            "train_loss": loss,
            "val_accuracy": accuracy(model, val if done else seen),
            "macs": count_macs(model, example),
        }
        if not done:
            tune.report(metrics)
    metrics["test_accuracy"] = accuracy(model, test)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model, Path(folder) / "model.pt")
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def load_data(spec):
    """Each split as (images, labels); only the rows that are needed are decoded."""
    root = Path(spec["path"])
    train_file = next(iter(sorted([*root.glob("train*.parquet"), *root.glob("data/train*.parquet")])))
    test_file = next(iter(sorted([*root.glob("test*.parquet"), *root.glob("data/test*.parquet")])))
    data = {"train": decode(train_file, spec["train_rows"]), "val": decode(train_file, spec["val_rows"])}
    images, labels = data["val"]
    data["epoch_val"] = images[spec["epoch_val"]], labels[spec["epoch_val"]]
    data["test"] = decode(test_file)
    return data


def main():
    spec = json.loads(Path(sys.argv[1]).read_text())
    out = Path(spec["out"])
    ray.init(address="local", num_cpus=spec["cores"], include_dashboard=False, log_to_driver=False)
    data = load_data(spec)
    space = {
        "interval": tune.choice(spec["space"]["interval"]),
        "ratio": tune.quniform(*spec["space"]["ratio"]),
        "target": tune.quniform(*spec["space"]["target"]),
    }
    spec = {name: value for name, value in spec.items() if not name.endswith("_rows")}
    trainable = tune.with_resources(tune.with_parameters(train, data=data, spec=spec), {"cpu": 1})
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric=["val_accuracy", "macs"], mode=["max", "min"], seed=spec["seed"]),
            num_samples=-1,
            max_concurrent_trials=spec["cores"],
            time_budget_s=spec["deadline"] - time.time(),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="peer",
            storage_path=str(out.absolute()),
            verbose=0,
            callbacks=[
                MLflowLoggerCallback(tracking_uri=f"sqlite:///{out}/mlflow.db", experiment_name="peer")
            ],
        ),
    )
    tuner.fit()
    ray.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
