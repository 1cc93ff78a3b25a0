"""What the user writes as one line of text: ``"accuracy_drop <= 1"``, ``"macs <= 50%"``, ``"1% over 20 trials"``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS, LARGEST_SHARES, LATENCIES

_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(%?)\s*")
_PLATEAU = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)\s*%\s+over\s+([0-9]+)\s+trials?\s*")
#: Objectives whose hypervolume has no scale but the results' own, so that it is not known while the sweep runs.
WITHOUT_SCALE = frozenset({"compression", "epochs", "latency_noise"})
#: What the unpruned model costs is known without training it.
DENSE = ("macs", "params")
#: Values of which a share of the baseline's makes sense.
_RELATIVE = ("macs", "params", "latency_ms")


@dataclass(frozen=True)
class Limit:
    """``name op bound``; with ``relative`` the bound is a share (0..1) of the baseline's value. Per cent of what is a
    share itself (``macs_removed >= 50%``) is that share.
    """

    name: str
    op: Literal["<=", ">="]
    bound: float
    relative: bool
    text: str

    def needs_baseline(self) -> bool:
        """Whether the baseline must have been trained to judge a trial; what it costs is known before that."""
        return (self.relative and self.name not in DENSE) or self.name == "accuracy_drop"

    def excess(self, finals: Mapping[str, float], baseline: Mapping[str, float] | None) -> float:
        """How far the limit is exceeded, in the value's unit; <= 0 means it is kept (Optuna's convention).

        Of ``baseline`` (the unpruned model's values) a relative limit needs the value of its own name.
        """
        value = finals[self.name]
        bound = self.bound * (baseline or {})[self.name] if self.relative else self.bound
        if self.name == "latency_ms" and self.relative and "latency_share" in finals:
            # Measured beside the dense model: other processes, at other times, saw another machine.
            value = finals["latency_share"] * (baseline or {})[self.name]
        if self.name in LATENCIES:
            # What lies within the noise of the measurement is no violation.
            noise = finals.get("latency_noise", 0.0)
            value *= 1 - noise if self.op == "<=" else 1 + noise
        if math.isclose(value, bound, rel_tol=1e-12, abs_tol=1e-9):  # 97.4 - 97.1 is a little more than 0.3
            return 0.0
        return value - bound if self.op == "<=" else bound - value

    def of(self, value: float, excess: float) -> float:
        """The limit in the value's unit: what is left of a value when its excess is taken away."""
        return value - excess if self.op == "<=" else value + excess


def parse_limit(text: str, where: str) -> Limit:
    """The limit a text stands for; raises ConfigError with what is allowed."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not of the form NAME <= NUMBER", where, 'for instance "macs <= 50%"')
    name, sign, number, percent = match.groups()
    op: Literal["<=", ">="] = "<=" if sign == "<=" else ">="
    allowed = [final for final in FINALS if final != "test_accuracy"]
    if name not in allowed:
        raise ConfigError(f"{name!r} is unknown", where, did_you_mean(name, allowed))
    share = FINALS[name].unit == "share"
    if percent and name not in _RELATIVE and not share:
        raise ConfigError(
            f"{name} cannot be given as a share of the baseline", where, "give a number without %"
        )
    try:
        bound = float(number)
    except ValueError:
        raise ConfigError(f"{number!r} is not a number", where) from None
    if name in ("macs", "params") and not percent and 0 < bound <= 100:
        meant = number if bound >= 1 else f"{100 * bound:g}"  # 0.5 is a half, as `gcp-analyze` takes it
        raise ConfigError(
            f"{number} {name} is less than any network has", where, f'did you mean "{name} {op} {meant}%"?'
        )
    if not percent and bound > (most := LARGEST_SHARES.get(name, math.inf)):
        hint = f'did you mean "{name} {op} {number}%"?'
        raise ConfigError(f"{number} is above {most}; {name} is a share", where, hint)
    if name == "val_accuracy" and 0 < bound <= 1:
        hint = f'did you mean "{name} {op} {100 * bound:g}"?'
        raise ConfigError(f"{number} is a share; accuracy is in per cent", where, hint)
    return Limit(name, op, bound / 100 if percent else bound, bool(percent) and not share, text)


@dataclass(frozen=True)
class Plateau:
    """The hypervolume must have grown by more than ``percent`` over the last ``trials``."""

    percent: float
    trials: int


def parse_plateau(text: str) -> Plateau:
    """``"1% over 20 trials"``; raises ConfigError with the form."""
    match = _PLATEAU.fullmatch(text)
    if match is None or int(match.group(2)) < 1:
        raise ConfigError(
            f"{text!r} is not of the form PERCENT% over N trials",
            "search.plateau",
            'for instance "1% over 20 trials"',
        )
    return Plateau(float(match.group(1)), int(match.group(2)))
