"""From a chosen model to a config that trains its widths from scratch (``--write-config PATH --from-scratch``).

A path shares its training among all its models. Whoever ships one of them and does not mind another training may get more
from the same widths with all of the training for themselves (``docs/results.md`` has what was measured).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.choose.recipe import write_grid
from analysis.plain import plain
from analysis.runs.widths import layer_widths, manifest_of
from gcp_core.config import PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

#: What of the pruning says how the network is cut, whenever that is.
_KEPT = ("of", "residual", "min_channels", "min_share", "exclude", "round_to")
#: What belongs to a method of pruning: these widths are trained as any network is.
_METHOD = ("penalty", "penalty_options", "rewrite", "rewrite_options")


def from_scratch(
    config: TrialConfig, manifest: Mapping[str, Any], removed: float, epochs: int
) -> TrialConfig:
    """The training of a model's widths from scratch: cut before its first epoch, then as long as said.

    A path's cycles become one cycle, the schedule of a single trial stays. Without penalty and rewrite.

    Args:
        manifest: of the model that ``config`` has led to.
        removed: share of ``prune.of`` that it has lost.
    """
    prune, train = config.pruning, config.train
    changed = {name: getattr(TrainConfig(), name) for name in _METHOD}
    if config.is_path:
        changed |= {"schedule": "one_cycle", "restart": 1.0, "pace": "linear"}
    cut = PruneConfig(
        # Which units go is of no consequence before training; the target lets the event take just these.
        criterion="random",
        allocator="given",
        allocator_options={"widths": {one.layer: one.after for one in layer_widths(manifest)}},
        start=0,
        until=0,
        ratio=1.0,
        target=removed,
        **{name: getattr(prune, name) for name in _KEPT},
    )
    return replace(config, train=replace(train, epochs=epochs, **changed), prune=cut)


def write_scratch_config(
    df: pd.DataFrame, row: pd.Series, path: Path, *, seeds: int = 3, epochs: int | None = None
) -> list[int]:
    """Write a sweep config that trains a model's widths :func:`from_scratch` on ``seeds`` seeds the search has not seen.

    Args:
        epochs: None = as many as cost what the model has cost: its path's training up to it.

    Returns:
        The fresh seeds.

    Raises:
        ConfigError: a baseline, a model that has lost nothing, or one whose widths or cost are not known.
    """
    model, manifest = str(row["model"]), manifest_of(df, row)
    if manifest is None or "config" not in manifest:
        hint = "gcp-analyze select --write-config without --from-scratch needs no files of the model"
        raise ConfigError("its files are not there, and with them its widths", model, hint)
    config = TrialConfig.from_dict(manifest["config"])
    if config.prune is None:
        raise ConfigError("is an unpruned baseline", model)
    if not layer_widths(manifest):
        raise ConfigError("has lost nothing: its widths are those of the baseline", model)
    left, spent = 1 - float(row["macs_removed"]), plain(row.get("train_cost"))
    cost = f"{epochs} epochs"
    if epochs is None:
        if not spent:
            raise ConfigError("what it has cost is not known", model, "--epochs N")
        epochs = max(1, round(spent / left))
        cost = f"{epochs} epochs, which cost what this model has cost: {spent:.3g} of the unpruned network"
    tree = from_scratch(config, manifest, float(row[f"{config.prune.of}_removed"]), epochs).to_dict()
    name = f"{row['sweep']}-{model.replace('@', '-').replace('+', '-')}-scratch"
    head = (
        f"# The widths of {model} of sweep {row['sweep']} ({left:.1%} of the multiply-adds), trained from scratch\n"
        f"# on seeds the search has not seen: {cost}.\n"
        f"#   gcp-sweep run {shlex.quote(path.name)}\n"
    )
    return write_grid(df, row, path, head, name, tree, seeds)
