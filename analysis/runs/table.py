"""From raw MLflow records to a typed, tidy table: casting, baselines, derived columns, who is left out and
why.

Every derived column has its one place here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.errors import SweepNotFound
from analysis.plain import rows_of
from analysis.runs import baselines
from analysis.runs.casting import CONFIG_PARTS, cast_param, params_of
from analysis.runs.models import (
    OF_PATHS,
    TRIAL_ERROR,
    TRIAL_KIND,
    TRIAL_STATUS,
    column_of,
    one_per_trial,
    tag_of,
)
from analysis.runs.sampling import interval, val_images
from analysis.runs.store import DEFAULT_OBJECTIVES, HUGE, schema_problem
from gcp_core.errors import DataError
from gcp_core.schema import FINALS, STATUSES, ModelName, Tag

if TYPE_CHECKING:
    from analysis.runs.fetch import Task
    from analysis.runs.store import SweepRef

#: Why a model is left out whose weights an earlier one has; the column ``same_as`` names that one.
TWIN = "the same model as an earlier trial's"

#: How a config writes that there is no value.
NULL = "null"

#: A trial without a finite value for one of these cannot be judged.
REQUIRED = ("val_accuracy", "macs", "params")

#: First columns of every table, in this order.
IDENTITY = (
    "sweep", "model", "trial", "level", "polish", "run_id", "kind", "status", "trial_status", "candidate", "left_out",
    "config_id", "seed", "started", "ended",
)  # fmt: skip

#: How rows are ordered: a polished model behind its snapshot.
ORDER = ["sweep", "trial", "level", "polish"]

#: Columns of names: in other people's tables they are often whole numbers.
_NAMES = ("sweep", "trial", "model", "config_id", "run_id")

_INTERVAL = ("val_images", "val_accuracy_low", "val_accuracy_high")


def tidy(records: pd.DataFrame, ref: SweepRef, task: Task) -> pd.DataFrame:
    """The table of one sweep (columns: see ``analysis.load.load``) from
    :func:`analysis.runs.models.model_records`.
    """
    tags = {name: tag_of(records, name) for name in (Tag.KIND, Tag.STATUS, Tag.SCHEMA, Tag.ERROR)}
    problems = sorted({text for text in map(schema_problem, tags[Tag.SCHEMA]) if text})
    if problems:
        raise DataError(problems[0], ref.name, "read it with the version that wrote it")
    trial = tag_of(records, Tag.TRIAL_ID).fillna(tag_of(records, Tag.RUN_NAME))
    status = _statuses(tags[Tag.STATUS], records["mlflow_status"])
    of_path = {name: column_of(records, name) for name in (TRIAL_KIND, TRIAL_STATUS, TRIAL_ERROR)}
    df = pd.DataFrame(
        {
            "sweep": ref.name,
            "model": tag_of(records, Tag.MODEL_ID).fillna(trial),
            "trial": trial,
            "level": pd.to_numeric(tag_of(records, Tag.LEVEL)).astype("Int64"),
            "polish": pd.to_numeric(tag_of(records, Tag.POLISH)).astype("Int64"),
            "run_id": records["run_id"],
            "kind": of_path[TRIAL_KIND].fillna(tags[Tag.KIND]).fillna("trial"),
            "status": status,
            "trial_status": of_path[TRIAL_STATUS].fillna(status),
            "error": tags[Tag.ERROR].fillna(of_path[TRIAL_ERROR]).fillna(""),
            "config_id": tag_of(records, Tag.CONFIG_ID),
            **{
                name: column_of(records, name).fillna(tag_of(records, tag)).fillna("")
                for name, tag in OF_PATHS.items()
            },
            "weights_sha256": tag_of(records, Tag.WEIGHTS).fillna(""),
            "device": tag_of(records, Tag.DEVICE).fillna(""),
            "started": pd.to_datetime(records["started"], unit="ms", utc=True),
            "ended": pd.to_datetime(records["ended"], unit="ms", utc=True),
        }
    )
    cast = {name: cast_param(name, values) for name, values in params_of(records).items()}
    seed = cast.pop("seed", None)
    df["seed"] = seed if seed is not None else pd.to_numeric(tag_of(records, Tag.SEED)).astype("Int64")
    finals = {
        name: pd.to_numeric(records[f"metric:{q.key}"])
        for name, q in FINALS.items()
        if f"metric:{q.key}" in records
    }
    for name in REQUIRED:
        finals.setdefault(name, pd.Series(np.nan, index=df.index))
    df = pd.concat([df, pd.DataFrame(finals), pd.DataFrame(cast, index=df.index)], axis=1)
    df.attrs["sweeps"] = [_describe(ref)]
    df.attrs["objectives"] = dict(ref.objectives)
    df.attrs["chance"] = 100.0 / task.num_classes if task.num_classes else 0.0
    df["val_images"] = val_images(df, task.val_images, rounded=False)
    return finish(df)


def from_file(path: Path) -> pd.DataFrame:
    """A table from a CSV or parquet file with the columns of ``analysis.load``; what is derived is derived
    again.
    """
    if not path.is_file():
        raise SweepNotFound("no such file", str(path))
    try:
        names = dict.fromkeys(_NAMES, object)
        df = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=names)
    except (ValueError, OSError) as exc:
        raise DataError(f"cannot be read as a table: {exc}", str(path)) from exc
    missing = [name for name in ("trial", *REQUIRED) if name not in df.columns]
    if missing:
        raise DataError(
            "columns missing: " + ", ".join(missing), str(path), "expected the columns of analysis.load"
        )
    if df.empty:
        raise SweepNotFound("has no rows", str(path))
    for name in [name for name in _NAMES if name in df.columns]:
        df[name] = df[name].astype(object).map(_text, na_action="ignore")
    defaults: dict[str, str | int] = {
        "sweep": path.stem,
        "run_id": "",
        "kind": "trial",
        "status": "complete",
        "error": "",
        "seed": 0,
    }
    for name, value in defaults.items():
        df[name] = df[name].fillna(value) if name in df.columns else value
    for name, source in (("config_id", "trial"), ("model", "trial"), ("trial_status", "status")):
        df[name] = df[name].fillna(df[source]) if name in df.columns else df[source]
    level = pd.to_numeric(df["level"]) if "level" in df.columns else pd.Series(pd.NA, index=df.index)
    df["level"] = level.astype("Int64")
    for name in OF_PATHS:  # text that is empty is missing in a file
        df[name] = df[name].fillna("") if name in df.columns else ""
    named = df["model"].map(lambda model: ModelName.parse(str(model)).polish or pd.NA)
    df["polish"] = pd.to_numeric(df["polish"] if "polish" in df.columns else named).astype("Int64")
    for name in ("started", "ended"):
        df[name] = pd.to_datetime(df[name], utc=True) if name in df.columns else pd.NaT
    df["val_images"] = val_images(df, None, rounded=True)
    df.attrs.setdefault("objectives", dict(DEFAULT_OBJECTIVES))
    df.attrs.setdefault("chance", 0.0)
    df.attrs.setdefault("sweeps", [{"name": name} for name in df["sweep"].unique()])
    return finish(df)


def _text(name: object) -> str:
    """A name as text; whole numbers become floats where a table has gaps."""
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)


def concat(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Several sweeps in one table; the ``sweep`` column tells them apart, the objectives are the first
    one's.
    """
    tables = list(tables)
    attrs: dict[Hashable | None, Any] = {
        "sweeps": [entry for t in tables for entry in t.attrs["sweeps"]],
        "objectives": tables[0].attrs["objectives"],
        "chance": tables[0].attrs["chance"],
    }
    bare = [t.copy() for t in tables]
    for t in bare:
        t.attrs = {}
    df = pd.concat(bare, ignore_index=True)
    df.attrs = attrs
    return finish(df)


