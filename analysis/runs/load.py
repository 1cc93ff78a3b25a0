"""From a sweep's name, folder or table file to one tidy table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import NotBegun, SweepNotFound
from analysis.runs.fetch import task_of
from analysis.runs.store import find, read_records

if TYPE_CHECKING:
    import pandas as pd


def load(
    sweep: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    tracking_uri: str | None = None,
    cache: bool = True,
) -> pd.DataFrame:
    """One row per model of a sweep, with typed columns: per trial, baseline and confirm run, and of a path per snapshot.

    Args:
        sweep: the sweep's folder, or what ``sweeps.run`` gave back; or its name, id or parent run id (then with
            ``tracking_uri``); or a ``.csv`` or ``.parquet`` file with the same columns; or a sequence of
            these, which end up in one frame, each sweep once. There sweeps of one name are called by their folders
            (without one, by their ids).
        tracking_uri: where MLflow keeps the runs, if ``sweep`` is not a folder.
        cache: keep the table as parquet in the sweep's folder and read only what is newer from MLflow.

    Columns: ``sweep, model, trial, level, polish, run_id, kind, status, trial_status, candidate, left_out, config_id,
    seed, started, ended``, the short names of ``final/*`` (units in ``gcp_core.schema``), the config as dotted paths,
    what is derived from the paired baseline (``baseline_*``, ``macs_kept``, ``params_kept``, ``accuracy_delta``), and the
    validation accuracy's 95 % interval (``val_images, val_accuracy_low, val_accuracy_high``; ``analysis.runs.sampling``).
    ``model`` names the row: ``t0007@3``, snapshot 3 (``level``) of path ``t0007`` (``trial``), or ``t0008`` for a single
    trial (``level`` is missing); ``t0007@3+30`` is that snapshot polished for 30 epochs (``polish``, else missing). A
    path without a snapshot yet is one row. ``kind`` and ``trial_status`` are the trial's, ``status`` is the model's own:
    what becomes of a path does not hide its finished snapshots. ``path_ended`` says why a path ended or rests (``target,
    cap, floors, stopped, constraint, paused``; "" = it runs, or is not a path), ``path_decision`` the same in a sentence
    with numbers where the sweep decided it. ``device`` is the processor or GPU it ran on, "" where that is not known.
    ``candidate`` marks the rows that may be on a front; every other one says why in ``left_out``.
    ``df.attrs`` holds ``sweeps``, ``objectives``, ``chance`` (accuracy of guessing, per cent) and
    ``left_out`` (reason -> models).

    Raises:
        SweepNotFound: no such sweep, or nothing in it.
        DataError: runs of another schema version, or required columns missing.
    """
    from analysis.runs import table

    if isinstance(sweep, (str, os.PathLike)):
        return _load_one(sweep, tracking_uri, cache)
    if not sweep:
        raise SweepNotFound("no sweep given", "sweep")
    files: list[pd.DataFrame] = []
    once: dict[tuple[str, str], pd.DataFrame] = {}
    for one in sweep:
        found = _load_one(one, tracking_uri, cache)
        if _is_file(one):
            files.append(found)
        else:
            entry = found.attrs["sweeps"][0]
            once.setdefault((entry["tracking_uri"], entry["parent_run_id"]), found)
    return table.concat([*_told_apart(list(once.values())), *files])


def _is_file(sweep: str | os.PathLike[str]) -> bool:
    """Whether it is a table, which may hold a part of a sweep or several."""
    return Path(sweep).suffix in (".csv", ".parquet")


def _told_apart(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """None called as another: a row's sweep tells its baseline, its trial and its files."""
    names = Counter(str(one.attrs["sweeps"][0]["name"]) for one in tables)
    for one in tables:
        (entry,) = one.attrs["sweeps"]
        if names[str(entry["name"])] > 1:
            one["sweep"] = _place(entry)
            one.attrs["sweeps"] = [{**entry, "name": _place(entry)}]
    return tables


def _place(entry: Mapping[str, Any]) -> str:
    """A sweep's folder, as one would type it here, else its id."""
    folder = entry["folder"]
    if not folder:
        return str(entry["id"])
    near = os.path.relpath(folder)
    return str(folder) if near.startswith("..") else near


def _load_one(sweep: str | os.PathLike[str], tracking_uri: str | None, cache: bool) -> pd.DataFrame:
    from analysis.runs import table
    from analysis.runs.models import model_records

    path = Path(sweep)
    if _is_file(sweep):
        return table.from_file(path)
    ref = find(sweep if isinstance(sweep, str) else path, tracking_uri=tracking_uri)
    if cache:
        from analysis.runs.cache import cached_records

        records = cached_records(ref)
    else:
        records = read_records(ref)
    if records.empty:
        raise NotBegun("has no trials yet", ref.name, "has the sweep been started?")
    records = model_records(records)
    return table.tidy(records, ref, task_of(ref, records))
