"""Does the core do on this device what it does on a CPU? Relevance, surgery, precisions, resuming, whole trials."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.bench import Kit
from gcp_core.config import PruneConfig
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.models.arithmetic import float32_products
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan, gate_channels
from gcp_core.relevance import feature_relevance_scores
from gcp_core.training import run_trial

#: Largest difference of scores between a CPU and another device, as a share of a layer's largest score. The relevance of
#: the first layers of deep residual networks is that sensitive to the order of sums.
SCORES = 2e-3
#: Of logits between a network with zeroed channels and one without them, float32.
SAME = 1e-4


def checks(kit: Kit) -> dict[str, Any]:
    """Every check: what came out, what is allowed, whether it holds."""
    found = kit.parts("checks", {name: partial(_made, check) for name, check in _all(kit).items()})
    return {**found, "holds": all(one["holds"] for one in found["parts"].values())}


def _made(check: Callable[[], tuple[float, float]]) -> dict[str, Any]:
    try:
        value, allowed = check()
    except Exception as exc:  # the next check may still say something
        return {"error": f"{type(exc).__name__}: {exc}", "holds": False}
    return {"value": value, "allowed": allowed, "holds": value <= allowed}


def _all(kit: Kit) -> dict[str, Callable[[], tuple[float, float]]]:
    nets = ["resnet20"] if kit.smoke else ["resnet20", "resnet56", "vgg16_bn"]
    made: dict[str, Callable[[], tuple[float, float]]] = {}
    for name in nets:
        made[f"scores of {name} as on a CPU"] = lambda name=name: (_scores(kit, name), SCORES)
        for mode in ("coupled", "inner", "scatter") if name.startswith("resnet") else ("coupled",):
            title = f"{name}, {mode}: removed = gated"
            made[title] = lambda name=name, mode=mode: (_removed(kit, name, mode), SAME)
    for precision in ("fp32", "bf16") if kit.device.type == "cpu" else ("fp32", "bf16", "fp16"):
        made[f"a trial in {precision} ends, with finite weights"] = lambda p=precision: (_ends(kit, p), 0.0)
    made["a compiled trial ends near one that is not"] = lambda: (_compiled(kit), 0.3)
    made["a trial that is interrupted twice ends as one that is not"] = lambda: (_resumed(kit), 0.0)
    made["the same trial twice has the same weights"] = lambda: (_twice(kit), 0.0)
    return made


def _net(name: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(name, 10).to(device)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(device)
    model.train()
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not 0 and 1
            model(images)
    return model.eval()


def _batch(device: torch.device, size: int = 64) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return images.to(device), (torch.arange(size) % 10).to(device)


def _scores(kit: Kit, name: str) -> float:
    model = _net(name, torch.device("cpu"))
    there = copy.deepcopy(model).to(kit.device)
    here = feature_relevance_scores(model, [_batch(torch.device("cpu"))], 10)
    other = feature_relevance_scores(there, [_batch(kit.device)], 10)
    return max(float((here[k] - other[k]).abs().max() / here[k].abs().max()) for k in here)


def _removed(kit: Kit, name: str, mode: str) -> float:
    """The network without a third of its units, beside the same with those held at zero; of the largest logit."""
    model, (images, _) = _net(name, kit.device), _batch(kit.device)
    groups = find_groups(model, images[:1], residual=mode)
    rng = torch.Generator().manual_seed(3)
    scores = {
        layer: torch.rand(size, generator=rng).double() for layer, size in groups.scored_layers().items()
    }
    plan = select_channels(scores, groups, Budget(ratio=0.3))
    # In float32: TF32, cuDNN's own choice, rounds the two networks' values to either side.
    with float32_products():
        with torch.inference_mode(), gate_channels(model, plan):
            wanted = model(images)
        apply_plan(model, plan)
        with torch.inference_mode():
            return float((wanted - model(images)).abs().max() / wanted.abs().max())


def _trial(kit: Kit, precision: str = "fp32") -> Any:
    prune = PruneConfig(interval=1, ratio=0.2, target=0.5, until=1.0, min_share=0.03)
    train = {"epochs": 3, "precision": precision, "eval_images": 128, "deterministic": True}
    small = Kit(True, kit.data, kit.work, kit.deadline)
    return small.trial("resnet20", train, prune)


def _ends(kit: Kit, precision: str) -> float:
    result = run_trial(_trial(kit, precision), latency=False)
    return 0.0 if result.status == "complete" else 1.0


def _compiled(kit: Kit) -> float:
    """Nats between the last training losses, recorded step by step and as it is written."""
    plain = _trial(kit)
    recorded = dataclasses.replace(plain, train=dataclasses.replace(plain.train, compile="auto"))
    losses = [run_trial(one, latency=False).history[-1].metrics["train/loss"] for one in (plain, recorded)]
    return abs(losses[0] - losses[1])


class _Interrupted(Exception):
    pass


def _resumed(kit: Kit) -> float:
    """0 = equal weights, bit by bit."""

    def interrupt(whole: Path) -> None:
        raise _Interrupted

    undisturbed = run_trial(_trial(kit), latency=False)
    with TemporaryDirectory() as folder:
        for _ in range(2):
            with contextlib.suppress(_Interrupted):
                run_trial(_trial(kit), checkpoint_dir=folder, saved=interrupt, latency=False)
        result = run_trial(_trial(kit), checkpoint_dir=folder, latency=False)
    return float(result.weights_sha256 != undisturbed.weights_sha256)


def _twice(kit: Kit) -> float:
    first, second = (run_trial(_trial(kit), latency=False).weights_sha256 for _ in range(2))
    return float(first != second)
