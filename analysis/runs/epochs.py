"""Accuracy and cost after every epoch of a trial: the course of its training, with its pruning events.

From what the trial reported into the sweep's folder, else from the manifest of its last model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.errors import Unreachable
from analysis.plain import plain
from analysis.runs.artifacts import folder_of, sweep_of
from analysis.runs.models import one_per_trial
from analysis.runs.widths import manifest_of
from gcp_core.errors import GcpError
from gcp_core.schema import ARTIFACT_EPOCHS, PER_EPOCH

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_KEYS = {quantity.name: key for key, quantity in PER_EPOCH.items()}


@dataclass(frozen=True)
class Course:
    """One trial's training, epoch by epoch.

    Attributes:
        sweep, trial, kind: whose it is.
        epochs: 1-based, rising; the other lists are as long.
        accuracy: validation accuracy after the epoch, per cent; None where it was not measured.
        macs: of the model as it was in the epoch.
    """

    sweep: str
    trial: str
    kind: str
    epochs: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    macs: tuple[float | None, ...]


def courses(df: pd.DataFrame, most: int = 200) -> list[Course]:
    """The courses of at most ``most`` trials and baselines of a table, in its order; those that left none are missing.

    Args:
        most: trials that are read; the others do not appear.
    """
    rows = one_per_trial(df[df["kind"].isin(["trial", "baseline"])])
    found: list[Course] = []
    away = False
    for _, row in rows.head(most).iterrows():
        history = _reported(df, row)
        if not history and not away:
            try:
                history = _in_manifest(manifest_of(df, row))
            except Unreachable as exc:  # each further question would wait for as long
                log.warning("courses of training that the sweep's folder does not have are left out: %s", exc)
                away = True
            except GcpError:
                pass
        if history:
            found.append(_course(row, history))
    return found


def _course(row: pd.Series, history: Mapping[int, Mapping[str, Any]]) -> Course:
    epochs = tuple(sorted(history))
    values = {
        name: tuple(plain(_number(history[epoch].get(_KEYS[name]))) for epoch in epochs)
        for name in ("val_accuracy", "macs")
    }
    return Course(
        str(row["sweep"]), str(row["trial"]), str(row["kind"]), epochs, values["val_accuracy"], values["macs"]
    )


def _reported(df: pd.DataFrame, row: pd.Series) -> dict[int, Mapping[str, Any]]:
    """Epoch -> metrics from the trial's folder; an epoch that was trained again counts as it was the last time."""
    folder = folder_of(sweep_of(df, row))
    if folder is None:
        return {}
    file = folder / "trials" / str(row["trial"]) / ARTIFACT_EPOCHS
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return _by_epoch(_parsed(lines))


def _parsed(lines: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    """The objects of the lines; the last line of a trial that runs may be half a one."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _in_manifest(manifest: dict[str, Any] | None) -> dict[int, Mapping[str, Any]]:
    entries = (manifest or {}).get("history") or []
    return _by_epoch(
        {"epoch": e.get("epoch"), **(e.get("metrics") or {})} for e in entries if isinstance(e, dict)
    )


def _by_epoch(entries: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {int(e["epoch"]): e for e in entries if isinstance(e.get("epoch"), (int, float))}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
