"""A search over single trials, as its best user would write it with Ray Tune, Optuna and torch-pruning.

    python searcher.py SPEC.json      run by search_race.py; SPEC holds what both sides must have in common

What a good engineer would not leave to chance: a trial's events divide the way to its target evenly, so every target is
reached and hardly overshot; importance (magnitude, L1 and L2, and Taylor), epochs and the length of the pruning phase
are searched as well; Optuna's sampler draws fewer trials at random than its default, as there is time for few. Data,
model, loader, cuts and the other habits are those of ``peer.py`` and ``rivals.py``; like them, this imports nothing of
the repository.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import optuna
import ray
import torch
from peer import MEAN, STD, Cifar, accuracy, load_data, one_cycle, vgg_tiny
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from rivals import Net
from torch.utils.data import DataLoader
from torchvision import transforms

#: Trials that are drawn at random before the sampler looks at what came of them (Optuna's default is 10).
RANDOM_TRIALS = 6


def train(config, data, spec):
    """The function trainable: one trial."""
    torch.manual_seed(spec["seed"])
    net = Net(vgg_tiny().to(memory_format=torch.channels_last), data, spec, {})
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    seen = DataLoader(Cifar(*data["epoch_val"], plain), batch_size=250)
    epochs = config["epochs"]
    last = max(int(config["until"] * epochs + 1e-9), config["interval"])
    events = [epoch for epoch in range(1, last + 1) if epoch % config["interval"] == 0]
    for epoch in range(1, epochs + 1):
        # One cycle over all epochs: this one's steps are a part of it.
        net.train(1, lambda step, steps, before=epoch - 1: one_cycle(before * steps + step, epochs * steps))
        if epoch in events:
            share = (events.index(epoch) + 1) / len(events)
            net.cut(1 - (1 - config["target"]) ** share, config["importance"])
        done = epoch == epochs
        metrics = {
            "epoch": epoch,
            "left": net.left,
            "train_cost": net.cost,
            "val_accuracy": accuracy(net.model, net.val if done else seen),
        }
        if not done:
            tune.report(metrics)
    metrics["test_accuracy"] = accuracy(net.model, net.test)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(net.model, Path(folder) / "model.pt")
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def main():
    spec = json.loads(Path(sys.argv[1]).read_text())
    out = Path(spec["out"])
    ray.init(address="local", num_cpus=spec["cores"], include_dashboard=False, log_to_driver=False)
    data = load_data(spec)
    space = {name: tune.choice(values) for name, values in spec["space"].items()}
    space["target"] = tune.quniform(*spec["target"])
    spec = {name: value for name, value in spec.items() if not name.endswith("_rows")}
    sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=spec["seed"])
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, data=data, spec=spec), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric=["val_accuracy", "left"], mode=["max", "min"], sampler=sampler),
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