def finish(df: pd.DataFrame) -> pd.DataFrame:
    """Pair baselines, derive columns, mark candidates, order rows and columns. Idempotent."""
    df = _with_interval(_with_baseline(df))
    df["left_out"] = [_left_out(row) for row in rows_of(df[["kind", "status", "error", *REQUIRED]])]
    df["same_as"] = _same_as(df)
    df.loc[(df["same_as"] != "") & (df["left_out"] == ""), "left_out"] = TWIN
    df["candidate"] = (df["kind"] == "trial") & (df["left_out"] == "")
    first = [c for c in (*IDENTITY, "error") if c in df.columns]
    derived = [c for c in df.columns if _is_paired(c)] + [
        "macs_kept",
        "params_kept",
        "accuracy_delta",
        *_INTERVAL,
    ]
    finals = [c for c in FINALS if c in df.columns]
    rest = [c for c in df.columns if c not in {*first, *derived, *finals}]
    attrs = dict(df.attrs)
    df = df[[*first, *finals, *derived, *sorted(rest)]].sort_values(ORDER, kind="stable", na_position="first")
    df = df.reset_index(drop=True)
    df.attrs = attrs
    df.attrs["left_out"] = left_out(df)
    return df


def _same_as(df: pd.DataFrame) -> list[str]:
    """The earlier model of the same sweep and seed with the same weights, "" where there is none.

    Paths with one dense phase share their first snapshot; single trials that miss their target share their end. One that
    is left out stands for no other: of two equal models noise in the latency may take one beyond a limit.
    """
    found: dict[tuple[object, ...], str] = {}
    names = [""] * len(df)
    if "weights_sha256" not in df.columns:
        return names
    ordered = df.sort_values(ORDER, kind="stable", na_position="first")
    columns = ["sweep", "kind", "seed", "weights_sha256", "val_accuracy", "macs", "params"]
    places = {index: at for at, index in enumerate(df.index)}
    for index, model, why, row in zip(
        ordered.index, ordered["model"], ordered["left_out"], ordered[columns].to_dict("records")
    ):
        weights = row["weights_sha256"]
        if isinstance(weights, str) and weights and row["kind"] == "trial":
            key = tuple(map(str, row.values()))
            first = found.get(key, model) if why else found.setdefault(key, model)
            names[places[index]] = "" if first == model else first
    return names


