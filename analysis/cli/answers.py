"""What each command says in ``--json`` (schemas: docs/schemas): plain values, NaN as null, one place per
shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.choose import constraints as hard
from analysis.plain import plain, plain_trials
from analysis.runs import table
from gcp_core.redaction import clean

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.advice import Advice
    from analysis.choose.constraints import Constraint
    from analysis.choose.select import Choice
    from analysis.errors import NothingFeasible
    from analysis.evidence.compare import Comparison
    from analysis.evidence.permutation import Test
    from analysis.front.pareto import Hypervolume
    from analysis.ship.export import Exported
    from analysis.ship.register import Registered
    from analysis.show.compare_page import ComparedFiles
    from analysis.show.publish import Published
    from analysis.show.report import Written

#: Raised when the meaning of an answer changes.
VERSION = 1


def about(df: pd.DataFrame) -> dict[str, Any]:
    """Which sweeps an answer rests on, what was counted and what was left out."""
    keys = ("id", "name", "tracking_uri", "parent_run_id", "folder", "running")
    return {
        "sweeps": [clean({k: entry[k] for k in keys if k in entry}) for entry in df.attrs["sweeps"]],
        "counts": table.counts(df),
        "left_out": df.attrs["left_out"],
    }


def front(
    df: pd.DataFrame,
    rows: pd.DataFrame,
    objectives: Mapping[str, str],
    volume: Hypervolume,
    scale: str,
    from_chance: float | None,
    noise: dict[str, Any],
    near_ties: dict[str, str],
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
        "front": plain_trials(rows, config),
        "near_ties": near_ties,
        "baselines": plain_trials(df[df["kind"] == "baseline"], config),
        "hypervolume": {
            "value": volume.value,
            "cut": volume.cut,
            "points": volume.points,
            "anchors": scale,
            "from_chance": from_chance,
        },
        "noise": noise,
    }


def select(df: pd.DataFrame, choice: Choice, polish: str | None = None) -> dict[str, Any]:
    """Answer of ``select``: the chosen trial(s), the runners-up and the reason; ``polish``: the command, if asked for."""
    config = table.config_columns(df)
    return {
        "answer": "select",
        "version": VERSION,
        **about(df),
        "constraints": list(choice.constraints),
        "considered": choice.considered,
        "feasible": choice.feasible,
        "chosen": plain_trials(choice.rows, config),
        "runners_up": plain_trials(choice.runners_up, config),
        "ties": list(choice.ties),
        "reason": choice.reason,
        "polish": polish,
    }


def nothing(error: NothingFeasible) -> dict[str, Any]:
    """Answer when no trial is left (exit code 3): what each constraint alone removed and the nearest miss."""
    return {
        "answer": "nothing_feasible",
        "version": VERSION,
        "message": str(error),
        "removals": [{k: plain(v) for k, v in dataclasses.asdict(r).items()} for r in error.removals],
    }


def report(
    df: pd.DataFrame, constraints: Sequence[Constraint], written: Written, published: Published | None
) -> dict[str, Any]:
    """Answer of ``report``: the limits that were drawn, the files, and what was written into MLflow (None if nothing
    was).
    """
    rows = df[df["candidate"]]
    return {
        "answer": "report",
        "version": VERSION,
        **about(df),
        "constraints": [str(c) for c in constraints],
        "feasible": int(hard.feasible(rows, constraints).sum()) if len(rows) else 0,
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
        "model": exported.model,
        "trial": choice.trial,
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
        "limit": plain(found.limit),
        "partly_charged": found.partly_charged,
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
        "source": choice.model,
        "reason": choice.reason,
        "model": registered.name,
        "model_version": registered.version,
        "alias": registered.alias,
        "uri": registered.uri,
        "model_id": registered.model_id,
        "new": registered.new,
        "moved_from": registered.moved_from or None,
    }
