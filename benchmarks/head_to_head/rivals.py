"""Two ways to a whole front that a good engineer with torch-pruning would take, without a search.

    python rivals.py SPEC.json      run by front_race.py; SPEC holds what all sides must have in common

``one_shot``: the net is trained once; then every level is cut from it at once and fine-tuned, levels in parallel on
Ray. ``steps``: one net goes through the levels, and every cut is followed by a learning-rate cycle; magnitude and Taylor
importance, one on each core. Data, model, loader and the other habits are those of ``peer.py``; like it, this imports
nothing of the repository. Every finished model is a line of ``models.jsonl``, written the moment it is evaluated.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from pathlib import Path

import ray
import torch
import torch_pruning as tp
from peer import MEAN, STD, Cifar, accuracy, count_macs, load_data, new_optimizer, one_cycle, vgg_tiny
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

#: A cut goes down in steps so small that it ends hardly below its level.
STEPS = 400
#: Taylor importance is of the gradients of so many batches.
TAYLOR_BATCHES = 8


def importance_of(name):
    """As the library recommends them: whole groups, averaged over their layers."""
    return {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "taylor": lambda: tp.importance.GroupTaylorImportance(),
    }[name]()


class Net:
    """A net in training: its optimiser, what it has cost, and when its finished models are ready."""

    def __init__(self, model, data, spec, about):
        torch.set_num_threads(1)
        self.model, self.spec, self.about, self.data = model, spec, about, data
        self.optimizer = new_optimizer(model, spec)
        self.example = torch.randn(1, 3, 32, 32)
        self.dense = count_macs(vgg_tiny(), self.example)
        self.cost = 0.0
        plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        augmented = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *plain.transforms]
        )
        self.loader = DataLoader(
            Cifar(*data["train"], augmented), batch_size=spec["batch_size"], shuffle=True
        )
        self.val, self.test = (DataLoader(Cifar(*data[n], plain), batch_size=250) for n in ("val", "test"))

    @property
    def left(self):
        return count_macs(self.model, self.example) / self.dense

    def train(self, epochs, factor):
        """``factor(step, steps)`` of the peak learning rate."""
        self.model.train()
        steps, step = epochs * len(self.loader), 0
        for _ in range(epochs):
            for images, labels in self.loader:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.spec["lr"] * factor(step, steps)
                self.optimizer.zero_grad(set_to_none=True)
                loss = nn.functional.cross_entropy(
                    self.model(images.to(memory_format=torch.channels_last)), labels
                )
                loss.backward()
                self.optimizer.step()
                step += 1
        self.cost += epochs * self.left

    def cut(self, removed, importance):
        """Remove channels until so large a share of the multiply-adds is gone."""
        if importance == "taylor":
            self._gradients()
        pruner = tp.pruner.BasePruner(
            self.model,
            self.example,
            importance=importance_of(importance),
            global_pruning=True,
            pruning_ratio=0.97,
            max_pruning_ratio=1 - self.spec["min_share"],
            iterative_steps=STEPS,
            ignored_layers=[self.model[-1]],
        )
        for _ in range(STEPS):
            if self.left <= 1 - removed:
                break
            pruner.step()
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = new_optimizer(self.model, self.spec)  # the old one holds parameters that are gone

    def _gradients(self):
        self.model.zero_grad()
        for number, (images, labels) in enumerate(self.loader):
            if number == TAYLOR_BATCHES:
                break
            nn.functional.cross_entropy(self.model(images), labels).backward()

    def go_down(self, level):
        """Cut to a level, train on, and keep the model."""
        self.cut(level, self.about["importance"])
        self.train(self.spec["tune_epochs"], lambda step, steps: self.spec["tune_rate"] * (1 - step / steps))
        self.finished(level)

    def finished(self, level):
        """Evaluate the model as it is, and write it down."""
        line = {
            **self.about,
            "level": level,
            "left": self.left,
            "val_accuracy": accuracy(self.model, self.val),
            "test_accuracy": accuracy(self.model, self.test),
            "train_cost": self.cost,
            "seconds": time.time() - self.spec["started"],
        }
        with (Path(self.spec["out"]) / "models.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


@ray.remote(num_cpus=1)
def dense(data, spec, about):
    """The unpruned net, trained with one-cycle; (model, what it has cost)."""
    torch.manual_seed(spec["seed"])
    net = Net(vgg_tiny().to(memory_format=torch.channels_last), data, spec, about)
    net.train(spec["dense_epochs"], one_cycle)
    net.finished(0.0)
    return net.model, net.cost


@ray.remote(num_cpus=1)
def one_level(trained, level, data, spec, about):
    """Cut the trained net to a level at once, and fine-tune."""
    torch.manual_seed(spec["seed"])
    model, _ = trained
    net = Net(copy.deepcopy(model), data, spec, about)
    net.go_down(level)


@ray.remote(num_cpus=1)
def steps(data, spec, about):
    """Through the levels one after the other, a cycle after each."""
    torch.manual_seed(spec["seed"])
    net = Net(vgg_tiny().to(memory_format=torch.channels_last), data, spec, about)
    net.train(spec["dense_epochs"], one_cycle)
    net.finished(0.0)
    for level in spec["levels"]:
        net.go_down(level)


def main():
    spec = json.loads(Path(sys.argv[1]).read_text())
    ray.init(address="local", num_cpus=spec["cores"], include_dashboard=False, log_to_driver=False)
    data = ray.put(load_data(spec))
    spec = {name: value for name, value in spec.items() if not name.endswith("_rows")}
    if spec["rival"] == "one_shot":
        about = {"rival": "one_shot", "importance": "magnitude", "seed": spec["seed"]}
        trained = dense.remote(data, spec, about)
        ray.get([one_level.remote(trained, level, data, spec, about) for level in spec["levels"]])
    else:
        kinds = [
            {"rival": "steps", "importance": name, "seed": spec["seed"]} for name in ("magnitude", "taylor")
        ]
        ray.get([steps.remote(data, spec, about) for about in kinds])
    ray.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
