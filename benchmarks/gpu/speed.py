"""How fast: training steps dense and pruned, eager and compiled, beside a loop written by hand; batches; events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.bench import Kit, in_turn, peak_mib
from gcp_core.config import PruneConfig, TrainConfig
from gcp_core.cost import measure_cost
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.models.arithmetic import float32_products
from gcp_core.pruning.surgery import remove_channels
from gcp_core.relevance import feature_relevance_scores
from gcp_core.steps import Steps
from gcp_core.training.epoch import build_optimizer, train_epoch
from gcp_core.training.event import prune_event
from gcp_core.training.setup import build_setup
from gcp_core.training.state import State

#: Images of an epoch that is timed: some dozens of steps.
IMAGES = 4096


def halved(kit: Kit, name: str, half: bool) -> nn.Module:
    """The network, with half of each group's units if asked for, channels last, on the device."""
    torch.manual_seed(0)
    model = build_model(kit.name(name), 10).to(kit.device, memory_format=torch.channels_last)
    if half:
        example = torch.zeros(1, 3, 32, 32, device=kit.device)
        groups = find_groups(model, example)
        gone = {group.name: list(range(group.size // 2)) for group in groups.groups}
        remove_channels(model, gone, example_input=example, strict=True)
    return model.train()


def step(kit: Kit) -> dict[str, Any]:
    """Milliseconds of a training step of batch 128: ours, and a CUDA graph captured by hand."""
    names = ("resnet56",) if kit.smoke else ("resnet56", "vgg16_bn", "resnet110")
    works = {
        f"{name}, {kind}": partial(_steps, kit, name, kind) for name in names for kind in ("fp32", "bf16")
    }
    return {"batch": 128, "unit": "ms per step, median of rounds in turn", **kit.parts("step", works)}


def _steps(kit: Kit, name: str, precision: str) -> dict[str, Any]:
    works: dict[str, Callable[[], Any]] = {}
    macs: dict[str, int] = {}
    failed: dict[str, str] = {}
    number = 1
    for half in (False, True):
        width = "half" if half else "dense"
        macs[width] = measure_cost(halved(kit, name, half), torch.zeros(1, 3, 32, 32, device=kit.device)).macs
        for mode in ("off", "auto", "inductor") if name == "resnet56" and not kit.smoke else ("off", "auto"):
            work, number = _ours(kit, name, half, precision, mode)
            works[f"{width}, ours, compile {mode}"] = work
        if kit.device.type == "cuda":
            try:
                works[f"{width}, graph by hand"] = _by_hand(kit, name, half, precision, number)
            except RuntimeError as exc:
                failed[f"{width}, graph by hand"] = str(exc).splitlines()[0]
    times = in_turn(works, 1 if kit.smoke else 5, kit.device)
    return {
        "macs": macs,
        "steps_per_round": number,
        "ms": {work: round(value / number, 3) for work, value in times.items()},
        "failed": failed,
    }


def _ours(kit: Kit, name: str, half: bool, precision: str, mode: str) -> tuple[Callable[[], Any], int]:
    """An epoch as a trial trains it, input pipeline included; and its steps."""
    train = {"epochs": 4, "precision": precision, "compile": mode}
    config = kit.trial(name, train)
    if not kit.smoke:
        config = _with_images(kit, config)
    setup = build_setup(config)
    model = halved(kit, name, half)
    optimizer = build_optimizer(model, config.train)
    steps = len(setup.train_images) // config.train.batch_size
    kept = Steps()
    return lambda: train_epoch(model, optimizer, setup, 1, steps=kept), steps


def _with_images(kit: Kit, config: Any) -> Any:
    return dataclasses.replace(config, data=kit.images(IMAGES))


def _by_hand(kit: Kit, name: str, half: bool, precision: str, steps: int) -> Callable[[], Any]:
    """Forward, backward and step in one captured graph that is replayed: nothing is launched op by op, no data moves."""
    device = kit.device
    model = halved(kit, name, half)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    images = torch.randn(128, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(128, device=device) % 10

    def once() -> Tensor:
        # Float32 as ours: cuDNN's convolutions would be TF32 otherwise.
        with float32_products(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        with float32_products():
            loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()

    def replay() -> None:
        for _ in range(steps):
            graph.replay()

    return replay


def pipeline(kit: Kit) -> dict[str, Any]:
    """What an epoch's batches cost without a network, and the share of an epoch of ResNet-56 that this is."""
    config = kit.trial("resnet56", {"epochs": 4})
    setup = build_setup(config if kit.smoke else _with_images(kit, config))
    model = halved(kit, "resnet56", half=False)
    optimizer = build_optimizer(model, TrainConfig())

    def batches() -> None:
        for images, _ in setup.epoch_batches(1):
            images.sum()  # it is really made

    works: dict[str, Callable[[], Any]] = {
        "batches alone": batches,
        "epoch": lambda: train_epoch(model, optimizer, setup, 1),
    }
    times = in_turn(works, 1 if kit.smoke else 5, kit.device)
    number = len(setup.train_images)
    return {
        "images": number,
        "images_per_s": round(1000 * number / times["batches alone"]),
        "ms": times,
        "share_of_an_epoch": round(times["batches alone"] / times["epoch"], 4),
    }


def relevance(kit: Kit) -> dict[str, Any]:
    """The relevance pass over a scoring sample, in forward passes of the same images; and the memory it takes."""
    names = ("resnet56",) if kit.smoke else ("resnet56", "resnet110", "vgg16_bn")
    return kit.parts("relevance", {name: partial(_relevance, kit, name) for name in names})


def _relevance(kit: Kit, name: str) -> dict[str, Any]:
    setup = build_setup(kit.trial(name, {"epochs": 20}, PruneConfig(criterion="frs")))
    model = setup.new_model().eval()
    _, scoring = setup.scorer

    def forward() -> None:
        with float32_products(), torch.inference_mode():  # as scores are: TF32 would be another measure
            for images, _ in scoring:
                model(images)

    def score() -> None:
        feature_relevance_scores(model, scoring, 10)

    times = in_turn({"forward": forward, "relevance": score}, 1 if kit.smoke else 5, kit.device)
    return {
        "images": len(scoring.images),
        "ms": times,
        "forwards": round(times["relevance"] / times["forward"], 2),
        "peak_mib": peak_mib(kit.device, score),
    }


def event(kit: Kit) -> dict[str, Any]:
    """A whole event (score, select, cut model and optimiser), in epochs of the same network."""
    names = ("resnet56",) if kit.smoke else ("resnet56", "resnet110")
    return kit.parts("event", {name: partial(_event, kit, name) for name in names})


def _event(kit: Kit, name: str) -> dict[str, Any]:
    prune = PruneConfig(criterion="frs", interval=1, ratio=0.1, target=0.6, until=1.0)
    setup = build_setup(kit.trial(name, {"epochs": 20}, prune))
    state = State.fresh(setup)

    def train() -> None:
        train_epoch(state.model, state.optimizer, setup, 1)

    epoch = in_turn({"epoch": train}, 1, kit.device)["epoch"]
    rounds = 1 if kit.smoke else 5
    # As large as what the epoch trained: looking at a network that is pruned already is cheaper.
    whole = [State.fresh(setup) for _ in range(rounds + 1)]
    left = iter(whole)
    times = in_turn({"event": lambda: prune_event(next(left), 1)}, rounds, kit.device)
    return {
        "epoch_ms": epoch,
        "event_ms": times["event"],
        "epochs_per_event": round(times["event"] / epoch, 4),
        "removed": round(whole[-1].removed, 4),
    }
