"""Hard constraints as users write them: ``macs <= 50%``, ``params <= 0.3M``, ``accuracy_drop <= 1``.

Grammar: ``COLUMN OPERATOR BOUND``. Operators: ``<= < >= > == !=``. A bound is a number with an optional
unit. Of a cost (``macs``, ``params``, ``latency_ms``, ``device_hours``), ``50%`` means half of the paired
baseline's value.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis import text
from analysis.errors import NothingFeasible, Removal
from analysis.runs.table import NULL, as_words
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS, LARGEST_SHARES, LATENCIES

if TYPE_CHECKING:
    import pandas as pd

#: Everyday words for columns.
ALIASES = {"accuracy": "val_accuracy", "latency": "latency_ms", "flops": "macs"}

#: Columns that look at the test split: reported, never used to choose.
HELD_BACK = ("test_accuracy", "baseline_test_accuracy")

_OPERATORS: dict[str, Callable] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_FORM = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|==|!=|=<|=>|=|<|>)\s*(.+?)\s*")
_NUMBER = re.compile(r"([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ%]*)")
_PREFIX = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_RELATIVE = ("macs", "params", "latency_ms", "device_hours")
#: Columns that are shares, and the largest one that a limit may name.
_SHARES = {**LARGEST_SHARES, "macs_kept": 1, "params_kept": 1}
#: Values this close to a bound (as a share of it, and in its unit) are equal to it.
_CLOSE, _CLOSE_TO_0 = 1e-12, 1e-9
#: Units by column: word -> factor to the column's own unit.
_UNITS: dict[str, dict[str, float]] = {
    "latency_ms": {"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3},
    "device_hours": {"": 1.0, "h": 1.0, "min": 1 / 60, "s": 1 / 3600},
    "accuracy_drop": {"": 1.0, "points": 1.0, "point": 1.0, "pt": 1.0, "pp": 1.0},
    "accuracy_delta": {"": 1.0, "points": 1.0, "point": 1.0, "pt": 1.0, "pp": 1.0},
    "val_accuracy": {"": 1.0, "%": 1.0},
    "compression": {"": 1.0, "x": 1.0},
    "epochs": {"": 1.0, "epochs": 1.0},
    **{name: {"": 1.0, "%": 0.01} for name in _SHARES},
    **{
        name: {prefix + word: factor for prefix, factor in _PREFIX.items() for word in ("", unit)}
        for name, unit in (("macs", "MACs"), ("params", "params"))
    },
}


@dataclass(frozen=True)
class Constraint:
    """``column op bound``; with ``relative`` the bound is a factor of the paired baseline's value."""

    column: str
    op: str
    bound: float | str
    relative: bool = False

    def __str__(self) -> str:
        if isinstance(self.bound, str):
            return f"{self.column} {self.op} {self.bound}"
        if self.relative:
            return f"{self.column} {self.op} {100 * self.bound:g} % of the baseline"
        return f"{self.column} {self.op} {_bound_text(self.column, self.bound)}"

    def bounds(self, df: pd.DataFrame) -> np.ndarray:
        """(n,) float64: the bound per row, in the column's unit; NaN where a baseline is missing."""
        if not self.relative:
            return np.full(len(df), self.bound, dtype=float)
        base = f"baseline_{self.column}"
        if base not in df.columns:  # no run has measured it, at least not yet
            return np.full(len(df), np.nan)
        return float(self.bound) * df[base].to_numpy(dtype=float, na_value=np.nan)

    def satisfied(self, df: pd.DataFrame) -> np.ndarray:
        """(n,) bool; a row without a finite value, or without the baseline it needs, does not satisfy."""
        if isinstance(self.bound, str):
            words, bound = self._words(df)
            return np.asarray(_OPERATORS[self.op](words, bound), dtype=bool)
        values = self._most_lenient(df)
        bounds = self.bounds(df)
        with np.errstate(invalid="ignore"):
            equal = equals(values, bounds)
            kept = _OPERATORS[self.op](np.where(equal, bounds, values), bounds)
            kept &= np.isfinite(values) & np.isfinite(bounds)
        # A word in a column of numbers is another value than any number.
        return kept | (np.isnan(values) & df[self.column].notna().to_numpy()) if self.op == "!=" else kept

    def _words(self, df: pd.DataFrame) -> tuple[np.ndarray, str]:
        """(n,) the values as text and the bound that they are compared with: a yes or no however it is written, as
        Python, YAML and MLflow do not agree.
        """
        words = as_words(df[self.column])
        if set(words.str.lower()) <= {"true", "false", NULL}:
            return words.str.lower().to_numpy(), str(self.bound).lower()
        return words.to_numpy(), str(self.bound)

    def values(self, df: pd.DataFrame) -> np.ndarray:
        """(n,) float64 values that are judged; what is no number (``auto``) has no value. A share of a latency is that
        of the unpruned model beside it: other processes, at other times or on other machines, saw another machine.
        """
        own, beside = _numbers(df, self.column), self._beside(df)
        return np.where(np.isfinite(own) & np.isfinite(beside), beside, own)

    def _beside(self, df: pd.DataFrame) -> np.ndarray:
        """(n,) what a share of a latency judges, ms; NaN where it was not measured, and for any other limit."""
        if not (self.relative and self.column == "latency_ms"):
            return np.full(len(df), np.nan)
        return _numbers(df, "latency_share") * _numbers(df, "baseline_latency_ms")

    def _most_lenient(self, df: pd.DataFrame) -> np.ndarray:
        """The values; of a latency the end of its interval that is nearer to the bound: noise excludes no trial."""
        values = self.values(df)
        if self.column not in LATENCIES or self.op in ("==", "!="):
            return values
        lower, noise = self.op in ("<", "<="), np.nan_to_num(_numbers(df, "latency_noise"), nan=0.0)
        widened = values * (1 - noise if lower else 1 + noise)
        if self.column == "latency_share":
            return widened
        ends = _numbers(df, "latency_low_ms" if lower else "latency_high_ms")
        ends = np.where(np.isfinite(self._beside(df)), widened, ends)
        return np.where(np.isfinite(ends) & np.isfinite(values), ends, values)

    def miss(self, df: pd.DataFrame) -> np.ndarray:
        """(n,) float64: distance to the bound in the column's unit, 0 where satisfied, NaN where unknown."""
        if isinstance(self.bound, str):
            return np.where(self.satisfied(df), 0.0, np.nan)
        return np.where(self.satisfied(df), 0.0, np.abs(self.values(df) - self.bounds(df)))


