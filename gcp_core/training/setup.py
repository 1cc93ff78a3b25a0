"""Everything of a trial that does not change while it runs: built once, checked before anything is trained."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.allocators import Allocator
from gcp_core.config import PruneConfig, TrialConfig, digest
from gcp_core.cost import Cost, measure_cost
from gcp_core.criteria.base import Checked
from gcp_core.data import Images, Splits, evaluation_batches, load_splits, training_batches
from gcp_core.data.pipeline import ScoringBatches, num_steps, scoring_sample
from gcp_core.data.registry import resolve_augmentation
from gcp_core.data.split import stratified_choice
from gcp_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InfeasibleTarget,
    ModelError,
    did_you_mean,
    first_line,
    required,
)
from gcp_core.groups import Groups, find_groups
from gcp_core.methods.registry import check_method
from gcp_core.models import build_model
from gcp_core.models.arithmetic import float32_products, repeatable
from gcp_core.models.devices import device_named
from gcp_core.pruning.exactness import check_cuts
from gcp_core.pruning.selection import Budget, Ranking, hidden_groups, reachable_share
from gcp_core.records.checkpoint import load_weights
from gcp_core.records.stages import initial_digest
from gcp_core.repairs import Repair
from gcp_core.rewrites import Rewrite, added_macs
from gcp_core.schedule.clock import event_epochs
from gcp_core.schedule.paces import build_pace
from gcp_core.seeds import derive_seed, generator
from gcp_core.training.composition import (
    check_exact,
    check_gates,
    check_growth,
    check_penalty,
    compose,
    rewrite_of,
)
from gcp_core.training.evaluation import check_logits

log = logging.getLogger(__name__)

#: The statistics of a model that was just cut are those of this many images at most.
STATISTICS_IMAGES = 512

#: What floating point may take off a share; far less than the share of one multiply-add.
_HAIR = 1e-12


@dataclass(frozen=True)
class Setup:
    """Data, dense model and pruning machinery of one trial.

    Attributes:
        example: zeros ``(1, C, H, W)`` on the device: the input that costs refer to.
        groups: None for the baseline of a model that cannot be pruned.
        criterion, scoring, allocator: None for a baseline, as is ``limit``. ``repair``: None = weights stay as they are.
        limit: absolute cost (``prune.of``) at which pruning ends; 0 without a target.
        rewrite: None = the network is trained as it is. ``rewrite_macs``: multiply-adds that it adds to the dense model's
            training forward pass of one image.
        initial: SHA-256 of the file that the weights begin with, or empty. ``begins``: whose weights; None: its own.
    """

    config: TrialConfig
    splits: Splits
    device: torch.device
    augment: str
    padding: int
    example: Tensor
    dense_cost: Cost
    groups: Groups | None
    criterion: Checked | None
    scoring: ScoringBatches | None
    limit: float
    allocator: Allocator | None = None
    repair: Repair | None = None
    rewrite: Rewrite | None = None
    rewrite_macs: float = 0.0
    initial: str = ""
    begins: TrialConfig | None = None

    @property
    def scorer(self) -> tuple[Checked, ScoringBatches]:
        """The criterion of a trial that prunes, and the images it looks at; ValueError for a baseline."""
        return required(self.criterion, "criterion"), required(self.scoring, "scoring")

    @property
    def devices(self) -> float:
        """What the trial has of the machine if nobody says otherwise: a GPU, or the threads' cores, per process."""
        each = 1.0 if self.device.type == "cuda" else float(self.config.threads)
        return each * self.config.train.processes

    @contextlib.contextmanager
    def surroundings(self) -> Iterator[None]:
        """Around whatever the trial computes, in each of its processes: torch's random numbers and its switches for
        products and kernels, put back afterwards.
        """
        with (
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            float32_products(),
            repeatable(self.config.train.deterministic, self.device),
        ):
            yield

    def new_model(self) -> nn.Module:
        """The dense model with its initial weights, on the device."""
        return _new_model(self.begins or self.config, self.splits, self.device)

    @cached_property
    def train_images(self) -> Images:
        """Training images on the device (on a CPU they stay where they are)."""
        return self.splits.train.to(self.device)

    def epoch_batches(self, epoch: int, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled, augmented epoch (1 = the first): images ``(B, C, H, W)`` and labels, on the device.

        Args:
            part: (rank, processes): what this process trains on of every batch.
        """
        train = self.config.train
        return training_batches(
            self.train_images,
            self.splits.normalise,
            batch_size=train.batch_size,
            augment=self.augment,
            padding=self.padding,
            seed=self.config.seed,
            epoch=epoch,
            channels_last=train.channels_last,
            part=part,
        )

    def statistics_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images without augmentation, the same at every event: what statistics of norms are taken over."""
        images, train = self.splits.train, self.config.train
        order = torch.randperm(len(images), generator=generator(self.config.seed, "statistics"))
        order = order[:STATISTICS_IMAGES]
        if len(order) % train.batch_size == 1:
            order = order[:-1]  # as in training: batch norm cannot use a last batch of one image
        some = images.subset(order.to(images.rows.device)).to(self.device)
        return evaluation_batches(some, self.splits.normalise, train.batch_size, train.channels_last)

    @cached_property
    def epoch_val_images(self) -> Images:
        """The validation images looked at after each epoch."""
        val, wanted = self.splits.val, self.config.train.eval_images
        if wanted is not None and wanted < len(val):
            rng = generator(self.config.data.split_seed, "epoch-val")
            val = val.subset(stratified_choice(val.labels, wanted, rng))
        return val.to(self.device)


def build_setup(config: TrialConfig, device_name: str | None = None) -> Setup:
    """Load the data, build the model, find its groups, and refuse what cannot work.

    Args:
        device_name: what this process trains on, as ``cuda:1``; None = as ``train.device`` says.

    Raises:
        ConfigError, DataError, ModelError, InfeasibleTarget: each names the config path and what to try.
    """
    device = device_named(device_name or config.train.device)
    if config.train.precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "'fp16': a CPU trains in float32 or bf16", "train.precision", "fp32, bf16, or a GPU"
        )
    splits = load_splits(config.data)
    if not num_steps(splits.train, config.train.batch_size, config.train.processes):
        message = f"{len(splits.train)} training images are too few for one step: every process needs two"
        raise DataError(message, "data", "more images, or fewer train.processes")
    augment, padding = resolve_augmentation(config.data, splits.image_size)
    model = _new_model(config, splits, device)
    example = torch.zeros(1, splits.in_channels, *splits.image_size, device=device)
    prune = config.prune
    dense = measure_cost(model, example)
    check_logits(model, example, splits.num_classes, config.train.batch_size // config.train.processes)
    _check_exclude(model, prune)
    check_method(config)
    check_penalty(config)
    rewrite = rewrite_of(config)
    common = (config, splits, device, augment, padding, example, dense)
    more: dict[str, Any] = {"initial": initial_digest(config)}
    if rewrite is not None:
        macs = added_macs(rewrite, model, example, config.train.batch_size)
        more |= {"rewrite": rewrite, "rewrite_macs": macs}
        log.info("%s adds %.1f %% to the MACs of training", config.train.rewrite, 100 * macs / dense.macs)
    if prune is None:
        return Setup(*common, _groups_of_baseline(model, example), None, None, 0.0, **more)
    groups = find_groups(model, example, residual=prune.residual, exclude=prune.exclude)
    slots = compose(prune, groups)
    check_growth(config, slots)
    check_gates(config, slots)
    check_exact(config, slots)
    depth = prune.depth()
    limit = 0.0 if depth is None else cost_left(depth, getattr(dense, prune.of))
    _check_hidden(prune, groups)
    if config.is_path:
        _check_pace(config, splits)
        _check_depth(prune, groups)
    else:
        _check_target(config, groups)
    described = [dataclasses.asdict(config.model), splits.num_classes, prune.residual, prune.exclude]
    check_cuts(model, groups, example, prune.multiple, named=digest([described, repr(model)]))
    # Chosen before it travels: a GPU should not hold the training images twice.
    sample = scoring_sample(splits.train, prune.scoring_images, splits.num_classes, config.seed).to(device)
    scoring = ScoringBatches(sample, splits.normalise, config.train.channels_last)
    return Setup(*common, groups, slots.criterion, scoring, limit, slots.allocator, slots.repair, **more)


def _groups_of_baseline(model: nn.Module, example: Tensor) -> Groups | None:
    """Only counted (``prune/channels_left``): a baseline may be a model that cannot be pruned at all."""
    try:
        return find_groups(model, example)
    except ModelError as exc:
        log.info("the model cannot be pruned, only trained as a baseline: %s", exc)
        return None


def check_config(config: TrialConfig) -> None:
    """Raise what :func:`gcp_core.training.run_trial` would raise before its first step; train nothing."""
    build_setup(config)


def cost_left(removed: float, dense: float) -> float:
    """The cost at which this share of ``dense`` is gone; a cost that is exactly there is not above it.

    1 - 0.8 is a hair below 0.2: without the allowance that hair would cost a whole unit.
    """
    return (1 - removed + _HAIR) * dense


def out_of_reach(most: float, target: float) -> bool:
    """Whether the target is missed where at most the share ``most`` can be removed; what is met exactly is reached."""
    return 1 - most > cost_left(target, 1.0)


def budget_for(
    prune: PruneConfig, limit: float | None, comparable: bool = True, last: bool = False
) -> Budget:
    """What one event may take.

    Args:
        comparable: the criterion's (see :class:`gcp_core.criteria.Criterion`).
        last: whether the schedule has no event after it; with ``prune.finish`` it takes what is missing.
    """
    finishing = last and prune.finish
    own = "none" if comparable else "unit_l2"
    # A path's event that goes down to a level may take as much as that needs.
    whole = finishing or prune.levels is not None or prune.ratio_of == "cost"
    return Budget(
        count=None if finishing else prune.count,
        ratio=1.0 if whole else prune.ratio,
        hidden_count=None if finishing else prune.hidden_count,
        min_channels=prune.min_channels,
        min_share=prune.min_share,
        of=prune.of,
        limit=limit or None,
        round_to=prune.multiple,
        whole=whole,
        ranking=Ranking(
            normalise=own if prune.normalise == "auto" else prune.normalise,
            cost_power=prune.cost_power,
            allocator=prune.allocator,
            allocator_options=prune.allocator_options,
        ),
    )


def event_budgets(prune: PruneConfig, events: int) -> list[Budget]:
    """What each of so many events may take if nothing limits it."""
    return [budget_for(prune, None, last=number == events) for number in range(1, events + 1)]


def _check_hidden(prune: PruneConfig, groups: Groups) -> None:
    if prune.hidden_count is not None and not hidden_groups(groups):
        raise ConfigError(
            f"{prune.hidden_count!r} units of hidden linear layers, but none can be pruned",
            "prune.hidden_count",
            "null ranks all layers together",
        )


def _check_target(config: TrialConfig, groups: Groups) -> None:
    prune, epochs = config.pruning, config.train.num_epochs
    events = event_epochs(prune, epochs)
    if not events:
        raise InfeasibleTarget(
            f"no event falls between start and until in {epochs} epochs",
            "prune",
            "lower start or interval, raise until",
        )
    best = reachable_share(groups, event_budgets(prune, len(events) if prune.target else 1))
    rounding = ", lower round_to" if prune.multiple > 1 else ""
    if best == 0:
        hint = f"lower min_channels or min_share{rounding}"
        raise InfeasibleTarget("no event can remove anything: every group is at its floor", "prune", hint)
    if prune.target is not None and out_of_reach(best, prune.target):
        raise InfeasibleTarget(
            f"{prune.target:g} of the {prune.of} cannot be removed: {len(events)} events reach at most {best:.3f}",
            "prune.target",
            f"lower the target or the floors, raise ratio or until, shorten interval{rounding}",
        )


def _check_pace(config: TrialConfig, splits: Splits) -> None:
    """A pace of the user's own is called for each step of the first cycle: better now than after the dense phase."""
    pace, prune = build_pace(config.train.pace), config.pruning
    steps = prune.interval * num_steps(splits.train, config.train.batch_size, config.train.processes)
    for step in range(steps):
        pace(1, step, steps)


def _check_depth(prune: PruneConfig, groups: Groups) -> None:
    """A path may end at the floors; it must be able to begin."""
    most, depth = reachable_share(groups, [budget_for(prune, None)]), prune.depth()
    if prune.ratio_of == "units":
        most = reachable_share(groups, [dataclasses.replace(budget_for(prune, None), ratio=1.0)])
    if most <= 0:
        raise InfeasibleTarget(
            "nothing can be removed", "prune", "lower min_channels, min_share or round_to, exclude less"
        )
    if depth is not None and most < depth:
        log.warning(
            "prune.min_channels=%d, min_share=%g leave %.1f %% of the %s: paths end there, not at %.1f %% removed",
            prune.min_channels,
            prune.min_share,
            100 * (1 - most),
            prune.of,
            100 * depth,
        )


def _check_exclude(model: nn.Module, prune: PruneConfig | None) -> None:
    names = [name for name, _ in model.named_modules() if name]
    for i, pattern in enumerate(prune.exclude if prune else ()):
        if not any(fnmatch(name, pattern) for name in names):
            raise ConfigError(
                f"pattern {pattern!r} matches no module",
                f"prune.exclude.{i}",
                did_you_mean(pattern, names[:40]),
            )


def _new_model(config: TrialConfig, splits: Splits, device: torch.device) -> nn.Module:
    """Initial weights are drawn on the CPU, so they do not depend on the device."""
    described = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "init"))
        model = build_model(described.name, splits.num_classes, splits.in_channels, described.width)
    if described.weights is not None:
        _load_initial(model, described.weights, splits.num_classes)
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if config.train.channels_last else model


def _load_initial(model: nn.Module, path: str, num_classes: int) -> None:
    """Start from a state dict file. Output layers made for another number of classes keep their random weights."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{path!r} is not a file", "model.weights")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises many kinds here; all of them mean the same to the user
        hint = "torch.save(model.state_dict(), FILE) writes what is read here"
        raise CheckpointError(f"cannot be read as plain tensors: {first_line(exc)}", path, hint) from exc
    for name in ("state_dict", "model"):  # where training scripts put it
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        hint = "torch.save(model.state_dict(), FILE)"
        raise CheckpointError(f"holds a {type(state).__name__}, not a state dict", path, hint)
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    own = model.state_dict()
    for name in own.keys() & state.keys():
        have, given = tuple(own[name].shape), tuple(getattr(state[name], "shape", ()))
        if have != given and have[1:] == given[1:] and have[:1] == (num_classes,):
            log.warning("%s in %s is for %d classes: it starts from random weights", name, path, given[0])
            state[name] = own[name]
    load_weights(model, state, f"model.weights={path}")
