"""What changes while a trial runs, and how it is put away and found again."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gcp_core import schema
from gcp_core.cost import Cost, measure_cost
from gcp_core.errors import CheckpointError, PlanError, required
from gcp_core.groups import Groups
from gcp_core.penalties import Penalty
from gcp_core.plan import Plan
from gcp_core.pruning.growth import groups_after
from gcp_core.pruning.surgery import apply_plan
from gcp_core.records.checkpoint import EpochCheckpoints, check_fit, load_weights, plans_from, plans_to_json
from gcp_core.records.results import (
    EpochReport,
    check_same_start,
    check_same_trial,
    history_from,
    rows_of,
    started_from,
)
from gcp_core.rewrites import Lifted, check_folded, folded
from gcp_core.schedule.clocks import Clock, build_clock
from gcp_core.slots import load_state, state_of
from gcp_core.steps import Steps, scaler_of
from gcp_core.training.composition import penalty_of
from gcp_core.training.epoch import build_optimizer, fill_momenta
from gcp_core.training.evaluation import EVALUATION_BATCH
from gcp_core.training.setup import Setup
from gcp_core.training.statistics import recomputed

log = logging.getLogger(__name__)

#: So many images a folded model is checked with before it leaves.
FOLDED_IMAGES = 16


def moved(values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What a slot has remembered, with its tensors on ``device``: files and messages give them on the CPU."""
    return {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in values.items()}


