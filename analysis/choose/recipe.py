"""From a chosen trial to the config of a full-length training on fresh seeds (``--write-config``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.plain import plain
from analysis.runs.table import config_columns
from analysis.runs.widths import manifest_of
from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("data", "model", "train", "prune")


def trial_config(df: pd.DataFrame, row: pd.Series) -> TrialConfig:
    """The configuration of one trial, from its manifest, else from the table's columns."""
    manifest = manifest_of(df, row)
    if manifest is not None and "config" in manifest:
        return TrialConfig.from_dict(manifest["config"])
    values: dict[str, Any] = {}
    for name in config_columns(df):
        part, _, leaf = name.partition(".")
        value = plain(row[name])
        if part in _PARTS and value is not None:
            _put(values.setdefault(part, {}), leaf.split("."), _structured(value))
    if "model" not in values:
        raise ConfigError("the table does not hold its configuration", str(row["trial"]))
    return TrialConfig.from_dict({**values, "seed": int(row["seed"])})


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _structured(value: Any) -> Any:
    """Lists and mappings are logged as JSON text."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def write_config(
    df: pd.DataFrame, row: pd.Series, path: Path, *, seeds: int = 3, epochs: int | None = None
) -> list[int]:
    """Write a sweep config that trains the trial's configuration on ``seeds`` seeds the search has not seen.

    Args:
        epochs: another length; shares such as ``until: 0.75`` scale with it, ``start`` and ``interval`` do
        too.

    Returns:
        The fresh seeds.
    """
    import yaml

    config = trial_config(df, row)
    if config.prune is None:
        raise ConfigError("is an unpruned baseline", str(row["trial"]))
    tree = config.to_dict()
    if epochs is not None:
        factor = epochs / config.train.epochs
        tree["train"]["epochs"] = epochs
        for name in ("start", "interval"):
            if tree["prune"][name] is not None:
                tree["prune"][name] = max(1, round(tree["prune"][name] * factor))
        if isinstance(tree["prune"]["until"], int):
            tree["prune"]["until"] = max(1, round(tree["prune"]["until"] * factor))
    first = int(df["seed"].max()) + 1
    fresh = list(range(first, first + seeds))
    document = {
        "name": f"{row['sweep']}-{row['trial']}",
        "seed": {"choice": fresh},
        **{part: tree[part] for part in _PARTS},
        "search": {"sampler": "grid", "trials": None, "objectives": dict(df.attrs["objectives"])},
    }
    head = (
        f"# The configuration of {row['trial']} of sweep {row['sweep']} on seeds the search has not seen.\n"
        f"#   gcp-sweep run {path.name}\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return fresh
