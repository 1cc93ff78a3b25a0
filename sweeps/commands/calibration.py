"""How long the parts of a trial take on this machine: a few steps of the real model on the real data.

Measured as if the machine had nothing else to do, as far as possible: a sweep on a busy machine takes longer.
"""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gcp_core.allocators import build_allocator
from gcp_core.allocators.base import Looking, looks
from gcp_core.config import END_CLOCK, INTERVAL_CLOCK, NO_REPAIR, PruneConfig, TrialConfig
from gcp_core.cost.latency import measure_against, threads
from gcp_core.criteria import build_criterion
from gcp_core.data.pipeline import num_steps
from gcp_core.errors import required
from gcp_core.groups import Groups
from gcp_core.models.arithmetic import autocast, float32_products
from gcp_core.models.devices import has_gpu
from gcp_core.plan import Plan
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.records.checkpoint import EpochCheckpoints
from gcp_core.repairs import build_repair
from gcp_core.schedule.clocks import build_clock
from gcp_core.seeds import generator
from gcp_core.steps import loss_of
from gcp_core.training.epoch import build_optimizer
from gcp_core.training.evaluation import evaluate
from gcp_core.training.setup import Setup, build_setup

_WARM_UP, _STEPS, _SECONDS = 2, 12, 3.0
_EVALUATED = 1024


@dataclass(frozen=True)
class Line:
    """Seconds as a line over the model's MACs, through two measured points."""

    dense_macs: float
    dense_s: float
    pruned_macs: float
    pruned_s: float

    def __call__(self, macs: float) -> float:
        slope = (self.dense_s - self.pruned_s) / max(1.0, self.dense_macs - self.pruned_macs)
        floor = 0.1 * self.pruned_s  # a line through noise must not promise work for nothing
        return max(floor, self.dense_s + max(0.0, slope) * (macs - self.dense_macs))


@dataclass(frozen=True)
class Calibration:
    """Seconds per part of a trial.

    Attributes:
        setup_s: data (decoded already), model and groups.
        step: one training step of ``batch_size`` images, by MACs.
        steps: per epoch.
        image: evaluation of one image, by MACs.
        epoch_val, final: images evaluated after an epoch, and at the end.
        score_s: one scoring pass of the dense model, by criterion.
        slot_s: one look of an allocator, one repair, or one question to a clock, of the dense model, by :func:`slots_of`.
        surgery_s: select, cut, count.
        save_s: one checkpoint.
        latency_s: the latency measurement at the end.
        state_bytes: weights and optimiser of the dense model.
    """

    setup_s: float
    step: Line
    batch_size: int
    steps: int
    image: Line
    epoch_val: int
    final: int
    score_s: dict[str, float] = field(default_factory=dict)
    slot_s: dict[str, float] = field(default_factory=dict)
    surgery_s: float = 0.0
    save_s: float = 0.0
    latency_s: float = 0.0
    state_bytes: int = 0


def slots_of(prune: PruneConfig) -> dict[str, str]:
    """Slot -> key of what fills it; slots that cost no time worth the name are left out."""
    found = {}
    if looks(build_allocator(prune.allocator, prune.allocator_options)):
        found["allocator"] = json.dumps(
            ["allocator", prune.allocator, prune.allocator_options], sort_keys=True
        )
    if prune.repair != NO_REPAIR:
        found["repair"] = json.dumps(["repair", prune.repair, prune.repair_options], sort_keys=True)
    if prune.clock not in (INTERVAL_CLOCK, END_CLOCK):
        found["clock"] = json.dumps(["clock", prune.clock, prune.clock_options], sort_keys=True)
    return found


def calibrate(
    trial: TrialConfig,
    criteria: dict[str, dict[str, Any]] | None = None,
    fillings: Sequence[PruneConfig] = (),
) -> Calibration:
    """Measure with the data, model and batch size of ``trial`` (which prunes).

    Args:
        criteria: name -> options of every criterion the space holds (default: the trial's own).
        fillings: what else fills slots in the space (default: what the trial has).
    """
    with threads(trial.threads), torch.random.fork_rng(devices=[]):
        build_setup(trial)  # decodes the data and warms the libraries up
        on_cpu = trial.train.device == "cpu" or not has_gpu()
        # One thread's CPU time is its wall time on a machine that has nothing else to do.
        watch = _Watch(time.process_time if on_cpu and trial.threads == 1 else time.perf_counter)
        setup_s, setup = watch.of(lambda: build_setup(trial))
        criteria = criteria or {trial.pruning.criterion: trial.pruning.options}
        # In the arithmetic of a trial: TF32, which is cuDNN's own choice, takes a fraction of the time.
        with setup.surroundings():
            return _measure(setup, watch, setup_s, criteria, fillings or [trial.pruning])


