"""Does pruning while training save wall time? A pruned trial and its unpruned baseline, side by side.

Both run at the same time, each in a process of its own with one thread, for the same epochs on the same images, so
that whatever else the machine does slows both alike. Repeated with the two started in the other order.

    python -m benchmarks.core.pruned_trial_time --path /data/cifar10 --out benchmarks/results/pruned_trial_time.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from benchmarks import record

CHILD = """
import json, sys, time
from gcp_core.config import TrialConfig
from gcp_core.training import run_trial
config = TrialConfig.from_dict(json.loads(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
result = run_trial(config)
print(json.dumps({"wall_s": time.perf_counter() - start, "epoch_s": [r.metrics["time/epoch_s"] for r in result.history],
                  **result.finals}))
"""


def trial(path: str, epochs: int, images: int, residual: str) -> dict:
    """ResNet-20 that loses half of its MACs in events after epochs 1 and 2."""
    return {
        "seed": 0,
        "data": {"name": "parquet", "path": path, "train_images": images, "val_images": 1000},
        "model": {"name": "resnet20"},
        "train": {"epochs": epochs, "batch_size": 64},
        "prune": {"interval": 1, "ratio": 0.3, "target": 0.5, "until": 1.0, "residual": residual},
    }


def run_pair(configs: dict[str, dict]) -> dict[str, dict]:
    """Run the configurations at the same time; their reports by name."""
    children = {
        name: subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, config in configs.items()
    }
    for child in children.values():
        child.stdout.readline()
    for child in children.values():
        child.stdin.write("go\n")
        child.stdin.flush()
    return {name: json.loads(child.communicate()[0].splitlines()[-1]) for name, child in children.items()}


def main() -> None:
    """Run the pair twice and print wall times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, help="folder of the CIFAR-10 parquet files")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--residual", default="coupled")
    record.add_out(parser)
    options = parser.parse_args()
    pruned = trial(options.path, options.epochs, options.images, options.residual)
    configs = {"pruned": pruned, "baseline": {**pruned, "prune": None}}
    rounds = []
    for order in (("pruned", "baseline"), ("baseline", "pruned")):
        started = time.perf_counter()
        reports = run_pair({name: configs[name] for name in order})
        reports["ratio"] = reports["pruned"]["wall_s"] / reports["baseline"]["wall_s"]
        reports["both_s"] = time.perf_counter() - started
        rounds.append(reports)
    record.write(options.out, {"rounds": rounds, "ratio": [r["ratio"] for r in rounds]})


if __name__ == "__main__":
    main()
