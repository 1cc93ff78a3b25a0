"""What was read from MLflow, kept as parquet: keyed by the sweep's parent run and the newest end time it holds.

A finished run never changes its values, so a later read asks only for runs that ended since, for those that still run,
and for the ids of those that were deleted; a run that was deleted leaves the table and one that was restored returns.
Snapshots are read again with the path that they belong to, whenever they ended: they may reach MLflow late, and their
path ends after them. Those that ended since are read too: one may be polished long after its path has ended.
Runs that ended shortly before the newest one are read again: the clock of the driver that wrote them may be behind.
Only runs that were deleted and then purged (``mlflow gc``) between two reads are not noticed: ``cache=False``
(``--no-cache``) reads everything again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.runs.models import tag_of
from analysis.runs.store import SweepRef, deleted_runs, read_records
from gcp_core.schema import SNAPSHOT, Tag

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
#: How far apart the clocks of two drivers of one sweep may be, ms.
_APART = 120_000


def cached_records(ref: SweepRef) -> pd.DataFrame:
    """The same rows as :func:`analysis.runs.store.read_records`, from the cache as far as it reaches."""
    import pandas as pd

    file = cache_file(ref)
    old = _read(file)
    newest = None if old is None else _newest(old)
    if old is None or newest is None:
        fresh = read_records(ref, deleted_too=True)
        _write(fresh, file)
        return _active(fresh, deleted_runs(ref))
    # Once the cache was looked at long after the newest run had ended, nothing is late any more.
    late = file.stat().st_mtime * 1000 < newest + 2 * _APART
    since = newest - (_APART if late else 0)
    new = read_records(ref, newer_than=since, deleted_too=True, known=len(old))
    if not new["ended"].eq(new["run_id"].map(old.set_index("run_id")["ended"])).all():
        known = old[~old["run_id"].isin(new["run_id"])]
        old = pd.concat([known, new], ignore_index=True)
        old = old.sort_values("started", kind="stable", ignore_index=True)
        _write(old, file)
    elif late:
        with contextlib.suppress(OSError):  # a folder that may only be read: it is looked at again
            os.utime(file)
    return _active(old, deleted_runs(ref))


def _newest(records: pd.DataFrame) -> int | None:
    """When the last trial ended that is known to have (ms); None if none has."""
    ended = records.loc[tag_of(records, Tag.KIND) != SNAPSHOT, "ended"]
    return int(ended.max()) if ended.notna().any() else None


def _active(records: pd.DataFrame, deleted: set[str]) -> pd.DataFrame:
    return records[~records["run_id"].isin(deleted)].reset_index(drop=True) if deleted else records


def cache_file(ref: SweepRef) -> Path:
    """In the sweep's folder; for a sweep found by name, in the user's cache folder."""
    key = hashlib.sha256(f"{ref.tracking_uri}|{ref.parent_run_id}".encode()).hexdigest()[:16]
    if ref.folder is not None:
        return ref.folder / ".analysis" / f"records-{ref.parent_run_id[:16]}.parquet"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "gcp-sweep" / f"records-{key}.parquet"


def _read(file: Path) -> pd.DataFrame | None:
    import pandas as pd

    if not file.is_file():
        return None
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError) as exc:
        log.warning("cache %s is unreadable and will be written again: %s", file, exc)
        return None


def _write(records: pd.DataFrame, file: Path) -> None:
    """Keep finished rows; a cache that cannot be written costs time, not correctness."""
    finished = records[records["ended"].notna()] if len(records) else records
    if not len(finished):
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        finished.to_parquet(temporary, index=False)
        temporary.replace(file)
    except (OSError, ValueError, ImportError) as exc:
        log.warning("cannot keep the table in %s: %s", file, exc)
