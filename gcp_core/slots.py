"""From a name to what fills a slot: one registry for every kind of plug-in.

A trial is composed of slots (criterion, allocator, repair, penalty, rewrite, clock, pace), each with its verbs and a null
default.
What fills a slot is named in a config: a name of ours, one that an installed package registers as an entry point, or
``package.module:factory``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.factory import call_factory, is_factory_name, load_factory


@dataclass(frozen=True)
class Registry:
    """All that may fill one slot.

    Attributes:
        slot: what fills it, in a word, for instance ``criterion``.
        where: the key of a config that names it; ``options``: the one with its arguments, "" = it takes none.
        group: other packages register ``name = "package.module:factory"`` under this entry-point group.
        built_in: name -> factory (or, where a slot takes no options, the thing itself).
        form: what a name of one's own looks like, for hints.
        verbs: methods of which what a factory returns must have at least one.
    """

    slot: str
    where: str
    group: str
    built_in: Mapping[str, Callable[..., Any]]
    options: str = ""
    form: str = "package.module:factory"
    verbs: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """All registered names, sorted; ``package.module:factory`` comes on top."""
        return sorted({*self.built_in, *entry_points(group=self.group).names})

    def find(self, name: str) -> Callable[..., Any]:
        """What is registered under ``name``.

        Raises:
            ConfigError: nothing is.
        """
        if name in self.built_in:
            return self.built_in[name]
        factory = registered(self.group, name) or (name if is_factory_name(name) else "")
        if factory:
            return load_factory(factory, self.where, ConfigError)
        hint = f"{did_you_mean(name, self.names())}; or {self.form}"
        raise ConfigError(f"{name!r} is unknown", self.where, hint)

    def build(self, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """What the factory of that name makes with these options.

        Raises:
            ConfigError: unknown name or option, a value that the factory refuses (or an error that it raises), or what it
                makes lacks the verb.
        """
        factory, given = self.find(name), dict(options or {})
        self._check_options(factory, given)
        made = call_factory(factory, name, self.options or self.where, ConfigError, **given)
        if self.verbs and not any(callable(getattr(made, verb, None)) for verb in self.verbs):
            article = "an" if self.slot[0] in "aeiou" else "a"
            raise ConfigError(
                f"{name} returned a {type(made).__name__}, which is no {self.slot}",
                self.where,
                f"{article} {self.slot} has {' or '.join(f'{verb}(...)' for verb in self.verbs)}",
            )
        return made

    def describe(self, name: str) -> str:
        """The first line of its docstring, "" where it has none."""
        return (inspect.getdoc(self.find(name)) or "").partition("\n")[0]

    def _check_options(self, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
        try:
            parameters = inspect.signature(factory).parameters
        except ValueError:  # a builtin may tell nobody what it takes
            return
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for key, value in options.items():
            if key not in parameters:
                hint = did_you_mean(key, parameters) if parameters else f"this {self.slot} has no options"
                raise ConfigError(f"unknown option (value {value!r})", f"{self.options}.{key}", hint)
        for key, parameter in parameters.items():
            open_ = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
            if open_ and key not in options:
                raise ConfigError("is required", f"{self.options}.{key}", f"the {self.slot} needs it")


def registered(group: str, name: str) -> str:
    """``package.module:factory`` that an installed package has put under this name; "" where none has."""
    return next((entry.value for entry in entry_points(group=group) if entry.name == name), "")


def forwards_of(filled: Any) -> float:
    """What looking at an image costs whatever fills a slot, in forward passes: its ``forwards``, or where it says
    nothing 1 if it ``needs`` data, else 0.
    """
    default = 1.0 if getattr(filled, "needs", "nothing") == "data" else 0.0
    return float(getattr(filled, "forwards", default))


def passes_of(filled: Any, images: int) -> float:
    """What looking costs whatever fills a slot where so many images are to be seen, in forward passes of one image: it
    looks at no more of them than its ``max_images``, where it says so.
    """
    most = getattr(filled, "max_images", None)
    return forwards_of(filled) * (images if most is None else min(images, most))


def state_of(filled: Any) -> dict[str, Any]:
    """What it has learned or counted (``state_dict``); empty where it keeps nothing."""
    state = getattr(filled, "state_dict", None)
    return {} if state is None else dict(state())


def load_state(filled: Any, state: Mapping[str, Any]) -> None:
    """Inverse of :func:`state_of`."""
    load = getattr(filled, "load_state_dict", None)
    if load is not None:
        load(dict(state))
