"""Values and trials as JSON can hold them: NaN as null, one place per shape."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd

_PLAIN = (
    "sweep", "model", "trial", "level", "polish", "run_id", "kind", "status", "trial_status", "config_id", "seed",
    "baseline_trial", "macs_kept", "params_kept", "val_accuracy_low", "val_accuracy_high",
)  # fmt: skip


def plain(value: Any) -> Any:
    """A JSON-ready value: numpy scalars unwrapped, everything that is not a finite number becomes None."""
    # pandas' missing values refuse to be compared, so they are recognised by name first.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value == int(value) and abs(value) < 2**53 else value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value


def structured(value: Any) -> Any:
    """Lists and mappings are logged as JSON text: the value that the text stands for."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def rows_of(df: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings by column."""
    # pandas allows names of any kind; those of our tables are text.
    return cast("list[dict[str, Any]]", df.to_dict("records"))


def plain_trial(row: dict[str, Any], config: Sequence[str]) -> dict[str, Any]:
    """One model: identity, values by short name, and its configuration under dotted paths."""
    answer = {name: plain(row.get(name)) for name in _PLAIN}
    answer.update({name: plain(row[name]) for name in FINALS if name in row})
    answer["config"] = {name: plain(row[name]) for name in config if plain(row[name]) is not None}
    if "pareto_rank" in row:
        answer["pareto_rank"] = plain(row["pareto_rank"])
    return answer


def plain_trials(df: pd.DataFrame, config: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of ``df`` as :func:`plain_trial` answers."""
    return [plain_trial(row, config) for row in rows_of(df)]
