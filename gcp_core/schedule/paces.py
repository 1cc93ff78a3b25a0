"""Shapes of the learning rate over one cycle of a path: ``pace(phase, step, steps) -> factor`` of the cycle's peak.

``phase`` is the number of the cycle (1 = the first), ``step`` runs from 0 to ``steps`` - 1; the cycle's peak is
``train.restart * train.lr``. A pace of one's own is ``package.module:pace``, or a name under the entry-point group
``gcp_core.paces``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gcp_core.errors import ConfigError
from gcp_core.slots import Registry

Pace = Callable[[int, int, int], float]

#: Slow start, fast decay rises over this share of its ten epochs, in so many stairs, and then halves.
_STAIRS, _RISE, _DECAY = 10, 5, 0.5


def linear(phase: int, step: int, steps: int) -> float:
    """From 1 straight down to 0, without warm-up.

    >>> [linear(1, step, 4) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    return 1 - step / steps


def slow_start(phase: int, step: int, steps: int) -> float:
    """Slow start, fast decay (arXiv 2012.13628), its ten stairs stretched over the cycle.

    Stair e has min(e + 1, 5) * 0.5^max(0, e - 4) of the rate of the first, which is a fifth of the peak. The stairs are
    those of a third party's schedule named after the paper, whose own constants could not be read; that a cycle starts
    after every event is our use.
    """
    stair = step * _STAIRS // steps
    return min(stair + 1, _RISE) / _RISE * _DECAY ** max(0, stair - _RISE + 1)


PACES = Registry(
    slot="pace",
    where="train.pace",
    group="gcp_core.paces",
    form="package.module:pace",
    built_in={"linear": linear, "slow_start": slow_start},
)


def pace_names() -> list[str]:
    """All registered names, sorted; ``package.module:pace`` comes on top."""
    return PACES.names()


def build_pace(name: str) -> Pace:
    """The pace of that name; its factors are checked to lie in 0..1.

    Raises:
        ConfigError: there is none, or (when it is used) a factor is not a number in 0..1.
    """
    pace = PACES.find(name)
    return pace if name in PACES.built_in else _checked(pace, name)


def _checked(pace: Pace, name: str) -> Pace:
    def factor(phase: int, step: int, steps: int) -> float:
        value = pace(phase, step, steps)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
            raise ConfigError(
                f"{name} gave {value!r} at step {step} of {steps}", "train.pace", "a number in 0..1"
            )
        return float(value)

    return factor
