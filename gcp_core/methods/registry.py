"""From a name to a method, and from a method to the slots of a config."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from gcp_core.config.checks import default_of
from gcp_core.config.train import CYCLES
from gcp_core.errors import ConfigError
from gcp_core.methods.activation_density import activation_density
from gcp_core.methods.base import Method
from gcp_core.methods.bwcp import bwcp
from gcp_core.methods.catro import catro
from gcp_core.methods.compensation import compensation
from gcp_core.methods.consensus import consensus
from gcp_core.methods.gcp import gcp
from gcp_core.methods.grasp import grasp
from gcp_core.methods.network_adjustment import network_adjustment
from gcp_core.methods.slow_start import slow_start
from gcp_core.methods.variance import variance
from gcp_core.slots import Registry

METHODS = Registry(
    slot="method",
    where="prune.method",
    group="gcp_core.methods",
    built_in={
        "gcp": gcp,
        "slow_start": slow_start,
        "activation_density": activation_density,
        "grasp": grasp,
        "compensation": compensation,
        "catro": catro,
        "variance": variance,
        "network_adjustment": network_adjustment,
        "bwcp": bwcp,
        "consensus": consensus,
    },
)
_PARTS: dict[str, type[PruneConfig] | type[TrainConfig]] = {"prune": PruneConfig, "train": TrainConfig}


def method_names() -> list[str]:
    """All registered names, sorted; ``package.module:factory`` comes on top."""
    return METHODS.names()


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: there is none, or it fills what is no key of a config.
    """
    method: Method = METHODS.build(name)
    if not isinstance(method, Method):
        raise ConfigError(f"{name} returned a {type(method).__name__}, which is no method", METHODS.where)
    for path in method.of(path=False):
        part, _, key = path.partition(".")
        if part not in _PARTS or key not in {f.name for f in dataclasses.fields(_PARTS[part])}:
            raise ConfigError(f"{name} fills {path!r}, which is no key of a config", METHODS.where)
    return method


def filled(tree: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """A config's nested values with the slots that ``prune.method`` fills; a copy.

    Args:
        given: keys (``prune.criterion``) that the user has set: they stay. Of options that both give, the user's stay;
            options of a slot that the user has filled are not filled.

    Raises:
        ConfigError: there is no such method.
    """
    values = copy.deepcopy(dict(tree))
    name = (values.get("prune") or {}).get("method")
    if name is None:
        return values
    is_path = (values.get("train") or {}).get("schedule") == CYCLES
    for path, value in find_method(name).of(path=is_path).items():
        part, _, key = path.partition(".")
        section = values.setdefault(part, {})
        if not isinstance(value, Mapping):
            if path not in given:
                section[key] = value
        elif _slot_of(path) not in given:
            section[key] = {**value, **(section.get(key) or {})}
    return values


def with_method(config: TrialConfig, name: str) -> TrialConfig:
    """The trial with the slots of a method; those that differ from their defaults already stay as they are.

    >>> path = TrialConfig(train=TrainConfig(schedule="cycles"), prune=PruneConfig(start=4))
    >>> with_method(path, "slow_start").train.pace
    'slow_start'

    Raises:
        ConfigError: there is no such method, or the trial cannot have it.
    """
    tree = config.to_dict()
    if tree["prune"] is None:
        raise ConfigError("a baseline has no method", METHODS.where, "give it to a trial that prunes")
    tree["prune"]["method"] = name
    given = [path for path, unsaid in _unsaid(config).items() if _value(tree, path) not in unsaid]
    return TrialConfig.from_dict(filled(tree, given))


def check_method(config: TrialConfig) -> None:
    """Refuse a method's name on a trial that has nothing of the method: nobody has filled its slots.

    Raises:
        ConfigError: so it is, or there is no such method.
    """
    if config.prune is None or config.prune.method is None:
        return
    name, tree, unsaid = config.prune.method, config.to_dict(), _unsaid(config)
    slots = find_method(name).of(path=config.is_path)
    own = [path for path, value in slots.items() if _listed(value) not in unsaid[path]]
    if own and all(_value(tree, path) in unsaid[path] for path in own):
        raise ConfigError(
            f"{name!r} stands there, but nothing of the method does: {', '.join(own)} have their defaults",
            METHODS.where,
            "gcp_core.methods.with_method(config, name) fills the slots; a config file does so by itself",
        )


def _unsaid(config: TrialConfig) -> dict[str, list[Any]]:
    """Key -> what stands there, as JSON has it, where nobody has said anything: its default, and what trials of this kind
    make of it (a ratio where none is said, a path's ``ratio_of``).
    """
    kind: dict[str, Any] = {"train": {"schedule": CYCLES}, "prune": {"start": 1}} if config.is_path else {}
    plain = TrialConfig.from_dict(kind).to_dict()
    found = {}
    for part, cls in _PARTS.items():
        for item in dataclasses.fields(cls):
            made = [] if item.name in kind.get(part, ()) else [plain[part][item.name]]
            found[f"{part}.{item.name}"] = [_listed(default_of(item)), *made]
    return found


def _listed(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _slot_of(path: str) -> str:
    """The key that names what fills the slot of some options: ``prune.options`` are the criterion's."""
    return "prune.criterion" if path == "prune.options" else path.removesuffix("_options")


def _value(tree: Mapping[str, Any], path: str) -> Any:
    part, _, key = path.partition(".")
    return tree[part][key]
