"""The search space: which leaves of the config vary, over which values, and what a point of it means."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.methods import filled

#: Keys that make a mapping a range.
RANGE_KEYS = ("choice", "low", "high", "step", "log")
#: So many combinations of extremes are looked at.
CORNERS = 256
#: A point is remembered and compared after rounding to this many significant digits (floats without a step).
_DIGITS = 6

Scalar = Any
_NOWHERE = object()
#: Where 1 means something else than 1.0: an epoch, and a share of all of them.
_TYPED = ("prune.until",)
Point = dict[str, Scalar]


def same(path: str, one: Scalar, other: Scalar) -> bool:
    """Whether two values of a leaf, or of the list of its choices, mean the same.

    >>> same("train.lr", 1, 1.0), same("prune.until", 1, 1.0)
    (True, False)
    """
    typed = path.removesuffix(".choice") in _TYPED
    return bool(one == other) and not (typed and json.dumps(one) != json.dumps(other))


@dataclass(frozen=True)
class Dimension:
    """One leaf that is searched.

    Attributes:
        path: dotted path of the leaf, for instance ``prune.ratio``.
        choices: the values themselves, or None for a numeric interval.
        low, high: both ends included (``high`` lies on the grid of ``step``).
        step: distance of neighbours, None = continuous, or whole numbers on a log scale.
        log: whether neighbours are equally spaced in the logarithm.
        integer: whether values are whole numbers.
    """

    path: str
    choices: tuple[Scalar, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    integer: bool = False

    def size(self) -> int | None:
        """Number of distinct values; None if there is no end to them."""
        if self.choices is not None:
            return len(self.choices)
        step = self._apart
        return None if step is None else round((self.high - self.low) / step) + 1

    def values(self) -> list[Scalar]:
        """All values in order; only for a finite dimension."""
        if self.choices is not None:
            return list(self.choices)
        size = self.size()
        if size is None:
            raise ConfigError("a range without a step has no list of values", self.path, "give it a step")
        return [self._at(index) for index in range(size)]

    @property
    def _apart(self) -> float | None:
        """Distance of neighbours in the list of all values, None = there is no such list."""
        return 1 if self.integer and self.step is None else self.step

    def _at(self, index: int) -> Scalar:
        """The value with that number; only for a finite dimension."""
        if self.choices is not None:
            return self.choices[index]
        return self.canonical(self.low + index * (self._apart or 0.0))

    def extremes(self) -> list[Scalar]:
        """The values to check before anything runs: all choices, or both ends."""
        if self.choices is not None:
            return list(self.choices)
        return [self.canonical(self.low), self.canonical(self.high)]

    def canonical(self, value: Scalar) -> Scalar:
        """The canonical form of ``value``: on the step's grid, without the rounding noise of binary fractions.

        >>> Dimension("x", low=0.1, high=0.4, step=0.1).canonical(0.1 + 2 * 0.1)
        0.3
        """
        if self.choices is not None:
            choice = self._choice(value)
            return value if choice is _NOWHERE else choice
        if self.step is not None:
            index = round((value - self.low) / self.step)
            value = self.low + index * self.step
            decimals = max(0, 9 - math.floor(math.log10(self.step)))
            value = round(value, decimals)
        elif value and not self.integer:
            value = round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))
        value = min(max(value, self.low), self.high)
        return round(value) if self.integer else float(value)

    def contains(self, value: Scalar) -> bool:
        """Whether ``value`` is one of the dimension's values (after rounding to the grid)."""
        if self.choices is not None:
            return self._choice(value) is not _NOWHERE
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        return math.isclose(self.canonical(value), value, rel_tol=1e-5, abs_tol=1e-12)

    def _choice(self, value: Scalar) -> Scalar:
        """The choice that a value stands for: 0 for 0.0, but true is no number, and 1 of ``prune.until`` is an epoch."""
        equal = [choice for choice in self.choices or () if choice == value]
        same = [choice for choice in equal if type(choice) is type(value)]
        if self.path in _TYPED:
            equal = same
        equal = [choice for choice in equal if isinstance(choice, bool) is isinstance(value, bool)]
        return next(iter([*same, *equal]), _NOWHERE)

    def draw(self, rng: random.Random) -> Scalar:
        """A value at random (of a log range: at random in the logarithm)."""
        if self.log:
            return self.canonical(self.low * (self.high / self.low) ** rng.random())
        size = self.size()
        if size is not None:
            return self._at(rng.randrange(size))
        return self.canonical(rng.uniform(self.low, self.high))

    def describe(self) -> str:
        """The allowed values in one line, for messages."""
        if self.choices is not None:
            return "one of " + ", ".join(json.dumps(choice) for choice in self.choices)
        step = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} .. {self.high:g}{step}"


