"""Numbers that were read from activations: whose channels they count, and by how much they fall when channels go."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import numpy as np
import torch

from gcp_core.groups.labels import Label

#: A label and one of its dimensions -> by how much that dimension falls, one number for each way to cut.
Losses = Callable[[Label, int], np.ndarray]

#: Operations that a number remembers at most: a module that counts its calls would remember them all.
_DEEPEST = 50

_unfollowed: ContextVar[list[Label] | None] = ContextVar("gcp_unfollowed", default=None)


@contextmanager
def unfollowed() -> Iterator[list[Label]]:
    """The labels whose channels are counted by numbers that turn into plain ones meanwhile (``math.sqrt(c)``)."""
    found: list[Label] = []
    token = _unfollowed.set(found)
    try:
        yield found
    finally:
        _unfollowed.reset(token)


class _Number:
    """Arithmetic whose results still know what they count.

    Not seen are a literal float on the left (``0.5 * c``: Python asks a float before it asks an int), comparisons,
    ``math.log(c)`` and ``math.sqrt(c / 2)``, which read the number without asking it: :mod:`gcp_core.pruning.exactness`
    finds what comes of them.
    """

    of: tuple[Label, ...]
    #: The trace that it was made in (see :func:`unfollowed`), None outside of one.
    trace: list[Label] | None

    def labels(self) -> list[Label]:
        """Whose channels it counts: nobody's once its trace is over, from which a cache of the model's may have it."""
        return list(self.of) if self.trace is None or self.trace is _unfollowed.get() else []

    def __add__(self, other: Any) -> Any:
        return _result("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return _result("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return _result("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _result("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return _result("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _result("mul", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _result("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _result("floordiv", other, self)

    def __mod__(self, other: Any) -> Any:
        return _result("mod", self, other)

    def __rmod__(self, other: Any) -> Any:
        return _result("mod", other, self)

    def __truediv__(self, other: Any) -> Any:
        return _result("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _result("truediv", other, self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        return _result("pow", self, other) if modulo is None else NotImplemented

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return _result("pow", other, self) if modulo is None else NotImplemented

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __neg__(self) -> Any:
        return _result("mul", self, -1)

    def __abs__(self) -> Any:
        return self if _plain(self) >= 0 else -self

    def _leave(self) -> None:
        """It turns into a number that nobody can follow."""
        found = _unfollowed.get()
        if found is not None:
            found.extend(self.labels())


class Counted(_Number, int):
    """A size that was read from an activation, or computed from one.

    Attributes:
        of: the labels whose channels it counts (none: a batch, positions).
        dim: of a size that was read: the dimension of its label.
        made: of one that was computed: the operation's name and its two operands.
        depth: how many operations it is away from the sizes that were read.
    """

    dim: int
    depth: int
    made: tuple[str, Any, Any] | None

    def __new__(
        cls,
        value: int = 0,
        of: tuple[Label, ...] = (),
        dim: int = 0,
        made: tuple[str, Any, Any] | None = None,
    ) -> Self:
        self = super().__new__(cls, value)
        self.of, self.dim, self.made, self.depth = of, dim, made, 0
        self.trace = _unfollowed.get()
        if made is not None:
            self.depth = 1 + max(getattr(part, "depth", 0) for part in made[1:])
            if self.depth > _DEEPEST:
                self.made, self.depth = ("forgotten", 0, 0), 1
        return self

    def __float__(self) -> float:
        self._leave()
        return int.__float__(self)

    def __int__(self) -> int:
        self._leave()
        return int.__int__(self)

    def __lshift__(self, other: int) -> Any:
        return self * 2**other

    def __rshift__(self, other: int) -> Any:
        return self // 2**other


class CountedFloat(_Number, float):
    """A number with a fraction that was computed from sizes; ``of``: the labels whose channels they count."""

    def __new__(cls, value: float = 0.0, of: tuple[Label, ...] = ()) -> Self:
        self = super().__new__(cls, value)
        self.of, self.trace = of, _unfollowed.get()
        return self

    def __float__(self) -> float:
        self._leave()
        return float.__float__(self)

    def __int__(self) -> int:
        self._leave()
        return float.__int__(self)

    def __trunc__(self) -> Any:
        return self._whole(float.__trunc__(self))

    def __floor__(self) -> Any:
        return self._whole(float.__floor__(self))

    def __ceil__(self) -> Any:
        return self._whole(float.__ceil__(self))

    def __round__(self, ndigits: Any = None) -> Any:
        rounded = float.__round__(self, ndigits)
        return self._whole(rounded) if isinstance(rounded, int) else CountedFloat(rounded, self.of)

    def _whole(self, value: int) -> Counted:
        return Counted(value, self.of, made=("round", self, 0))


def _plain(value: Any) -> Any:
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def _result(name: str, left: Any, right: Any) -> Any:
    """What an operation on two numbers gives, of which one at least is counted."""
    if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        return NotImplemented
    value = getattr(operator, name)(_plain(left), _plain(right))
    if name in ("floordiv", "truediv"):
        left, right = _reduced(left, right)
    of = tuple({id(label): label for label in counted_in([left, right])}.values())
    if isinstance(value, int):
        return Counted(value, of, made=(name, left, right) if of else None)
    return CountedFloat(value, of) if isinstance(value, float) else value


def _reduced(left: Any, right: Any) -> tuple[Any, Any]:
    """A fraction without the sizes that stand above and below: ``n * c * h * w / (n * c)`` counts no channels."""
    above, below = _factors(left), []
    for one in _factors(right):
        place = next((place for place, other in enumerate(above) if _same(one, other)), None)
        if place is None:
            below.append(one)
        else:
            del above[place]
    if len(above) == len(_factors(left)):
        return left, right
    return functools.reduce(operator.mul, above, 1), functools.reduce(operator.mul, below, 1)


def _factors(value: Any) -> list[Any]:
    if isinstance(value, Counted) and value.made is not None and value.made[0] == "mul":
        return [factor for part in value.made[1:] for factor in _factors(part)]
    return [value]


def _same(one: Any, other: Any) -> bool:
    """Whether both are the same dimension of the same channels."""
    if not (isinstance(one, Counted) and isinstance(other, Counted) and one.labels() and other.labels()):
        return False
    if one.made is not None or other.made is not None or one.dim != other.dim:
        return False
    return one.of[0] is other.of[0] or torch.equal(one.of[0].ids, other.of[0].ids)


def counted_in(value: Any) -> list[Label]:
    """The labels whose channels are counted by the numbers in nested tuples, lists, dicts and slices."""
    if isinstance(value, _Number):
        return value.labels()
    if isinstance(value, slice):
        value = [value.start, value.stop, value.step]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [label for item in value for label in counted_in(item)]
    return []


def fall(size: Any, losses: Losses) -> np.ndarray | None:
    """By how much a size falls, one number for each way to cut that ``losses`` knows.

    None where it does not fall evenly: two cuts one after the other would have to take the sum of what each takes alone.
    """
    if not counted_in(size):
        return np.asarray(0)
    if not isinstance(size, Counted):
        return None
    if size.made is None:
        return losses(size.of[0], size.dim)
    name, left, right = size.made
    a, b = fall(left, losses), fall(right, losses)
    return None if a is None or b is None else _fall_of(name, (left, a), (right, b))


def _fall_of(name: str, left: tuple[Any, np.ndarray], right: tuple[Any, np.ndarray]) -> np.ndarray | None:
    """The same of a result, from each operand's value and fall."""
    (x, a), (y, b) = left, right
    if name == "add":
        return a + b
    if name == "sub":
        return a - b
    if name == "mul" and not (a.any() and b.any()):
        return np.asarray(a * _plain(y) + b * _plain(x))
    if name in ("floordiv", "mod") and not b.any() and not (a % _plain(y)).any():
        return np.asarray(a // _plain(y)) if name == "floordiv" else np.zeros_like(a)
    return None
