"""Constraints on measured values: ``"accuracy_drop <= 1"``, ``"macs <= 50%"``, ``"latency_ms <= 2.5"``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS

_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(%?)\s*")
#: Values of which a share of the baseline's makes sense.
_RELATIVE = ("macs", "params", "latency_ms")


@dataclass(frozen=True)
class Limit:
    """``name op bound``; with ``relative`` the bound is a share (0..1) of the baseline's value."""

    name: str
    op: Literal["<=", ">="]
    bound: float
    relative: bool
    text: str

    def needs_baseline(self) -> bool:
        """Whether the baseline's values must be known to judge a trial."""
        return self.relative or self.name == "accuracy_drop"

    def excess(self, finals: Mapping[str, float], baseline: Mapping[str, float] | None) -> float:
        """How far the limit is exceeded, in the value's unit; <= 0 means it is kept (Optuna's convention)."""
        bound = self.bound * (baseline or {})[self.name] if self.relative else self.bound
        return finals[self.name] - bound if self.op == "<=" else bound - finals[self.name]


def parse_limit(text: str, where: str) -> Limit:
    """The limit a text stands for; raises ConfigError with what is allowed."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not of the form NAME <= NUMBER", where, 'for instance "macs <= 50%"')
    name, op, number, percent = match.groups()
    allowed = [final for final in FINALS if final != "test_accuracy"]
    if name not in allowed:
        raise ConfigError(f"{name!r} is unknown", where, did_you_mean(name, allowed))
    if percent and name not in _RELATIVE:
        raise ConfigError(f"{name} has no share of the baseline", where, "give a number without %")
    try:
        bound = float(number)
    except ValueError:
        raise ConfigError(f"{number!r} is not a number", where) from None
    return Limit(name, op, bound / 100 if percent else bound, bool(percent), text)  # type: ignore[arg-type]
