"""Checks of single values, and what metadata of a field says about a trial's identity."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

from gcp_core.errors import ConfigError, did_you_mean

#: Metadata of fields that say how the work is done and not what comes out of it: no part of a trial's identity.
HANDLING = {"identity": "never"}
#: Metadata of fields that came later, with a default that means "as before": part of the identity only where they are
#: set, so that every older configuration keeps its key.
LATER = {"identity": "where set"}
#: Metadata of fields that only say where others have their values from: no part of the identity at all.
LABEL = {"identity": "none"}


def number(where: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if ok and low <= value <= high and not (open_low and value == low):
        return
    left = "(" if open_low else "["
    right = ")" if math.isinf(high) else "]"
    raise ConfigError(f"{value!r} is not a number in {left}{low}, {high}{right}", where)


def integer(where: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{value!r} is not a whole number >= {low}", where)


def milestone(where: str, value: Any) -> float:
    """An epoch as an int (YAML readers may have made 100.0 of it), a share below 1 as it is."""
    number(where, value, 0.0, math.inf)
    if value >= 1 and value != int(value):
        raise ConfigError(f"{value!r} is neither an epoch nor a share", where, "a whole number, or below 1")
    return int(value) if value >= 1 else value


def one_of(where: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{value!r} is unknown", where, did_you_mean(value, allowed))


def plugin(where: str, name: Any, options: Any) -> None:
    """What fills a slot: a name, and its arguments as plain values."""
    slot = where.rpartition(".")[2]
    if not name or not isinstance(name, str):
        article = "an" if slot[0] in "aeiou" else "a"
        raise ConfigError(f"{name!r} is not {article} {slot}'s name", where)
    arguments(f"{where}_options", options)


def arguments(where: str, options: Any) -> None:
    """What a factory is called with, as plain values: they are written down with every model."""
    if not isinstance(options, dict):
        raise ConfigError(f"{options!r} is not a mapping", where, "{name: value}")
    try:
        json.dumps(options)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"holds what is no plain value: {exc}", where) from None


def place(where: str, value: Any) -> str | None:
    """The path of a file or folder as text, also where it was given as a ``Path``; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, os.PathLike) or not isinstance(text := os.fspath(value), str):
        raise ConfigError(f"{value!r} is not a path", where)
    return text


def default_of(item: dataclasses.Field[Any]) -> Any:
    """A field's default, also where a factory makes it."""
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default
