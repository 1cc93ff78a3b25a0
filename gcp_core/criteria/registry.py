"""From a name to a criterion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcp_core.criteria.activations import apoz, hrank, mean_activation
from gcp_core.criteria.base import Checked, Criterion, is_set_valued
from gcp_core.criteria.bn_scale import bn_scale
from gcp_core.criteria.catro import catro
from gcp_core.criteria.consumers.compensation import compensation
from gcp_core.criteria.consumers.grasp import grasp
from gcp_core.criteria.consumers.variance import variance
from gcp_core.criteria.controls import Shuffled, random
from gcp_core.criteria.frs import frs
from gcp_core.criteria.gates import active_probability, gate_mean
from gcp_core.criteria.group_norm import group_norm
from gcp_core.criteria.taylor import taylor
from gcp_core.criteria.weights import fpgm, l1, l2, lamp
from gcp_core.errors import ConfigError
from gcp_core.slots import Registry

SHUFFLED = "shuffled:"

CRITERIA = Registry(
    slot="criterion",
    where="prune.criterion",
    group="gcp_core.criteria",
    options="prune.options",
    form="shuffled:NAME, or package.module:factory",
    verbs=("score", "ranking"),
    built_in={
        "frs": frs,
        "l1": l1,
        "l2": l2,
        "group_norm": group_norm,
        "bn_scale": bn_scale,
        "fpgm": fpgm,
        "taylor": taylor,
        "apoz": apoz,
        "mean_activation": mean_activation,
        "hrank": hrank,
        "lamp": lamp,
        "trace_ratio": catro,
        "grasp": grasp,
        "compensation": compensation,
        "variance": variance,
        "active_probability": active_probability,
        "gate_mean": gate_mean,
        "random": random,
    },
)


def criterion_names() -> list[str]:
    """All registered names, sorted; ``shuffled:NAME`` and ``package.module:factory`` come on top."""
    return CRITERIA.names()


def build_criterion(name: str, options: Mapping[str, Any] | None = None) -> Checked:
    """The criterion of that name; its scores are checked to be complete and finite.

    Args:
        name: one of :func:`criterion_names`, ``shuffled:NAME`` (the control that shuffles NAME's scores within each
            layer), or ``package.module:factory``.
        options: arguments of the criterion's factory, for instance ``{"read": "branch"}`` of ``frs``.

    Raises:
        ConfigError: unknown name or option, or a value that the criterion refuses.
    """
    return Checked(_build(name, dict(options or {})), name)


def _build(name: str, options: dict[str, Any]) -> Criterion:
    if name.startswith(SHUFFLED):
        inner = _build(name.removeprefix(SHUFFLED), options)
        if is_set_valued(inner):
            hint = "random is the control of a criterion that chooses sets"
            raise ConfigError(f"{name} has no scores of single units to shuffle", CRITERIA.where, hint)
        return Shuffled(inner)
    criterion: Criterion = CRITERIA.build(name, options)
    verb = "ranking" if is_set_valued(criterion) else "score"
    if not callable(getattr(criterion, verb, None)) or getattr(criterion, "needs", None) not in (
        "nothing",
        "data",
    ):
        raise ConfigError(
            f"{name} returned a {type(criterion).__name__}, which is no criterion",
            CRITERIA.where,
            f'a criterion has {verb}(...) and needs = "nothing" or "data"',
        )
    return criterion