@dataclass(frozen=True)
class Space:
    """All dimensions together with the fixed rest of the trial's config (a nested plain mapping)."""

    base: dict[str, Any]
    dimensions: tuple[Dimension, ...] = ()
    #: Where methods are searched: the keys that the user has set, which they leave alone. None = nothing to fill.
    given: frozenset[str] | None = None

    def size(self) -> int | None:
        """Number of distinct points; None if a dimension is continuous."""
        sizes = [dimension.size() for dimension in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def canonical(self, point: Mapping[str, Scalar]) -> Point:
        """The point rounded to the grid, in the order of the dimensions.

        A leaf that it leaves out has its first value; one that is not searched may be named with the value it has.
        """
        names = [dimension.path for dimension in self.dimensions]
        for name in point:
            if name not in names:
                self._check_fixed(name, point[name], names)
        point = {**self.first(), **{name: value for name, value in point.items() if name in names}}
        for dimension in self.dimensions:
            if not dimension.contains(point[dimension.path]):
                where = f"search.points.{dimension.path}"
                raise ConfigError(
                    f"{point[dimension.path]!r} is outside the range", where, dimension.describe()
                )
        return {d.path: d.canonical(point[d.path]) for d in self.dimensions}

    def _check_fixed(self, name: str, value: Scalar, searched: list[str]) -> None:
        node: Any = self.base
        for part in name.split("."):
            node = node.get(part, _NOWHERE) if isinstance(node, dict) else _NOWHERE
        if node is _NOWHERE:
            raise ConfigError(f"{name!r} is not searched", "search.points", did_you_mean(name, searched))
        if not same(name, node, value):
            raise ConfigError(
                f"{value!r} is not the fixed value {node!r}",
                f"search.points.{name}",
                "search it, or leave it out",
            )

    def resolve(self, point: Mapping[str, Scalar], threads: int = 1) -> TrialConfig:
        """The trial at this point; raises ConfigError where the trial's own checks refuse it.

        Args:
            threads: of all its processes together.
        """
        tree = {key: dict(value) if isinstance(value, dict) else value for key, value in self.base.items()}
        for path, value in point.items():
            node: dict[str, Any] = tree
            *parents, leaf = path.split(".")
            for name in parents:
                node[name] = dict(node[name])
                node = node[name]
            node[leaf] = value
        if self.given is not None:
            tree = filled(tree, self.given)
        each = max(1, threads // tree.get("train", {}).get("processes", 1))
        return TrialConfig.from_dict({**tree, "threads": each})

    def grid(self) -> Iterator[Point]:
        """Every point, the last dimension running fastest; only for a finite space."""
        names = [dimension.path for dimension in self.dimensions]
        for values in itertools.product(*(dimension.values() for dimension in self.dimensions)):
            yield dict(zip(names, values, strict=True))

    def first(self) -> Point:
        """The point made of every dimension's first value."""
        return {d.path: d.extremes()[0] for d in self.dimensions}

    def corners(self) -> list[Point]:
        """Points that together visit every choice and both ends of every interval (one dimension at a time)."""
        first = self.first()
        points = [first, {d.path: d.extremes()[-1] for d in self.dimensions}]
        for dimension in self.dimensions:
            points += [{**first, dimension.path: value} for value in dimension.extremes()[1:]]
        return _unique(points)

    def all_corners(self) -> list[Point]:
        """The product of the first and last value of every dimension; of more than 256 points as many drawn (the same
        ones every time).
        """
        names = [dimension.path for dimension in self.dimensions]
        ends = [(d.extremes()[0], d.extremes()[-1]) for d in self.dimensions]
        product: Iterator[tuple[Scalar, ...]] = itertools.product(*ends)
        # The first ones of the product would have the first dimensions at one end only.
        if 2 ** len(ends) > CORNERS:
            rng = random.Random(0)
            product = (tuple(map(rng.choice, ends)) for _ in range(CORNERS))
        return _unique(dict(zip(names, values, strict=True)) for values in product)


def _unique(points: Any) -> list[Point]:
    kept: dict[str, Point] = {}
    for point in points:
        kept.setdefault(json.dumps(point, sort_keys=True), point)
    return list(kept.values())


def read_range(path: str, spec: Mapping[str, Any], *, numbers: str) -> Dimension:
    """A dimension from its YAML form; the caller has checked the type of every value.

    Args:
        path: where the range stands.
        spec: ``{choice: [...]}`` or ``{low:, high:, step:, log:}``.
        numbers: ``"int"``, ``"float"`` or ``""`` (the leaf is not a number: only ``choice`` is possible).
    """
    for name in spec:
        if name not in RANGE_KEYS:
            raise ConfigError(
                f"unknown key (value {spec[name]!r})", f"{path}.{name}", did_you_mean(name, RANGE_KEYS)
            )
    if "choice" in spec:
        return _read_choice(path, spec)
    for end in ("low", "high"):
        if end not in spec:
            raise ConfigError(
                f"a range needs {end}", f"{path}.{end}", "{low: .., high: .., step: ..} or {choice: [..]}"
            )
    if not numbers:
        raise ConfigError("only {choice: [..]} is possible here, because the value is not a number", path)
    low, high, step, log = spec["low"], spec["high"], spec.get("step"), spec.get("log", False)
    for end in ("low", "high"):
        if not math.isfinite(spec[end]):
            raise ConfigError(f"{spec[end]!r} is no end of a range", f"{path}.{end}", "a finite number")
    if low > high:
        raise ConfigError(f"inverted range: low {low!r} is above high {high!r}", path)
    if low == high:
        raise ConfigError(f"empty range: low and high are both {low!r}", path, "give the value itself")
    if log and (step is not None or low <= 0):
        raise ConfigError("a log range needs low > 0 and no step", path)
    if numbers == "int" and step is None and not log:
        step = 1
    if step is not None:
        if not step > 0 or step > high - low:
            raise ConfigError(f"step {step!r} is not in (0, high - low]", f"{path}.step")
        high = low + math.floor((high - low) / step + 1e-9) * step
        high = round(high, max(0, 9 - math.floor(math.log10(step))))
    return Dimension(path, None, low, high, step, bool(log), numbers == "int")


def _read_choice(path: str, spec: Mapping[str, Any]) -> Dimension:
    if len(spec) > 1:
        raise ConfigError("choice cannot be combined with low, high, step or log", path)
    choices = spec["choice"]
    if not isinstance(choices, list):
        raise ConfigError(f"{choices!r} is not a list", f"{path}.choice", "for instance [1, 2]")
    if not choices:
        raise ConfigError(f"{choices!r} is an empty range", f"{path}.choice", "a list of at least one value")
    seen: set[str] = set()
    for index, choice in enumerate(choices):
        text = json.dumps(choice, sort_keys=True)
        if text in seen:
            raise ConfigError(f"{choice!r} is given twice", f"{path}.choice.{index}")
        seen.add(text)
    return Dimension(path, tuple(choices))
