"""From a name to a criterion."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from gcp_core.criteria.activations import apoz, hrank, mean_activation
from gcp_core.criteria.base import Checked, Criterion
from gcp_core.criteria.bn_scale import bn_scale
from gcp_core.criteria.frs import frs
from gcp_core.criteria.group_norm import group_norm
from gcp_core.criteria.random import random
from gcp_core.criteria.shuffled import Shuffled
from gcp_core.criteria.taylor import taylor
from gcp_core.criteria.weights import fpgm, l1, l2, lamp
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.factory import is_factory_name, load_factory

#: Other packages register ``name = "package.module:factory"`` under this entry-point group.
ENTRY_POINTS = "gcp_core.criteria"
SHUFFLED = "shuffled:"

_BUILT_IN: dict[str, Callable[..., Criterion]] = {
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
    "random": random,
}


def criterion_names() -> list[str]:
    """All registered names, sorted; ``shuffled:NAME`` and ``package.module:factory`` come on top."""
    return sorted({*_BUILT_IN, *entry_points(group=ENTRY_POINTS).names})


def build_criterion(name: str, options: Mapping[str, Any] | None = None) -> Criterion:
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
        return Shuffled(_build(name.removeprefix(SHUFFLED), options))
    factory = _factory(name)
    _check_options(factory, options)
    criterion = factory(**options)
    if not callable(getattr(criterion, "score", None)) or getattr(criterion, "needs", None) not in (
        "nothing",
        "data",
    ):
        raise ConfigError(
            f"{name} returned a {type(criterion).__name__}, which is no criterion",
            "prune.criterion",
            'a criterion has score(...) and needs = "nothing" or "data"',
        )
    return criterion


def _factory(name: str) -> Callable[..., Criterion]:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return load_factory(entry.value, "prune.criterion", ConfigError)
    if is_factory_name(name):
        return load_factory(name, "prune.criterion", ConfigError)
    hint = f"{did_you_mean(name, criterion_names())}; or shuffled:NAME, or package.module:factory"
    raise ConfigError(f"{name!r} is unknown", "prune.criterion", hint)


def _check_options(factory: Callable[..., Criterion], options: dict[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key, value in options.items():
        if key not in parameters:
            hint = did_you_mean(key, parameters) if parameters else "this criterion has no options"
            raise ConfigError(f"unknown option (value {value!r})", f"prune.options.{key}", hint)
