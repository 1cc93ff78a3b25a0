"""What fills the slots of one trial, and the compositions that cannot work: refused before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from gcp_core.allocators import Allocator, build_allocator
from gcp_core.config import NO_PENALTY, NO_REPAIR, NO_REWRITE, PruneConfig, TrialConfig
from gcp_core.criteria import build_criterion, is_set_valued
from gcp_core.criteria.base import Checked
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups
from gcp_core.penalties import Penalty, build_penalty
from gcp_core.repairs import Repair, build_repair
from gcp_core.rewrites import Rewrite, build_rewrite
from gcp_core.schedule.clocks import build_clock


@dataclass(frozen=True)
class Slots:
    """What an event is made of; ``repair`` None = weights stay as they are."""

    criterion: Checked
    allocator: Allocator
    repair: Repair | None


def compose(prune: PruneConfig, groups: Groups) -> Slots:
    """What fills the slots of a trial that prunes.

    Raises:
        ConfigError: an unknown name or option, or a composition that cannot work.
    """
    criterion = build_criterion(prune.criterion, prune.options)
    allocator = build_allocator(prune.allocator, prune.allocator_options)
    repair = None if prune.repair == NO_REPAIR else build_repair(prune.repair, prune.repair_options)
    build_clock(prune.clock, prune.clock_options)  # it has a state: every trial gets one of its own
    if is_set_valued(criterion) and getattr(allocator, "per_unit", False):
        raise ConfigError(
            f"{prune.allocator!r} goes by scores of single units, but {prune.criterion!r} chooses sets",
            "prune.allocator",
            "prune.allocator: global, or another criterion",
        )
    if getattr(allocator, "grows", False) and prune.residual == "scatter":
        raise ConfigError(
            f"{prune.allocator!r} lets layers grow, which those that write into a wider stream cannot",
            "prune.residual",
            "prune.residual: coupled, or prune.allocator: least_used",
        )
    if getattr(allocator, "grows", False) and prune.multiple > 1:
        message = (
            f"{prune.allocator!r} lets layers grow by single units, not by multiples of {prune.round_to}"
        )
        raise ConfigError(message, "prune.round_to", "prune.round_to: 1, or prune.allocator: least_used")
    if repair is not None:
        _check_consumers(prune, groups)
    if hasattr(allocator, "check"):
        allocator.check(groups)
    return Slots(criterion, allocator, repair)


def penalty_of(config: TrialConfig) -> Penalty | None:
    """The trial's penalty as it is before the first step; None = the loss is the loss.

    Raises:
        ConfigError: an unknown name or option.
    """
    train = config.train
    return None if train.penalty == NO_PENALTY else build_penalty(train.penalty, train.penalty_options)


def check_penalty(config: TrialConfig) -> None:
    """Refuse a penalty on gates where there are none.

    Raises:
        ConfigError: so it is, or an unknown name or option.
    """
    penalty, train = penalty_of(config), config.train
    if getattr(penalty, "needs_gates", False) and train.rewrite == NO_REWRITE:
        message = f"{train.penalty!r} is about gates, but the network is trained without"
        raise ConfigError(message, "train.penalty", "train.rewrite: consensus_gates")


def rewrite_of(config: TrialConfig) -> Rewrite | None:
    """What the trial's network is rewritten with while it trains; None = it is trained as it is.

    Raises:
        ConfigError: an unknown name or option.
    """
    train = config.train
    return None if train.rewrite == NO_REWRITE else build_rewrite(train.rewrite, train.rewrite_options)


def check_growth(config: TrialConfig, slots: Slots) -> None:
    """Refuse layers that grow under a penalty or a rewrite: they are told of what goes, not of what comes.

    Raises:
        ConfigError: so it is.
    """
    if not getattr(slots.allocator, "grows", False):
        return
    for slot, null in (("penalty", NO_PENALTY), ("rewrite", NO_REWRITE)):
        filled = getattr(config.train, slot)
        if filled != null:
            message = f"{filled!r} cannot follow layers that grow"
            raise ConfigError(
                message, f"train.{slot}", f"train.{slot}: {null}, or prune.allocator: least_used"
            )


def check_exact(config: TrialConfig, slots: Slots) -> None:
    """Refuse widths that are said where events go on until a cost is reached: other layers would be cut for it.

    Raises:
        ConfigError: so it is.
    """
    prune = config.pruning
    if getattr(slots.allocator, "exact", False) and (config.is_path or prune.finish):
        raise ConfigError(
            f"{prune.allocator!r} says what is left, but these events go on until a cost is reached",
            "prune.allocator",
            "a single trial with prune.ratio: 1.0, without prune.finish",
        )


def check_gates(config: TrialConfig, slots: Slots) -> None:
    """Refuse what reads gates where there are none, and a threshold on scores that are not as they were given.

    Raises:
        ConfigError: so it is.
    """
    prune = config.pruning
    if slots.criterion.needs_gates and config.train.rewrite == NO_REWRITE:
        message = f"{prune.criterion!r} reads gates, but the network is trained without"
        raise ConfigError(message, "prune.criterion", "train.rewrite: consensus_gates")
    if not getattr(slots.allocator, "absolute", False):
        return
    scaled = prune.normalise not in ("auto", "none") or prune.cost_power
    if scaled or not slots.criterion.comparable:
        raise ConfigError(
            f"{prune.allocator!r} compares scores with a fixed value, but they are rescaled",
            "prune.allocator",
            "prune.normalise: none, prune.cost_power: 0 and a criterion whose scores are comparable, or global",
        )


def _check_consumers(prune: PruneConfig, groups: Groups) -> None:
    """A repair makes up for a unit in the layers that read it: there must be some."""
    for name, edges in groups.edges().items():
        if not edges.consumers:
            other = "inner" if prune.residual == "scatter" else "coupled"
            raise ConfigError(
                f"{prune.repair!r} has nothing to repair: no layer reads the units of {name} as its own input",
                "prune.repair",
                f"prune.residual: {other}, add {name} to prune.exclude, or prune.repair: {NO_REPAIR}",
            )
