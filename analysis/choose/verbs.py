"""The words of the command line as a verb: ``--best accuracy``, ``--weighted "accuracy=3 macs=1"``, ..."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from analysis.choose import constraints as hard
from analysis.choose.select import (
    Verb,
    best,
    by_id,
    cheapest,
    knee,
    lexicographic,
    nearest,
    top,
    weighted,
)
from gcp_core.errors import ConfigError


def parse_verb(options: Mapping[str, object]) -> Verb:
    """The one verb among the options of the command line (``best, cheapest, knee, weighted, ...``); None or False
    = not given.
    """
    given = {name: value for name, value in options.items() if value not in (None, False, ())}
    verbs = ", ".join(f"--{name}" for name in VERBS)
    if not given:
        raise ConfigError("say how to choose", "select", f"one of {verbs}, such as --best accuracy")
    if len(given) > 1:
        raise ConfigError(
            "only one rule at a time: " + ", ".join(f"--{n}" for n in given), "select", f"one of {verbs}"
        )
    ((name, value),) = given.items()
    return VERBS[name](value)


def _parse_weights(value: str) -> Verb:
    return weighted(dict(_pairs(value, "=", "--weighted", "accuracy=3 macs=1")))


def _parse_levels(value: str) -> Verb:
    levels = []
    for word in value.replace(",", " ").split():
        column, _, tolerance = word.partition(":")
        levels.append((column, _float(tolerance or "0", f"--lexicographic {word}")))
    return lexicographic(levels)


def _parse_targets(value: str) -> Verb:
    targets = {}
    for word in value.replace(",", " ").split():
        column, _, bound = word.partition("=")
        if not bound:
            raise ConfigError(f"{word!r} is not COLUMN=VALUE", "--nearest", 'for instance "macs=40%"')
        constraint = hard.parse(f"{column} == {bound}")
        targets[constraint.column] = (float(constraint.bound), constraint.relative)
    return nearest(targets)


#: How the text after each option becomes a verb.
VERBS: dict[str, Callable[..., Verb]] = {
    "best": best,
    "cheapest": cheapest,
    "knee": lambda _: knee(),
    "weighted": _parse_weights,
    "lexicographic": _parse_levels,
    "nearest": _parse_targets,
    "top": top,
    "id": by_id,
}


def _pairs(value: str, sign: str, where: str, example: str) -> Iterable[tuple[str, float]]:
    for word in value.replace(",", " ").split():
        column, found, number = word.partition(sign)
        if not found:
            raise ConfigError(f"{word!r} is not COLUMN{sign}NUMBER", where, f'for instance "{example}"')
        yield column, _float(number, f"{where} {word}")


def _float(value: str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{value!r} is not a number", where) from None