class Names(dict[str, list[str]]):
    """Reason -> models. pandas copies ``attrs`` deeply with every column that is taken; these lists nobody changes."""

    def __deepcopy__(self, memo: object) -> Names:
        return self


def left_out(df: pd.DataFrame) -> Names:
    """Reason -> models that may not stand on the front, most frequent reason first."""
    trials = df[(df["kind"] == "trial") & (df["left_out"] != "")]
    groups = {str(reason): list(rows["model"]) for reason, rows in trials.groupby("left_out", sort=True)}
    return Names(sorted(groups.items(), key=lambda item: -len(item[1])))


def counts(df: pd.DataFrame) -> dict[str, int]:
    """The health of a sweep: how many trials, their models (rows), models that may be on the front, trials of each
    status, and how many baselines and confirm runs.
    """
    runs = one_per_trial(df)
    trials = runs[runs["kind"] == "trial"]
    found = {status: int((trials["trial_status"] == status).sum()) for status in STATUSES}
    result = {
        "trials": len(trials),
        "models": int((df["kind"] == "trial").sum()),
        "candidates": int(df["candidate"].sum()),
    }
    result.update({status: n for status, n in found.items() if n})
    for kind in ("baseline", "confirm"):
        result[f"{kind}s"] = int((runs["kind"] == kind).sum())
    return result


def config_columns(df: pd.DataFrame) -> list[str]:
    """Columns that hold configuration (dotted paths)."""
    return [c for c in df.columns if c.split(".")[0] in (*CONFIG_PARTS, "search", "resources") and "." in c]


def varying(df: pd.DataFrame) -> list[str]:
    """Configuration columns in which the candidates differ: what the sweep searched. ``null`` is a value too."""
    rows = df[df["candidate"]]
    sweeps = rows.get("sweep", pd.Series("", index=rows.index))
    return [
        c
        for c in config_columns(df)
        if as_words(rows[c].dropna()).nunique() > 1 or _some_null(c, rows[c], sweeps)
    ]


def _some_null(name: str, values: pd.Series, sweeps: pd.Series) -> bool:
    """Whether a sweep has trials with ``null`` here and trials without.

    A whole sweep without a value may only be older than the key, and an option that is not there belongs to another
    criterion.
    """
    part, _, leaf = name.partition(".")
    if part not in CONFIG_PARTS or "." in leaf:
        return False
    return bool(values.isna().groupby(sweeps).nunique().gt(1).any())


def as_words(values: pd.Series) -> pd.Series:
    """Values of the configuration as text; one that is missing is ``null``, as a config says it."""
    # map, not astype: pandas keeps missing values missing when it turns a column into text
    return values.map(str).where(values.notna(), NULL).astype(object)


