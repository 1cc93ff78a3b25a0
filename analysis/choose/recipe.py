"""From a chosen model to the config of a full-length training on fresh seeds (``--write-config``)."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.plain import plain, structured
from analysis.runs.artifacts import config_tree, polish_of, sweep_of
from analysis.runs.table import config_columns
from analysis.runs.widths import manifest_of
from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError, required
from gcp_core.schema import ModelName

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("data", "model", "train", "prune")
#: What of a sweep's config says where it runs and is kept; ``search.concurrency`` does too.
_WHERE = ("resources", "tracking", "storage", "ledger")
#: Where null is not what stands for a key that is left out.
_NULLS = ("prune.target",)
#: An int is an epoch, a float a share; tables do not tell 1 from 1.0, and nobody prunes until the first epoch.
_UNTIL = "prune.until"
#: Shares this close are the same share.
_CLOSE = 1e-9


def trial_config(df: pd.DataFrame, row: pd.Series) -> TrialConfig:
    """The configuration of a model's trial, from its manifest, else from the table's columns."""
    manifest = manifest_of(df, row)
    if manifest is not None and "config" in manifest:
        return TrialConfig.from_dict(manifest["config"])
    values: dict[str, Any] = {}
    for name in config_columns(df):
        part, _, leaf = name.partition(".")
        value = plain(row[name])
        if name == _UNTIL and value == 1:
            value = 1.0
        if part in _PARTS and (value is not None or name in _NULLS):
            _put(values.setdefault(part, {}), _path(leaf), structured(value))
    if "model" not in values:
        raise ConfigError("the table does not hold its configuration", str(row["model"]))
    return TrialConfig.from_dict({**values, "seed": int(row["seed"])})


def _path(leaf: str) -> list[str]:
    """The keys below a part; names in an option's mapping (layers) have dots of their own."""
    path = leaf.split(".")
    return [*path[:2], ".".join(path[2:])] if path[0].endswith("options") and len(path) > 3 else path


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def write_config(
    df: pd.DataFrame, row: pd.Series, path: Path, *, seeds: int = 3, epochs: int | None = None
) -> list[int]:
    """Write a sweep config that trains the configuration of a model on ``seeds`` seeds the search has not seen.

    Of a snapshot it is its path, cut so that the path ends with this snapshot. No config polishes: of a polished model it
    is its snapshot's, with the command that polishes.

    Args:
        epochs: another length; shares such as ``until: 0.75`` scale with it, ``start`` and ``interval`` do
        too.

    Returns:
        The fresh seeds.
    """
    config = trial_config(df, row)
    if config.prune is None:
        raise ConfigError("is an unpruned baseline", str(row["model"]))
    level = None if row.isna()["level"] else int(row["level"])
    tree = config.to_dict()
    length = config.train.epochs
    if level is not None:
        length = config.pruning.dense_epochs + level * config.pruning.interval
        _end_at(tree, level, _aimed(df, row, config))
    if epochs is not None:
        _stretch(tree, epochs / required(length, "train.epochs"))
        if level is None:
            tree["train"]["epochs"] = epochs
    if level is not None and tree["train"]["epochs"] is not None:
        tree["train"]["epochs"] = tree["prune"]["start"] + level * tree["prune"]["interval"]
    # Of a polished model what it was made of: a polish is a command, not a config.
    polish, source = polish_of(row), row["model"] if level is None else ModelName(str(row["trial"]), level)
    name = f"{row['sweep']}-{str(source).replace('@', '-')}"
    what = "The configuration of" if level is None else "The path that ends with the snapshot"
    head = (
        f"# {what} {source} of sweep {row['sweep']} on seeds the search has not seen.\n"
        f"#   gcp-sweep run {shlex.quote(path.name)}\n"
    )
    if polish:
        made = ModelName("t0000", level)
        head += (
            f"# It leads to {source}, of which {row['model']} was made: no config polishes. Afterwards, for every path:\n"
            f"#   {polish_command(_folder(df, row, name), made, polish)}\n"
        )
    return write_grid(df, row, path, head, name, tree, seeds)


def _folder(df: pd.DataFrame, row: pd.Series, name: str) -> str:
    """Where the sweep of this name will be kept, as ``gcp-sweep`` takes it."""
    storage = config_tree(sweep_of(df, row)).get("storage") or "runs"
    return f"{str(storage).rstrip('/')}/{name}"


