"""What a pruning event costs beside training: groups + selection + surgery against one training step of batch 64.

Median of several repetitions, one thread, float32, NCHW, 32 x 32 images, SGD with momentum; 20 % of the units go.
Groups are traced once a model in practice and follow plans afterwards (``Groups.after``); both are shown.

    OMP_NUM_THREADS=1 python -m benchmarks.core.surgery_time --out benchmarks/results/surgery_time.json
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import record
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan

NETS = ("resnet56", "resnet164", "torchvision:densenet121")
BATCH = 64


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what the call returned."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> None:
    """Forward, backward, step."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def measure(name: str, repeats: int) -> dict[str, float | int | str]:
    """Medians in seconds for one network."""
    torch.manual_seed(0)
    dense = build_model(name, 10)
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    times: dict[str, list[float]] = {key: [] for key in ("step", "groups", "selection", "surgery", "after")}
    removed = units = 0
    for _ in range(repeats):
        model = copy.deepcopy(dense).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        training_step(model, optimizer, x, y)
        times["step"].append(timed(lambda m=model, o=optimizer: training_step(m, o, x, y))[0])
        seconds, groups = timed(lambda m=model: find_groups(m, x))
        times["groups"].append(seconds)
        scores = {layer: torch.rand(size) for layer, size in groups.scored_layers().items()}
        seconds, plan = timed(lambda g=groups, s=scores: select_channels(s, g, Budget(ratio=0.2)))
        times["selection"].append(seconds)
        times["surgery"].append(timed(lambda m=model, o=optimizer, p=plan: apply_plan(m, p, o))[0])
        times["after"].append(timed(lambda g=groups, p=plan: g.after(p))[0])
        removed, units = plan.num_units, groups.num_units
    medians = {f"{key}_s": round(statistics.median(values), 4) for key, values in times.items()}
    event = medians["groups_s"] + medians["selection_s"] + medians["surgery_s"]
    share = {"event_over_step": round(event / medians["step_s"], 3)}
    return {"net": name, "units": units, "removed": removed, **medians, "event_s": round(event, 4), **share}


def main() -> None:
    """Print one record per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    parser.add_argument("--repeats", type=int, default=5)
    record.add_out(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    record.write(options.out, [measure(name, options.repeats) for name in options.nets])


if __name__ == "__main__":
    main()
