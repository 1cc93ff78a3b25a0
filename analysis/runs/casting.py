"""Logged parameters, which are text, as the types that the config declares."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from gcp_core import config as core_config
from gcp_core.config.checks import LATER, default_of
from gcp_core.errors import DataError

#: The parts of a configuration that have columns.
CONFIG_PARTS = {
    "data": core_config.DataConfig,
    "model": core_config.ModelConfig,
    "train": core_config.TrainConfig,
    "prune": core_config.PruneConfig,
}


def params_of(records: pd.DataFrame) -> dict[str, pd.Series]:
    """The logged parameters, by dotted path. Runs of older versions have what the keys that came later mean where nobody
    sets them: a sweep that a newer version continued is one sweep, and its older baseline that of all its trials.

    What is ``null`` was logged as such. What a run has not logged is of a later version, or of a part that it does not
    have, as baselines have no ``prune``.
    """
    logged = {c.removeprefix("param:"): records[c] for c in records.columns if c.startswith("param:")}
    found = dict(logged)
    for part, kind in CONFIG_PARTS.items():
        known = {name: values.notna() for name, values in logged.items() if name.startswith(f"{part}.")}
        if not known:
            continue
        has = pd.concat(known, axis=1).any(axis=1)
        for key, default in _later_keys(kind):
            path = f"{part}.{key}"
            older = has.copy()
            for name in known:
                if name == path or name.startswith(f"{path}."):
                    older &= ~known[name]
            if older.any():
                values = logged.get(path, pd.Series(None, index=records.index, dtype=object))
                found[path] = values.astype(object).mask(older, default)
    return found


def _later_keys(kind: type) -> Iterator[tuple[str, str]]:
    """The keys of a part of the config that came later, with their defaults as they are logged (none that is null)."""
    for item in dataclasses.fields(kind):
        default = default_of(item)
        if item.metadata.get("identity") == LATER["identity"] and default is not None:
            yield item.name, default if isinstance(default, str) else json.dumps(default)


def cast_param(name: str, values: pd.Series) -> pd.Series:
    """MLflow's strings as the type the config declares for ``name``; unknown names are guessed."""
    kind = _declared_type(name)
    if kind is None:
        return _guess(values)
    try:
        # Few distinct values, many rows: cast each distinct one once.
        known = {v: _cast(v, kind) for v in values.unique()}
        return pd.Series(
            [known[v] if v == v else _cast(v, kind) for v in values], index=values.index, dtype=_dtype(kind)
        )
    except (ValueError, TypeError) as exc:
        raise DataError(f"a logged value is no {kind.__name__}: {exc}", name) from exc


def _declared_type(name: str) -> type | None:
    if name in ("seed", "threads"):
        return int
    part, _, leaf = name.partition(".")
    if part not in CONFIG_PARTS or "." in leaf:
        return None
    hint = typing.get_type_hints(CONFIG_PARTS[part]).get(leaf)
    if isinstance(hint, types.UnionType):
        choices = [t for t in typing.get_args(hint) if t is not type(None)]
        hint = choices[0] if len(choices) == 1 else None
    return hint if hint in (int, float, str, bool) else None


def _dtype(kind: type) -> Any:
    return {int: "Int64", float: "float64", bool: "boolean", str: "object"}[kind]


def _missing(value: object) -> bool:
    return value is None or value != value or str(value) in ("None", "null", "")


def _cast(value: object, kind: type) -> Any:
    if _missing(value):
        return {int: pd.NA, float: np.nan, bool: pd.NA, str: None}[kind]
    if kind is bool:
        return str(value).lower() == "true"
    if kind is int:
        number = float(str(value))
        if number != int(number):
            raise ValueError(f"{value!r}")
        return int(number)
    return kind(str(value))


def _guess(values: pd.Series) -> pd.Series:
    """Numbers if all values are numbers, text otherwise."""
    present = values.map(lambda v: not _missing(v))
    numbers = pd.to_numeric(values.where(present), errors="coerce")
    if present.any() and numbers[present].notna().all():
        return numbers
    return values.where(present, None).astype(object)
