"""How far a sweep is, read from its folder alone."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.show.terminal import as_text, facts
from gcp_core.schema import ARTIFACT_LOG, ARTIFACT_TRACEBACK, model_id
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver.progress import duration
from sweeps.records.folder import Entry, existing_entry
from sweeps.records.job import Record
from sweeps.records.layout import ENTRY, JOURNAL, trial_path
from sweeps.records.ledger import SnapshotRecord
from sweeps.storage.following import Following
from sweeps.storage.lock import RUN_LOCK, TRIAL_LOCK
from sweeps.storage.place import open_sweep

#: So many resting paths are listed for people.
_SHOWN = 12
#: A running sweep whose files have not changed for so long says so. Clocks may be minutes apart.
SILENT_S = 900.0
#: Ends without a usable result.
BAD = ("failed", "lost", "diverged", "infeasible")


@dataclass(frozen=True)
class Failure:
    """A trial that cannot be on the front, and where to read why."""

    trial_id: str
    status: str
    error: str
    log: str


@dataclass(frozen=True)
class Resting:
    """A path that rests: at which of its models, why in a sentence ("" = not recorded), and the numbers behind it."""

    trial_id: str
    model: str
    reason: str
    decision: dict[str, Any]

    @property
    def said(self) -> str:
        """After which of its models it waits, and why, in a sentence; what was promised when that was decided."""
        promise, other = self.decision.get("promise"), self.decision.get("other")
        if not promise:
            why = self.reason.removeprefix(f"{self.model}: ") or "no reason is recorded"
            return f"waits after {self.model}: {why}"
        said = f"continuing promised {_rate(promise)} points of hypervolume per dense epoch"
        if other:
            said += f", {self.decision.get('other_name') or 'something else'} {_rate(other)}"
        _, found, limit = self.reason.partition("; ")
        return f"waits after {self.model}: {said}{found}{limit}"


@dataclass(frozen=True)
class SweepStatus:
    """What ``gcp-sweep status`` shows.

    ``statuses`` counts trials as the ledger has them, baselines and ``confirmations`` (runs on fresh seeds) apart;
    ``message`` says why the sweep ended as it did; ``hours`` is the time for which drivers ran trials; ``paused`` are the
    paths that rest now; ``continue_with`` is the command that continues a sweep that is neither running nor complete,
    empty where it is not known.
    """

    name: str
    folder: str
    state: str
    trials: int
    planned: int
    statuses: dict[str, int]
    baselines: dict[str, int]
    failures: list[Failure] = field(default_factory=list)
    message: str = ""
    hours: float = 0.0
    paused: list[Resting] = field(default_factory=list)
    continue_with: str = ""
    confirmations: dict[str, int] = field(default_factory=dict)

    def text(self, failed: bool = False) -> str:
        """For people; ``failed`` adds the failures one by one."""
        known = [
            ("folder", self.folder),
            ("trials", f"{self.trials} of {self.planned} ended: {counts_text(self._as_now(self.statuses))}"),
            ("baselines", counts_text(self._as_now(self.baselines))),
            ("time", f"{duration(3600 * self.hours)} of running trials"),
        ]
        if self.confirmations:
            known.insert(3, ("fresh seeds", counts_text(self._as_now(self.confirmations))))
        if self.continue_with:
            known.append(("continue", self.continue_with))
        if self.paused:
            known.append(("paused", f"{len(self.paused)}, each after its last model:"))
        lines = [
            f"{self.name}: {self.state}{f' ({self.message})' if self.message else ''}",
            as_text(facts(known)),
            *(f"    {one.said}" for one in self.paused[:_SHOWN]),
        ]
        if len(self.paused) > _SHOWN:
            lines.append(f"    and {len(self.paused) - _SHOWN} more: --json lists all of them")
        if failed:
            lines += [f"  {f.trial_id} {f.status}: {f.error}\n    {f.log}" for f in self.failures] or [
                "  none failed"
            ]
        elif self.failures:
            lines.append(f"  {len(self.failures)} without a usable result: add --failed to see why")
        return "\n".join(lines)

    def _as_now(self, statuses: dict[str, int]) -> dict[str, int]:
        """Without a driver nothing runs, whatever the ledger says."""
        if self.state == "running":
            return statuses
        return {{"running": "interrupted"}.get(status, status): n for status, n in statuses.items()}


def counts_text(statuses: dict[str, int]) -> str:
    """``4 complete, 1 running``."""
    return ", ".join(f"{number} {status}" for status, number in sorted(statuses.items())) or "none yet"


def sweep_status(sweep: str | os.PathLike[str]) -> SweepStatus:
    """The status of a sweep; raises ConfigError if there is none."""
    place = open_sweep(sweep)
    folder, config, entry = place.folder, place.config, existing_entry(place.folder)
    with place.reading() as ledger:
        trials, baselines, confirmed = (ledger.records(kind) for kind in ("trial", "baseline", "confirm"))
        rests = any(record.status == "paused" for record in trials)
        paused = resting(trials, ledger.snapshots()) if rests else []
    ended = [record for record in trials if record.finished]
    state, message, continue_with = _standing(folder, config, entry)
    if state == "running" and place.exchange.url is None:  # files that were fetched have other times
        running = [r.job.trial_id for r in (*trials, *baselines, *confirmed) if r.status == "running"]
        message = message or _silence(folder, running)
    return SweepStatus(
        name=entry.name,
        folder=str(folder.absolute()),
        state=state,
        trials=len(ended),
        planned=max(config.num_trials(), len(trials)),
        statuses=_counts(trials, entry),
        baselines=_counts(baselines, entry),
        message=message,
        hours=entry.seconds / 3600,
        confirmations=_counts(confirmed, entry),
        failures=[_failure(record) for record in [*baselines, *trials, *confirmed] if record.status in BAD],
        paused=paused,
        continue_with=continue_with,
    )


def _counts(records: Iterable[Record], entry: Entry) -> dict[str, int]:
    """How many stand how; what the budget of a complete sweep withheld has not even begun."""
    return dict(Counter(record.status for record in records if record.finished or entry.state != "complete"))


def _standing(folder: Path, config: SweepConfig, entry: Entry) -> tuple[str, str, str]:
    """(state, reason, the command that continues it). A sweep whose driver died is still recorded as running."""
    if entry.state == "complete":
        return entry.state, entry.message, ""
    with Following(folder) as following:
        lost = following.lost_driver()
        again = following.continued_by(config, entry.address) if lost or entry.state != "running" else ""
    if entry.state == "running" and lost:
        return "interrupted", f"the driver, {lost}, died", again
    return entry.state, entry.message, again


def _silence(folder: Path, running: Iterable[str]) -> str:
    """That the driver may be gone, if nothing in the folder has changed for long; empty = something has.

    Of a driver on another machine nobody here knows whether it lives. While trials run, their locks carry heartbeats.
    """
    signs = [ENTRY, JOURNAL, RUN_LOCK, *(f"{trial_path(name)}/{TRIAL_LOCK}" for name in running)]
    times = []
    for sign in signs:
        with contextlib.suppress(OSError):  # there is none, or it is being replaced
            times.append((folder / sign).stat().st_mtime)
    silent_s = time.time() - max(times, default=math.inf)
    if silent_s < SILENT_S:
        return ""
    lock = folder / RUN_LOCK
    driver = (lock.read_text(encoding="utf-8", errors="replace") if lock.exists() else "").strip()
    who = f"its driver, {driver}," if driver else "its driver"
    return (
        f"no sign of life for {duration(silent_s)}: {who} may be gone, and then `gcp-sweep run` continues it"
    )


def resting(records: Iterable[Record], taken: Mapping[str, list[SnapshotRecord]]) -> list[Resting]:
    """Those that rest now; ``taken``: trial id -> the snapshots of a path."""
    found = []
    for record in records:
        if record.status != "paused":
            continue
        name, decisions = record.job.trial_id, record.decisions
        levels = [one.snap.level for one in taken.get(name, ())] or list(decisions)
        last = decisions.get(max(decisions), {}) if decisions else {}
        found.append(
            Resting(name, model_id(name, max(levels)) if levels else name, record.decision, dict(last))
        )
    return found


def _rate(promise: Mapping[str, Any]) -> str:
    """Percentage points of hypervolume per dense epoch, with two significant digits."""
    return f"{promise['rate']:.2g}" if promise["rate"] < 100 else f"{promise['rate']:.0f}"


def _failure(record: Record) -> Failure:
    folder = Path(record.job.folder)
    trace = folder / ARTIFACT_TRACEBACK
    log = trace if trace.exists() else folder / ARTIFACT_LOG
    return Failure(record.job.trial_id, record.status, record.error, str(log))
