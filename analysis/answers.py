"""What each command says in ``--json`` (schemas: docs/schemas): plain values, NaN as null, one place per
shape.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import table
from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd

    from analysis.advice import Advice
    from analysis.compare import Comparison
    from analysis.compare_page import ComparedFiles
    from analysis.errors import NothingFeasible
    from analysis.export import Exported
    from analysis.pareto import Hypervolume
    from analysis.permutation import Test
    from analysis.publish import Published
    from analysis.register import Registered
    from analysis.report import Written
    from analysis.select import Choice

#: Raised when the meaning of an answer changes.
VERSION = 1

_PLAIN = (
    "sweep", "trial", "run_id", "kind", "status", "config_id", "seed", "baseline_trial", "macs_kept", "params_kept",
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


def trial(row: dict[str, Any], config: Sequence[str]) -> dict[str, Any]:
    """One trial: identity, values by short name, and its configuration under dotted paths."""
    answer = {name: plain(row.get(name)) for name in _PLAIN}
    answer.update({name: plain(row[name]) for name in FINALS if name in row})
    answer["config"] = {name: plain(row[name]) for name in config if plain(row[name]) is not None}
    if "pareto_rank" in row:
        answer["pareto_rank"] = plain(row["pareto_rank"])
    return answer


def trials(df: pd.DataFrame, config: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of ``df`` as :func:`trial` answers."""
    return [trial(row, config) for row in df.to_dict("records")]


def about(df: pd.DataFrame) -> dict[str, Any]:
    """Which sweeps an answer rests on, what was counted and what was left out."""
    keys = ("id", "name", "tracking_uri", "parent_run_id", "folder", "running")
    return {
        "sweeps": [{k: entry.get(k) for k in keys if k in entry} for entry in df.attrs["sweeps"]],
        "counts": table.counts(df),
        "left_out": df.attrs["left_out"],
    }


def front(
    df: pd.DataFrame,
    rows: pd.DataFrame,
    objectives: dict[str, str],
    volume: Hypervolume,
    scale: str,
    noise: dict[str, Any],
) -> dict:
    """Answer of ``front``: the front (or, with ranks, the rows asked for), baselines, hypervolume, and what replicates
    tell about it.
    """
    config = table.config_columns(df)
    return {
        "answer": "front",
        "version": VERSION,
        **about(df),
        "objectives": dict(objectives),
        "front": trials(rows, config),
        "baselines": trials(df[df["kind"] == "baseline"], config),
        "hypervolume": {"value": volume.value, "cut": volume.cut, "points": volume.points, "anchors": scale},
        "noise": noise,
    }


def select(df: pd.DataFrame, choice: Choice) -> dict[str, Any]:
    """Answer of ``select``: the chosen trial(s), the runners-up and the reason."""
    config = table.config_columns(df)
    return {
        "answer": "select",
        "version": VERSION,
        **about(df),
        "constraints": list(choice.constraints),
        "considered": choice.considered,
        "feasible": choice.feasible,
        "chosen": trials(choice.rows, config),
        "runners_up": trials(choice.runners_up, config),
        "reason": choice.reason,
    }


def nothing(error: NothingFeasible) -> dict[str, Any]:
    """Answer when no trial is left (exit code 3): what each constraint alone removed and the nearest miss."""
    return {
        "answer": "nothing_feasible",
        "version": VERSION,
        "message": str(error),
        "removals": [{k: plain(v) for k, v in dataclasses.asdict(r).items()} for r in error.removals],
    }


def report(df: pd.DataFrame, written: Written, published: Published | None) -> dict[str, Any]:
    """Answer of ``report``: the files, and what was written into MLflow (None if nothing was)."""
    return {
        "answer": "report",
        "version": VERSION,
        **about(df),
        "page": str(written.page),
        "files": [str(path) for path in written.files],
        "published": None
        if published is None
        else {
            "front": list(published.front),
            "tags_changed": published.tags_changed,
            "hypervolume": published.hypervolume,
        },
    }


def export(df: pd.DataFrame, choice: Choice, exported: Exported) -> dict[str, Any]:
    """Answer of ``export``: where the model is and every comparison it passed."""
    return {
        "answer": "export",
        "version": VERSION,
        **about(df),
        "trial": exported.trial,
        "folder": str(exported.folder),
        "reason": choice.reason,
        "sha256": exported.sha256,
        "checks": [{k: plain(v) for k, v in dataclasses.asdict(c).items()} for c in exported.checks],
        "proof": {k: plain(v) for k, v in exported.proof.items()},
    }


def compare(
    df: pd.DataFrame,
    by: str,
    found: Comparison,
    paired: Sequence[Test],
    written: ComparedFiles | None = None,
) -> dict[str, Any]:
    """Answer of ``compare``: hypervolume per label and seed, every test with its verdict, and the page if written."""
    return {
        "answer": "compare",
        "version": VERSION,
        **about(df),
        "by": by,
        "equal": found.equal,
        "anchors": found.anchors,
        "volumes": [{k: plain(v) for k, v in row.items()} for row in found.volumes.to_dict("records")],
        "tests": [{k: plain(v) for k, v in dataclasses.asdict(t).items()} for t in (*found.tests, *paired)],
        "page": str(written.page) if written else None,
        "files": [str(file) for file in written.files] if written else [],
    }


def advise(
    df: pd.DataFrame, found: Advice, mattered: pd.DataFrame | None, why: str, path: str | None
) -> dict[str, Any]:
    """Answer of ``advise``: importance with its range and method, gaps of the front, points to try next."""
    rows = [] if mattered is None else mattered.to_dict("records")
    return {
        "answer": "advise",
        "version": VERSION,
        **about(df),
        "importance": [{k: plain(v) for k, v in row.items()} for row in rows],
        "importance_unknown": why or None,
        "gaps": [{k: plain(v) for k, v in vars(gap).items()} for gap in found.gaps],
        "points": [{k: plain(v) for k, v in point.items()} for point in found.points],
        "written": path,
    }


def register(df: pd.DataFrame, choice: Choice, registered: Registered) -> dict[str, Any]:
    """Answer of ``register``: the registered model's name, version and alias, and where it comes from."""
    return {
        "answer": "register",
        "version": VERSION,
        **about(df),
        "trial": choice.trial,
        "reason": choice.reason,
        "model": registered.name,
        "model_version": registered.version,
        "alias": registered.alias,
        "uri": registered.uri,
        "model_id": registered.model_id,
        "new": registered.new,
        "moved_from": registered.moved_from or None,
    }