@dataclass
class State:
    """A trial between two epochs.

    Attributes:
        groups, cost: of the model as it is now.
        plans: what was removed so far, in order.
        in_vain: of every event that has looked and removed nothing, its epoch (and ``looked``, as in a plan's ``meta``).
        history: one report per epoch; its length is the epoch that has ended.
        trained: epochs that this process trained; the others were resumed or taken over.
        penalty: None = the loss is the loss. ``clock``: None for a path and a baseline.
        loads: so often weights were taken over from somewhere.
        rewritten: whether the rewrite's modules are in ``model`` now; :meth:`plain` is without them.
        folded_from: epochs after this one are trained without the rewrite, as a polish is; None = there is no such.
        steps: how the network is trained with a batch.
    """

    setup: Setup
    model: nn.Module
    optimizer: torch.optim.Optimizer
    groups: Groups | None
    cost: Cost
    plans: list[Plan] = field(default_factory=list)
    in_vain: list[dict[str, Any]] = field(default_factory=list)
    history: list[EpochReport] = field(default_factory=list)
    trained: int = 0
    penalty: Penalty | None = None
    clock: Clock | None = None
    rewritten: bool = False
    folded_from: int | None = None
    loads: int = 0
    steps: Steps = field(default_factory=Steps)
    _lifted: Lifted | None = None

    @classmethod
    def fresh(cls, setup: Setup, *, rewritten: bool = True) -> State:
        """Before the first epoch: the dense model with its initial weights.

        Args:
            rewritten: False = without the config's rewrite.
        """
        model, config = setup.new_model(), setup.config
        rewrite = setup.rewrite if rewritten else None
        if rewrite is not None:
            rewrite.install(model, setup.example)
        optimizer = build_optimizer(model, config.train, rewrite)
        state = cls(setup, model, optimizer, setup.groups, setup.dense_cost)
        state.steps = Steps(scaler_of(config.train, setup.device))
        state.rewritten = rewrite is not None
        state.penalty = penalty_of(config)
        if config.prune is not None and not config.is_path:
            state.clock = build_clock(config.prune.clock, config.prune.clock_options)
        return state

    @property
    def epoch(self) -> int:
        """The last epoch that has ended, 0 before the first."""
        return len(self.history)

    @property
    def just_cut(self) -> bool:
        """Whether the last epoch has ended with an event, so that norms still have the statistics of the larger model."""
        return bool(self.plans) and self.plans[-1].meta["epoch"] == self.epoch

    @property
    def channels_left(self) -> float:
        """Prunable units still alive."""
        dense = 0 if self.setup.groups is None else self.setup.groups.num_units
        grown = sum(plan.growth.num_units for plan in self.plans if plan.growth is not None)
        return float(dense + grown - sum(plan.num_units for plan in self.plans))

    @property
    def living(self) -> Groups:
        """``groups`` of a model that can be pruned; ValueError where it cannot."""
        return required(self.groups, "groups")

    @property
    def removed(self) -> float:
        """Share of the dense model's cost (``prune.of``) that is gone, 0 .. 1; only for a trial that prunes."""
        of = self.setup.config.pruning.of
        return 1 - getattr(self.cost, of) / getattr(self.setup.dense_cost, of)

    def plain(self, *, check: bool = False) -> nn.Module:
        """The model without what a rewrite has put in: what is evaluated, looked at, and leaves. A copy where it has.

        Where a rewrite lets channels come and go, the copy's running statistics of norms are taken anew, over
        :meth:`Setup.statistics_batches`, with channels open or closed as they are in eval mode.

        Args:
            check: compare what the folded model computes with what it was folded from.

        Raises:
            ModelError: they differ.
        """
        if not self.rewritten:
            return self.model
        model = self.model
        if getattr(self.setup.rewrite, "moves_statistics", False):
            model = copy.deepcopy(model)
            with recomputed(model, self.setup.statistics_batches(), keep=True):
                pass
        found = folded(model, self.setup.rewrite)
        if check:
            self._check(model, found)
        return found

    def _check(self, model: nn.Module, plain: nn.Module) -> None:
        check_folded(model, plain, next(iter(self.setup.statistics_batches()))[0][:FOLDED_IMAGES])

    def shape(self) -> nn.Module:
        """As :meth:`plain`, where only the layers matter (cost, time): statistics of norms are left as they are."""
        return folded(self.model, self.setup.rewrite if self.rewritten else None)

    def cut(self, plan: Plan) -> None:
        """Remove what the plan says from model and optimiser."""
        self._replay(plan)
        self.cost = measure_cost(self.shape(), self.setup.example)

    def lift(self, epoch: int) -> None:
        """Take a rewrite's modules off the model before the event at the end of ``epoch``; :meth:`cut` puts them back.

        After the last epoch of a single trial they are folded for good.

        Raises:
            ModelError: what is folded for good computes something else.
        """
        rewrite = self.setup.rewrite
        if not self.rewritten or rewrite is None:
            return
        self.rewritten = False
        if not self._goes_on(epoch):
            before = copy.deepcopy(self.model)
            rewrite.fold(self.model)
            self._check(before, self.model)
            return
        self._lifted = rewrite.lift(self.model)
        for parameter in self._lifted.rewritten:
            # Zeros, not nothing: fused steps want a momentum for all parameters or for none.
            for value in self.optimizer.state.get(parameter, {}).values():
                if isinstance(value, torch.Tensor):
                    value.zero_()

    def _goes_on(self, epoch: int) -> bool:
        """Whether anything is trained after the event of this epoch."""
        config = self.setup.config
        return config.is_path or epoch < config.train.num_epochs

    def tensors(self) -> dict[str, Any]:
        """Model, optimiser, what the penalty keeps and float16 is scaled with: what :meth:`load` takes, to go on from."""
        found = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.steps.scaler is not None:
            found["scaler"] = self.steps.scaler.state_dict()
        return found if self.penalty is None else {**found, "penalty": state_of(self.penalty)}

    def clock_state(self) -> dict[str, Any]:
        """What the clock remembers; empty = nothing."""
        return {} if self.clock is None else state_of(self.clock)

    def checkpoint(self) -> dict[str, Any]:
        """:meth:`tensors`, and what the clock remembers: what this very trial goes on from."""
        clock = self.clock_state()
        return {**self.tensors(), "clock": clock} if clock else self.tensors()

    def load(self, tensors: Mapping[str, Any], where: str) -> None:
        """Take over weights, optimiser state and the penalty's of a model of the same shape, all or none.

        Raises:
            CheckpointError: they do not fit.
        """
        penalty = copy.deepcopy(self.penalty)
        if penalty is not None:
            load_state(penalty, moved(tensors["penalty"], self.setup.device))
        scaled = tensors["scaler"] if self.steps.scaler is not None else None
        check_fit(self.model, tensors["model"], where)
        self._check_optimizer(tensors["optimizer"], where)
        load_weights(self.model, tensors["model"], where)
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.penalty = penalty
        self.loads += 1
        if self.steps.scaler is not None and scaled is not None:
            self.steps.scaler.load_state_dict(scaled)

    def resume(self, checkpoints: EpochCheckpoints) -> None:
        """Go on from the newest whole epoch; nothing happens if there is none.

        Raises:
            CheckpointError: it is another trial's, or of other data or initial weights, or cannot be read.
        """
        found = checkpoints.newest()
        if found is None:
            return
        where = str(checkpoints.root)
        # First, because another trial may well begin with another file.
        check_same_trial(found[0], self.setup.config, where)
        check_same_start(found[0], self.setup.initial, where)
        self.take_up(*found, where)

    def take_up(self, manifest: Mapping[str, Any], tensors: Mapping[str, Any], where: str) -> None:
        """Go on from a checkpoint; as :meth:`resume`."""
        check_same_trial(manifest, self.setup.config, where)
        changed = self.setup.splits.unlike(manifest)
        if changed:
            raise CheckpointError(f"the data changed since the checkpoint was written: {changed}", where)
        try:
            for plan in plans_from(manifest):
                self._replay(plan)
            self.load(tensors, where)
            if self.clock is not None and "clock" in tensors:
                load_state(self.clock, moved(tensors["clock"], self.setup.device))
            self.history = history_from(manifest)
            # Records of earlier versions do not say.
            self.in_vain = [{**event, "epoch": int(event["epoch"])} for event in manifest.get("in_vain", ())]
        except (KeyError, TypeError, ValueError, PlanError) as exc:
            hint = "delete it to train from the start"
            raise CheckpointError(f"the checkpoint does not describe this trial: {exc}", where, hint) from exc
        self.cost = measure_cost(self.shape(), self.setup.example)
        log.info("resumed after epoch %d", self.epoch)

    def manifest(self) -> dict[str, Any]:
        """All that is needed to rebuild the model and to go on with the trial, but for the tensors."""
        setup, splits = self.setup, self.setup.splits
        return {
            "schema": schema.SCHEMA_VERSION,
            "config": setup.config.to_dict(),
            "config_key": setup.config.key(),
            "num_classes": splits.num_classes,
            "val_images": len(splits.val),
            "in_channels": splits.in_channels,
            "image_size": list(splits.image_size),
            "class_names": list(splits.class_names),
            "mean": list(splits.mean),
            "std": list(splits.std),
            "data_digest": splits.digest,
            **started_from(setup.initial),
            "evaluation_batch": EVALUATION_BATCH,
            "threads": setup.config.threads,
            "device": str(setup.device),
            "torch": torch.__version__,
            "dense": {"macs": setup.dense_cost.macs, "params": setup.dense_cost.params},
            "plans": plans_to_json(self.plans),
            **({"in_vain": self.in_vain} if self.in_vain else {}),
            "history": rows_of(self.history),
        }

    def _check_optimizer(self, saved: Mapping[str, Any], where: str) -> None:
        """torch finds out too late, or not at all, that a parameter's momentum has another shape."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if sum(len(group["params"]) for group in saved["param_groups"]) != len(parameters):
            raise CheckpointError("the optimiser's state is of another model", where)
        for number, values in saved["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameters[number].shape:
                    found, wanted = tuple(value.shape), tuple(parameters[number].shape)
                    raise CheckpointError(
                        f"the optimiser's {name} of parameter {number} is {found}, not {wanted}", where
                    )

    def _replay(self, plan: Plan) -> None:
        self.lift(plan.meta["epoch"])
        apply_plan(self.model, plan, self.optimizer)
        self.groups = groups_after(self.living, plan)
        if self.penalty is not None:
            self.penalty.on_plan(plan)
        self.plans.append(plan)
        self._put_back(plan)

    def _put_back(self, plan: Plan) -> None:
        """The rewrite's modules, cut as the plan says; its own parameters are new ones, whose momenta begin anew."""
        rewrite, lifted = self.setup.rewrite, self._lifted
        if rewrite is None or lifted is None:
            return
        rewrite.again(self.model, lifted, plan)
        self.rewritten, self._lifted = True, None
        own = rewrite.own(self.model)
        if own:
            group = self.optimizer.param_groups[-1]
            for parameter in group["params"]:
                self.optimizer.state.pop(parameter, None)
            group["params"] = own
            fill_momenta(self.optimizer, own, self.setup.config.train)