def _measure(
    setup: Setup,
    watch: _Watch,
    setup_s: float,
    criteria: dict[str, dict[str, Any]],
    fillings: Sequence[PruneConfig],
) -> Calibration:
    train, splits = setup.config.train, setup.splits
    model = setup.new_model()
    optimizer = build_optimizer(model, train)
    dense_macs, dense_s = float(setup.dense_cost.macs), _trained_s(model, optimizer, setup, watch)
    image_s = _image_s(model, setup, watch)
    scores = {name: _score_s(model, setup, name, options, watch) for name, options in criteria.items()}
    slots: dict[str, float] = {}
    for prune in fillings:
        for slot, key in slots_of(prune).items():
            if key not in slots:
                slots[key] = _slot_s(model, setup, prune, slot, watch)
    save_s, state_bytes = _save(model, optimizer, watch)
    latency_s, _ = watch.of(
        lambda: measure_against(model, model, setup.example, num_threads=setup.config.threads)
    )
    surgery_s, groups = _cut(model, optimizer, required(setup.groups, "groups"), watch)
    pruned_macs = float(groups.cost()[0])
    return Calibration(
        setup_s=setup_s,
        step=Line(dense_macs, dense_s, pruned_macs, _trained_s(model, optimizer, setup, watch)),
        batch_size=train.batch_size,
        steps=num_steps(setup.train_images, train.batch_size, train.processes),
        image=Line(dense_macs, image_s, pruned_macs, _image_s(model, setup, watch)),
        epoch_val=len(setup.epoch_val_images),
        final=len(splits.val) + len(splits.test),
        score_s=scores,
        slot_s=slots,
        surgery_s=surgery_s,
        save_s=save_s,
        latency_s=latency_s,
        state_bytes=state_bytes,
    )


@dataclass(frozen=True)
class _Watch:
    """A stop watch on a clock in seconds."""

    now: Callable[[], float]

    def of(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """(seconds of the call, its result)."""
        start = self.now()
        result = call()
        return self.now() - start, result


def _trained_s(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, setup: Setup, watch: _Watch
) -> float:
    """Seconds of one training step, with what a rewrite puts into the network (into a copy)."""
    if setup.rewrite is not None:
        model = copy.deepcopy(model)
        setup.rewrite.install(model, setup.example)
        optimizer = build_optimizer(model, setup.config.train, setup.rewrite)
    with float32_products(setup.config.train.tf32):
        return _step_s(model, optimizer, setup, watch)


def _step_s(model: torch.nn.Module, optimizer: torch.optim.Optimizer, setup: Setup, watch: _Watch) -> float:
    """Seconds of one training step, reading the batch included."""
    train, device = setup.config.train, setup.device
    model.train()
    times: list[float] = []
    begun = mark = watch.now()
    for images, labels in _endless_batches(setup):
        with autocast(device, train.precision):
            loss = loss_of(model(images), labels, train.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        _finish(device)
        times.append(watch.now() - mark)
        enough = len(times) >= _WARM_UP + 3 and watch.now() - begun > _SECONDS
        if enough or len(times) >= _WARM_UP + _STEPS:
            break
        mark = watch.now()
    return statistics.median(times[_WARM_UP:])


def _endless_batches(setup: Setup) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for epoch in itertools.count(1):
        # Of several processes each has a part of every batch; what they say to each other is not counted.
        yield from setup.epoch_batches(epoch, (0, setup.config.train.processes))


def _image_s(model: torch.nn.Module, setup: Setup, watch: _Watch) -> float:
    """Seconds of one image's evaluation."""
    images = setup.splits.val.subset(torch.arange(min(_EVALUATED, len(setup.splits.val))))

    def run() -> None:
        evaluate(model, images, setup.splits.normalise, channels_last=setup.config.train.channels_last)
        _finish(setup.device)

    run()
    return min(watch.of(run)[0] for _ in range(2)) / len(images)


def _score_s(
    model: torch.nn.Module, setup: Setup, name: str, options: dict[str, Any], watch: _Watch
) -> float:
    """Seconds of one scoring pass."""
    criterion, rng = build_criterion(name, options), generator(0, "calibration")
    groups, (_, scoring) = required(setup.groups, "groups"), setup.scorer

    def run() -> None:
        criterion.judge(model, groups, scoring, rng)
        _finish(setup.device)

    return watch.of(run)[0]


def _slot_s(model: torch.nn.Module, setup: Setup, prune: PruneConfig, slot: str, watch: _Watch) -> float:
    """Seconds of one look, repair (of an event that takes about half of the MACs) or question."""
    rng, groups, (_, scoring) = generator(0, "calibration"), required(setup.groups, "groups"), setup.scorer
    if slot == "repair":
        patched, plan = copy.deepcopy(model), _half(groups)
        repair = build_repair(prune.repair, prune.repair_options)
        return watch.of(lambda: repair.patch(patched, groups, plan, scoring, rng))[0]
    if slot == "clock":
        clock = build_clock(prune.clock, prune.clock_options)
        return watch.of(lambda: clock.due(1, model, groups, scoring, rng))[0]
    allocator = build_allocator(prune.allocator, prune.allocator_options)
    if not isinstance(allocator, Looking):
        return 0.0
    return watch.of(lambda: allocator.look(model, groups, scoring, rng))[0]


def _cut(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, groups: Groups, watch: _Watch
) -> tuple[float, Groups]:
    """(seconds of one event without its scores, groups after it): units go at random, about half of the MACs."""

    def cut() -> Groups:
        plan = _half(groups)
        apply_plan(model, plan, optimizer)
        return groups.after(plan)

    return watch.of(cut)


def _half(groups: Groups) -> Plan:
    """What takes about half of the MACs, units at random."""
    rng = torch.Generator().manual_seed(0)
    scores = {
        layer: torch.rand(channels, generator=rng, dtype=torch.float64)
        for layer, channels in groups.scored_layers().items()
    }
    return select_channels(scores, groups, Budget(ratio=0.4))


def _save(model: torch.nn.Module, optimizer: torch.optim.Optimizer, watch: _Watch) -> tuple[float, int]:
    """(seconds, bytes) of one checkpoint."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory() as place:
        checkpoints = EpochCheckpoints(Path(place) / "epochs")
        seconds, folder = watch.of(lambda: checkpoints.save(1, state, {}))
        return seconds, sum(file.stat().st_size for file in folder.iterdir())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