def write_grid(
    df: pd.DataFrame, row: pd.Series, path: Path, head: str, name: str, tree: Mapping[str, Any], seeds: int
) -> list[int]:
    """Write the config of a sweep that trains one configuration on so many seeds that no model of the table has.

    It runs, and is kept, where the sweep of the row was; where that is not known, the file says so.

    Args:
        head: comments before it.
        tree: the parts of the configuration.

    Returns:
        The seeds.
    """
    import yaml

    known = config_tree(sweep_of(df, row))
    where = {part: known[part] for part in _WHERE if part in known}
    if not known:
        missing = "resources, search.concurrency, storage, tracking.uri"
        head += f"# Where it runs is not said here: add {missing} as you need.\n"
    search = {"sampler": "grid", "trials": None, "objectives": dict(df.attrs["objectives"])}
    if "concurrency" in (known.get("search") or {}):
        search["concurrency"] = known["search"]["concurrency"]
    first = int(df["seed"].max()) + 1
    fresh = list(range(first, first + seeds))
    document = {
        "name": name,
        "seed": {"choice": fresh},
        **{part: tree[part] for part in _PARTS},
        "search": search,
        **where,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return fresh


def polish_command(sweep: str, source: ModelName, epochs: int) -> str:
    """The command that polishes a snapshot; ``sweep`` as ``gcp-sweep`` takes it."""
    return f"gcp-sweep polish {shlex.quote(sweep)} {source} train.epochs={epochs}"


def command_for(df: pd.DataFrame, row: pd.Series, epochs: int) -> str:
    """The command that polishes a chosen model for so many epochs.

    Raises:
        ConfigError: it is not a snapshot of a path of the search, or polished already.
    """
    model = str(row["model"])
    if row.isna()["level"]:
        raise ConfigError("belongs to a single trial: only snapshots of paths can be polished", model)
    source = ModelName(str(row["trial"]), int(row["level"]))
    if polish_of(row):
        hint = f"{polish_command('SWEEP', source, epochs)} makes another one of the same snapshot"
        raise ConfigError("is already polished", model, hint)
    entry = sweep_of(df, row)
    return polish_command(as_typed(entry.get("folder")) or f"STORAGE/{row['sweep']}", source, epochs)


def as_typed(folder: str | None) -> str:
    """A folder as one would type it here; "" for none."""
    if not folder:
        return ""
    relative = os.path.relpath(folder)
    return folder if relative.startswith("..") else relative


def _aimed(df: pd.DataFrame, row: pd.Series, config: TrialConfig) -> float | None:
    """The share that a snapshot's last event aimed at; None where that is not known (``ratio_of: units``)."""
    prune, removed = config.pruning, float(row[f"{config.pruning.of}_removed"])
    plans = (manifest_of(df, row) or {}).get("plans") or [{}]
    recorded = plans[-1].get("meta", {}).get("level")
    if recorded is not None:
        return float(recorded)
    if prune.levels is not None:
        return max((share for share in prune.levels if share <= removed + _CLOSE), default=None)
    if prune.ratio_of != "cost":
        return None
    ratio = required(prune.ratio, "prune.ratio")
    passed = math.floor(math.log1p(-removed) / math.log1p(-ratio) + _CLOSE)
    return 1 - (1 - ratio) ** passed if passed else None


def _end_at(tree: dict[str, Any], level: int, aimed: float | None) -> None:
    """Cut a path's configuration so that it ends with this snapshot: by its depth, or where that says nothing (the dense
    model, events that count units) by its epochs.
    """
    tree["train"]["epochs"] = None
    if level == 0 or aimed is None:
        tree["train"]["epochs"] = tree["prune"]["start"] + level * tree["prune"]["interval"]
    elif tree["prune"]["levels"] is not None:
        tree["prune"]["levels"] = [share for share in tree["prune"]["levels"] if share <= aimed + _CLOSE]
    else:
        # Rounded down: the path ends at the first level at or beyond its target.
        tree["prune"]["target"] = math.floor(aimed * 1e6) / 1e6


def _stretch(tree: dict[str, Any], factor: float) -> None:
    """Scale the epochs that the pruning names."""
    for name in ("start", "interval"):
        if tree["prune"][name] is not None:
            tree["prune"][name] = max(1, round(tree["prune"][name] * factor))
    if isinstance(tree["prune"]["until"], int):
        tree["prune"]["until"] = max(1, round(tree["prune"]["until"] * factor))
