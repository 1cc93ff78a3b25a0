"""Trials and their models: a path is a row per snapshot, any other trial is its own model.

A *model* is what a row of the table stands for: ``t0007@3`` is the third snapshot after the dense one of path ``t0007``,
``t0008`` the final model of single trial ``t0008`` (or a trial that has none yet), ``t0007@3+30`` that snapshot, polished
for 30 epochs. A polished model is one to choose, not one that the search made: it tells nothing about its setting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis import text
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import SNAPSHOT, STATUSES, ModelName, Tag

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What :func:`model_records` adds to a record, of the trial that the model belongs to.
TRIAL_KIND, TRIAL_STATUS, TRIAL_ERROR = "trial:kind", "trial:status", "trial:error"
#: Columns of the table -> tags of a path's own run: why it ended or rests, in a word and in a sentence.
OF_PATHS = {"path_ended": Tag.ENDED, "path_decision": Tag.DECISION}
_BROKE = "infeasible"


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


def is_polished(df: pd.DataFrame) -> pd.Series:
    """Which rows are snapshots that were polished."""
    if "polish" in df.columns:
        return df["polish"].notna()
    if "model" not in df.columns:
        return pd.Series(False, index=df.index)
    return df["model"].map(lambda model: ModelName.parse(str(model)).polish > 0).astype(bool)


def of_the_search(df: pd.DataFrame) -> pd.DataFrame:
    """The rows that the search has made: all but polished models, which cost more than their setting says."""
    return df[~is_polished(df)]


def broke_a_limit(rows: pd.DataFrame) -> pd.Series:
    """Which rows broke a limit; those with values were trained to the end."""
    if "status" not in rows.columns:
        return pd.Series(False, index=rows.index)
    return (rows["status"] == _BROKE).astype(bool)


def one_per_trial(df: pd.DataFrame) -> pd.DataFrame:
    """The last row of every trial: of a path its deepest snapshot."""
    return of_the_search(df).drop_duplicates(["sweep", "trial"], keep="last")


def added(df: pd.DataFrame, values: pd.Series) -> pd.Series:
    """``values`` that count from the start of a trial (hours, epochs, cost) as what each row added to them: a
    snapshot's less those of the snapshot before it, the sum over a path being its last one's; a polished model's less
    those of the snapshot that it was made of.
    """
    if word(df) == "trial":
        return values
    rows = df[["sweep", "trial", "level"]].assign(value=values, polished=is_polished(df))
    rows = rows[rows["level"].notna() & rows["value"].notna()].sort_values(
        ["level", "polished"], kind="stable"
    )
    path = rows[~rows["polished"]]
    before = path.groupby(["sweep", "trial"])["value"].shift()
    own = path.set_index(["sweep", "trial", "level"])["value"]
    of = rows.loc[rows["polished"], ["sweep", "trial", "level"]]
    made_of = of.apply(lambda row: own.get(tuple(row), 0.0), axis=1) if len(of) else before.head(0)
    known = before.reindex(values.index).fillna(made_of.astype(float).reindex(values.index)).fillna(0.0)
    return values.sub(known).clip(lower=0.0)


def unfinished_paths(df: pd.DataFrame) -> dict[str, list[str]]:
    """Status -> paths of the search that ended by it after they had left snapshots, which stay."""
    if not {"level", "trial_status"} <= set(df.columns):
        return {}
    rows = one_per_trial(df[(df["kind"] == "trial") & df["level"].notna()])
    rows = rows[rows["trial_status"].isin([s.name for s in STATUSES.values() if not s.on_front])]
    rows = rows[~rows["trial_status"].isin(["infeasible", "running", "paused"])]
    return {str(status): list(part["trial"]) for status, part in rows.groupby("trial_status", sort=True)}


def finished_baselines(df: pd.DataFrame) -> int:
    """How many baselines have an accuracy; one that failed, or still runs, tells nothing."""
    return int(((df["kind"] == "baseline") & df["val_accuracy"].notna()).sum())


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
    name = ModelName.parse(model)
    rows = df[df["trial"] == name.trial]
    if rows.empty:
        return ConfigError("no such model", model, did_you_mean(model, df["model"]))
    if not rows["level"].notna().all():
        return ConfigError("is not a path, or has no snapshot yet", model, f"its name is {name.trial}")
    own = of_the_search(rows)
    if name.polish and (own["level"] == name.level).any():
        source = ModelName(name.trial, name.level)
        hint = f"gcp-sweep polish SWEEP {source} train.epochs={name.polish}"
        return ConfigError(f"{source} has not been polished for {name.polish} epochs", model, hint)
    has = f"{text.plural(len(own), 'snapshot')}, {span(own['model'])}"
    said = f"is a path with {has}" if name.level is None else f"the path has {has}"
    return ConfigError(said, model, "name one of them")


def span(models: Iterable[str]) -> str:
    """``t0007@0 .. t0007@6``, or the only one."""
    names = list(models)
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