def _statuses(tagged: pd.Series, mlflow: pd.Series) -> pd.Series:
    """The status tag; without one, what MLflow's own state says."""
    fallback = {"FINISHED": "complete", "FAILED": "failed", "KILLED": "lost"}
    return pd.Series(
        [t if isinstance(t, str) else fallback.get(m, "running") for t, m in zip(tagged, mlflow)],
        index=tagged.index,
    )


def _describe(ref: SweepRef) -> dict[str, Any]:
    return {
        "id": ref.id,
        "name": ref.name,
        "tracking_uri": ref.tracking_uri,
        "experiment_id": ref.experiment_id,
        "parent_run_id": ref.parent_run_id,
        "folder": str(ref.folder) if ref.folder else None,
        "running": ref.running,
    }


def _with_baseline(df: pd.DataFrame) -> pd.DataFrame:
    """Pair each row with its finished baseline and derive what rests on it."""
    measured = df[list(REQUIRED)].apply(pd.to_numeric, errors="coerce")
    good = (df["kind"] == "baseline") & (df["status"] == "complete") & np.isfinite(measured).all(axis=1)
    pair = baselines.paired(df, good.to_numpy(dtype=bool))
    df = df[[c for c in df.columns if not _is_paired(c)]].copy()
    has = pair >= 0
    partners = df["trial"].to_numpy(dtype=object)[pair]
    partners[~has] = None
    df["baseline_trial"] = partners
    for name in ("val_accuracy", "test_accuracy", "macs", "params", "latency_ms", "device_hours"):
        if name in df.columns:
            values = pd.to_numeric(df[name], errors="coerce").to_numpy(dtype=float)
            df[f"baseline_{name}"] = np.where(has, values[pair], np.nan)
    df = _with_latency_interval(df)
    df["macs_kept"] = df["macs"] / df["baseline_macs"]
    df["params_kept"] = df["params"] / df["baseline_params"]
    df["accuracy_delta"] = df["val_accuracy"] - df["baseline_val_accuracy"]
    drop = -df["accuracy_delta"]
    df["accuracy_drop"] = df["accuracy_drop"].fillna(drop) if "accuracy_drop" in df.columns else drop
    return df


def _is_paired(column: str) -> bool:
    """Whether a column holds a value of the paired baseline (``baseline_epochs`` is configuration)."""
    return column.startswith("baseline_") and column != baselines.EPOCHS


def _with_interval(df: pd.DataFrame) -> pd.DataFrame:
    """The images behind each validation accuracy, where known, and its interval."""
    accuracy, images = (
        pd.to_numeric(df[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        if name in df.columns
        else np.full(len(df), np.nan)
        for name in ("val_accuracy", "val_images")
    )
    return df.assign(**dict(zip(_INTERVAL, (images, *interval(accuracy, images)))))


def _with_latency_interval(df: pd.DataFrame) -> pd.DataFrame:
    """``latency_low_ms`` and ``latency_high_ms``: what the latency may be on the machine of the baseline.

    A trial's own median is of its process at its time; its share of the dense model, measured beside it, times the
    baseline's latency is free of that. The interval holds both, widened by the noise of the measurement.
    """
    needed = {"latency_ms", "latency_share", "latency_noise", "baseline_latency_ms"}
    if not needed <= set(df.columns):
        return df
    values = {name: pd.to_numeric(df[name], errors="coerce").to_numpy(dtype=float) for name in needed}
    noise = values["latency_noise"]
    beside = values["latency_share"] * values["baseline_latency_ms"]
    df["latency_low_ms"] = np.fmin(values["latency_ms"], beside) * (1 - noise)
    df["latency_high_ms"] = np.fmax(values["latency_ms"], beside) * (1 + noise)
    return df


def _left_out(row: dict[str, Any]) -> str:
    if row["kind"] not in ("trial", "confirm"):
        return ""
    status = STATUSES.get(str(row["status"]))
    if status is None:
        return f"unknown status {row['status']!r}"
    if not status.on_front:
        return f"{status.name}: {status.text}"
    bad = [name for name in REQUIRED if not _sound(row[name])]
    return f"no finite {', '.join(bad)}" if bad else ""


def _sound(value: Any) -> bool:
    try:
        return bool(np.isfinite(value)) and abs(value) < HUGE
    except TypeError:
        return False