def _numbers(df: pd.DataFrame, column: str) -> np.ndarray:
    """(n,) float64 of a column, NaN for what is no number, and everywhere if there is no such column."""
    import pandas as pd

    if column not in df.columns:
        return np.full(len(df), np.nan)
    return pd.to_numeric(df[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def _bound_text(column: str, bound: float) -> str:
    """A bound as short as it was written: 5 ms, 60 M MACs, 92.5 %, 1 points."""
    if column in ("macs", "params"):
        return text.quantity(column, bound)
    if column in _SHARES:
        return f"{100 * bound:g} %"
    unit = FINALS[column].unit if column in FINALS else "points" if column == "accuracy_delta" else ""
    return f"{bound:g} {unit}".strip()


def parse(given: str, columns: Iterable[str] = ()) -> Constraint:
    """The constraint a user wrote; ``columns`` are further columns of the table (config paths) that may be
    used.

    >>> str(parse("macs<=50%"))
    'macs <= 50 % of the baseline'
    >>> str(parse("params <= 0.3M"))
    'params <= 300 k params'

    Raises:
        ConfigError: no such column, operator or unit; a bound that mixes up per cent, shares and counts.
    """
    match = _FORM.fullmatch(given)
    if not match:
        raise ConfigError(
            "is not a constraint", repr(given), 'for instance "macs <= 50%" or "accuracy_drop <= 1"'
        )
    name, op, bound = match.groups()
    op = {"=": "==", "=<": "<=", "=>": ">="}.get(op, op)
    column = _column(name, given, columns)
    if column not in _UNITS and column not in FINALS:
        return _on_config(column, op, bound)
    number = _NUMBER.fullmatch(bound)
    if not number:
        raise ConfigError(
            f"{bound!r} is not a number with a unit", repr(given), "for instance 60M, 50%, 0.3M or 5"
        )
    value, unit = float(number[1]), number[2]
    if column in _RELATIVE and unit == "%":
        return Constraint(column, op, value / 100.0, relative=True)
    allowed = _UNITS.get(column, {"": 1.0})
    if unit not in allowed:
        raise ConfigError(f"{unit!r} is not a unit of {column}", repr(given), _unit_hint(column, value, unit))
    value *= allowed[unit]
    _check_scale(column, value, unit, given)
    return Constraint(column, op, value)


def _column(name: str, given: str, columns: Iterable[str]) -> str:
    column = ALIASES.get(name, name)
    known = {*FINALS, *_SHARES, "accuracy_delta", *columns}
    if column in HELD_BACK:
        raise ConfigError(
            "a choice must not use test accuracy, or it would no longer be a test",
            repr(given),
            "use val_accuracy",
        )
    if name == "flops":
        raise ConfigError(
            "we count MACs; one MAC is two FLOPs", repr(given), "write macs with half the number"
        )
    if column not in known:
        offered = {*known, *ALIASES} - {*HELD_BACK, "flops"}
        raise ConfigError(f"no such column {name!r}", repr(given), did_you_mean(name, offered))
    return column


def _on_config(column: str, op: str, bound: str) -> Constraint:
    try:
        return Constraint(column, op, float(bound))
    except ValueError:
        if op not in ("==", "!="):
            raise ConfigError(
                f"{bound!r} is not a number", f"{column} {op}", "text can be compared by == and !="
            ) from None
        return Constraint(column, op, bound.strip("'\""))


def _unit_hint(column: str, value: float, unit: str) -> str:
    if column in ("accuracy_drop", "accuracy_delta") and unit == "%":
        return f"it is counted in points: {column} <= {value:g}"
    if column in ("macs", "params"):
        return "k, M, G, or % of the baseline"
    words = [word for word in _UNITS.get(column, {}) if word]
    return "allowed: " + ", ".join(words) if words else "give a plain number"


def _check_scale(column: str, value: float, unit: str, given: str) -> None:
    """Refuse shares where per cent or counts are meant, and vice versa."""
    if column == "val_accuracy" and 0 < value <= 1:
        raise ConfigError(
            f"{value:g} is a share; accuracy is in per cent", repr(given), f"write {100 * value:g}"
        )
    if column in ("macs", "params") and 0 < value < 1:
        raise ConfigError(
            f"{value:g} {column} is less than one", repr(given), f"did you mean {100 * value:g}%?"
        )
    if column in ("macs", "params") and not unit and 1 <= value <= 100:
        word = "MACs" if column == "macs" else column
        raise ConfigError(
            f"{value:g} without a unit looks like a missing per cent sign; no network has so few {column}",
            repr(given),
            f"did you mean {value:g}%? (if not: {value:g} {word})",
        )
    most = _SHARES.get(column, np.inf)
    if not unit and abs(value) > most:
        raise ConfigError(
            f"{value:g} is above {most:g}; this is a share",
            repr(given),
            f"write {value:g}% or {value / 100:g}",
        )


def apply(df: pd.DataFrame, constraints: Iterable[Constraint]) -> pd.DataFrame:
    """The rows of ``df`` that satisfy all constraints.

    Raises:
        ConfigError: a column without any value, or a relative bound without any finished baseline.
        NothingFeasible: no row is left; carries what each constraint alone removed and the nearest miss.
    """
    constraints = list(constraints)
    mask = feasible(df, constraints)
    if len(df) and not mask.any():
        removals = tuple(removal(df, c) for c in constraints)
        alone = "; ".join(describe(r) for r in removals)
        raise NothingFeasible(
            f"no trial of {len(df)} satisfies all of them: {alone}",
            "constraints",
            "relax one, or search where they hold (gcp-sweep run ... search.constraints)",
            removals,
        )
    return df[mask]


def equals(values: np.ndarray | float, bounds: np.ndarray | float) -> np.ndarray:
    """(n,) bool: which values are their bounds but for rounding: in binary 97.4 - 97.1 is a little more than 0.3."""
    return np.isclose(values, bounds, rtol=_CLOSE, atol=_CLOSE_TO_0)


def feasible(df: pd.DataFrame, constraints: Iterable[Constraint]) -> np.ndarray:
    """(n,) bool: rows of ``df`` that satisfy all constraints.

    Raises:
        ConfigError: a column without any value, or a relative bound without any finished baseline.
    """
    mask = np.ones(len(df), dtype=bool)
    for constraint in constraints:
        _check_data(df, constraint)
        mask &= constraint.satisfied(df)
    return mask


def _check_data(df: pd.DataFrame, constraint: Constraint) -> None:
    column = constraint.column
    if column not in df.columns or not df[column].notna().any():
        raise ConfigError("no trial has a value", column, "was it measured in this sweep?")
    if not isinstance(constraint.bound, str) and np.isnan(constraint.values(df)).all():
        known = ", ".join(sorted(set(as_words(df[column].dropna())))[:5])
        raise ConfigError(f"no trial has a number here, as {constraint} wants", column, f"values: {known}")
    if constraint.relative and not np.isfinite(constraint.bounds(df)).any():
        raise ConfigError(
            f"{constraint} needs a finished baseline of the same data, model, training and seed; there is none",
            column,
            "give an absolute bound, or run the sweep again to complete its baseline",
        )
    if column in ("accuracy_drop", "accuracy_delta") and not np.isfinite(constraint.values(df)).any():
        raise ConfigError("needs a finished baseline; there is none", column, "use val_accuracy")


def removal(df: pd.DataFrame, constraint: Constraint) -> Removal:
    """What ``constraint`` alone does to the rows of ``df``."""
    ok = constraint.satisfied(df)
    miss = constraint.miss(df)
    known = np.isfinite(miss) & ~ok
    at = int(np.flatnonzero(known)[np.argmin(miss[known])]) if known.any() else -1
    # A word is as good a value as any, and so is null: only it cannot be near another one.
    missing = 0 if isinstance(constraint.bound, str) else int((~np.isfinite(miss)).sum())
    return Removal(
        constraint=str(constraint),
        removed=int((~ok).sum()),
        missing=missing,
        of=len(df),
        nearest=str(df["model"].iloc[at]) if at >= 0 else "",
        nearest_value=float(constraint.values(df)[at]) if at >= 0 else float("nan"),
        nearest_miss=float(miss[at]) if at >= 0 else float("nan"),
    )


def describe(removal: Removal) -> str:
    """One phrase: ``"macs <= 50 % of the baseline" alone removes 12 of 24 (nearest miss: t0004 by 1.2 M
    MACs)``.
    """
    said = f'"{removal.constraint}" alone removes {removal.removed} of {removal.of}'
    notes = []
    if removal.missing:
        notes.append(f"{removal.missing} without a value")
    if removal.nearest:
        column = removal.constraint.split()[0]
        notes.append(f"nearest miss: {removal.nearest} by {text.spread(column, removal.nearest_miss)}")
    return f"{said} ({'; '.join(notes)})" if notes else said
