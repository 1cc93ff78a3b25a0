"""Trials and their models: a path is a row per snapshot, any other trial is its own model.

A *model* is what a row of the table stands for: ``t0007@3`` is the third snapshot after the dense one of path ``t0007``,
``t0008`` the final model of single trial ``t0008`` (or a trial that has none yet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis import text
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import SNAPSHOT, STATUSES, Tag

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What :func:`model_records` adds to a record, of the trial that the model belongs to.
TRIAL_KIND, TRIAL_STATUS, TRIAL_ERROR = "trial:kind", "trial:status", "trial:error"
#: Columns of the table -> tags of a path's own run: why it ended or rests, in a word and in a sentence.
OF_PATHS = {"path_ended": Tag.ENDED, "path_decision": Tag.DECISION}


def model_records(records: pd.DataFrame) -> pd.DataFrame:
    """The records that stand for models, from those of all runs of a sweep (:func:`analysis.runs.store.read_records`).

    A path with snapshots is replaced by them; one without stays, with its status. Snapshots know their path's kind,
    status and error (``trial:kind``, ...). Those of a path that was deleted have gone with it.
    """
    kinds, parents = (tag_of(records, name) for name in (Tag.KIND, Tag.PARENT))
    snapshot = kinds == SNAPSHOT
    if not snapshot.any():
        return records
    runs = records[~snapshot].set_index("run_id")
    paths = runs.loc[runs.index.isin(parents[snapshot])]
    rows = records[parents.isin(paths.index).where(snapshot, ~records["run_id"].isin(paths.index))].copy()
    of = parents[rows.index].where(snapshot[rows.index])
    carried = {TRIAL_KIND: Tag.KIND, TRIAL_STATUS: Tag.STATUS, TRIAL_ERROR: Tag.ERROR}
    for name, tag in {**carried, **OF_PATHS}.items():
        rows[name] = of.map(tag_of(paths, tag).to_dict())
    return rows.reset_index(drop=True)


def tag_of(records: pd.DataFrame, name: str) -> pd.Series:
    """A tag of every record, None or NaN where a run has none."""
    return column_of(records, f"tag:{name}")


def column_of(records: pd.DataFrame, name: str) -> pd.Series:
    """A column of raw records as objects, empty if there is none of this name."""
    if name in records.columns:
        return records[name].astype(object)
    return pd.Series([None] * len(records), index=records.index, dtype=object)


def word(df: pd.DataFrame) -> str:
    """What one row of the table is called: ``model`` where the sweep has paths, else ``trial``."""
    return "model" if "level" in df.columns and df["level"].notna().any() else "trial"


def one_per_trial(df: pd.DataFrame) -> pd.DataFrame:
    """The last row of every trial: of a path its deepest snapshot."""
    return df.drop_duplicates(["sweep", "trial"], keep="last")


def added(df: pd.DataFrame, values: pd.Series) -> pd.Series:
    """``values`` that count from the start of a trial (hours, epochs, cost) as what each row added to them: a
    snapshot's less those of the snapshot before it, the sum over a path being its last one's.
    """
    if word(df) == "trial":
        return values
    rows = df[["sweep", "trial", "level"]].assign(value=values)
    rows = rows[rows["level"].notna() & rows["value"].notna()].sort_values("level")
    before = rows.groupby(["sweep", "trial"])["value"].shift()
    return values.sub(before.reindex(values.index).fillna(0.0)).clip(lower=0.0)


def unfinished_paths(df: pd.DataFrame) -> dict[str, list[str]]:
    """Status -> paths of the search that ended by it after they had left snapshots, which stay."""
    rows = one_per_trial(df[(df["kind"] == "trial") & df["level"].notna()])
    rows = rows[rows["trial_status"].isin([s.name for s in STATUSES.values() if not s.on_front])]
    rows = rows[~rows["trial_status"].isin(["infeasible", "running", "paused"])]
    return {str(status): list(part["trial"]) for status, part in rows.groupby("trial_status", sort=True)}


def row_of(df: pd.DataFrame, model: str) -> pd.Series:
    """The row of one model, ``t0007@3`` or ``t0008``.

    Raises:
        ConfigError: there is none of this name, and what there is instead; or several sweeps have one.
    """
    rows = df[df["model"] == model]
    if rows.empty:
        raise no_such_model(df, model)
    if len(rows) > 1:
        raise ConfigError("several sweeps have a model of this name", model, "load one sweep at a time")
    return rows.iloc[0]


def no_such_model(df: pd.DataFrame, model: str) -> ConfigError:
    """Why there is no such model: the path has others, or nothing is called so."""
    trial, at, _ = model.partition("@")
    rows = df[df["trial"] == trial]
    if rows.empty:
        return ConfigError("no such model", model, did_you_mean(model, df["model"]))
    if rows["level"].notna().all():
        has = f"{text.plural(len(rows), 'snapshot')}, {span(rows['model'])}"
        return ConfigError(
            f"the path has {has}" if at else f"is a path with {has}", model, "name one of them"
        )
    return ConfigError("is no path, or has no snapshot yet", model, f"its name is {trial}")


def span(models: Iterable[str]) -> str:
    """``t0007@0 .. t0007@6``, or the only one."""
    names = list(models)
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
