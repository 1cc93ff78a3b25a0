"""The sweep's single source of truth: which trials exist, what they are and how they ended.

An Optuna study on a journal file, or in a database (``optuna-dashboard`` opens both); baselines and confirm runs live
in sibling studies of the same storage. A trial enters with its whole config in one line of the journal, so a killed
driver never leaves half a trial. Only the driver that holds the run lock writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from gcp_core.config import TrialConfig
from gcp_core.schema import STATUSES, Kind
from sweeps.records.continued import PART, Continued
from sweeps.records.database import open_storage, study_name
from sweeps.records.folder import existing_entry
from sweeps.records.job import Job, Outcome, Record, Snap, trial_id
from sweeps.records.journal import WholeLines
from sweeps.records.layout import JOURNAL
from sweeps.records.studies import Sibling, quiet_optuna
from sweeps.records.tenure import Tenure

_log = logging.getLogger(__name__)
_CONFIG, _POINT, _KEY = "config", "point", "key"
_STATUS, _FINALS, _ERROR, _SECONDS = "status", "finals", "error", "seconds"
_WEIGHTS, _PROVENANCE = "weights_sha256", "provenance"
_NAME, _TRIAL, _SNAP, _VIOLATIONS = "model", "trial", "snapshot", "violations"
#: What is known of a path that rests; why it ended; what was decided at a snapshot (followed by its number), and the
#: snapshot itself while it waits for its baseline (paths that rested had a list of these before, without numbers).
_RESTS, _ENDED, _DECISION, _WAITS, _UNJUDGED = "rests", "ended", "decision@", "unjudged@", "unjudged"


@dataclass(frozen=True)
class SnapshotRecord:
    """A snapshot in the ledger. ``values`` are the objectives, None where they are not finite."""

    trial_id: str
    snap: Snap
    values: tuple[float, ...] | None
    violations: dict[str, float]


class Ledger:
    """The studies of a sweep's folder (trials, baselines, confirm runs), created where they are missing; paths have one
    more, of their snapshots.

    Whoever wants to write holds the run lock and has repaired the journal. ``journal`` is for readers that look at a copy
    (:func:`reading`); ``url`` names a database to use instead of a journal, in which ``sweep_id`` tells sweeps of
    equal names apart. Nothing is written after ``tenure`` has ended: Displaced is raised. With ``reading`` nothing is
    created: a study that is not there yet has no records.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        objectives: Mapping[str, str],
        journal: Path | None = None,
        url: str | None = None,
        sweep_id: str = "",
        tenure: Tenure | None = None,
        reading: bool = False,
    ) -> None:
        self.folder = folder
        self.tenure = tenure or Tenure()
        self._together: Callable[[], AbstractContextManager[None]]
        with quiet_optuna():
            if url is None:
                # The path must be absolute: with a relative one Optuna waits for ever behind a stale lock.
                backend = WholeLines(str(journal or folder.absolute() / JOURNAL))
                storage: BaseStorage = JournalStorage(backend)
                self._together = backend.together
            else:
                storage, name = open_storage(url), study_name(name, sweep_id)
                self._together = contextlib.nullcontext
            self._studies = {
                "trial": Sibling(storage, name, objectives),
                "baseline": Sibling(storage, f"{name}/baselines", {"val_accuracy": "max"}),
                "confirm": Sibling(storage, f"{name}/confirm", objectives),
            }
            for study in () if reading else self._studies.values():
                study.made()
        self._snapshots = Sibling(storage, f"{name}/snapshots", objectives)
        self._continued = Continued(Sibling(storage, f"{name}/continued", objectives))
        self._names: set[str] | None = None
        self._numbers: dict[Kind, int] = {}

    def add(
        self,
        kind: Kind,
        config: TrialConfig,
        point: dict[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> Job:
        """Enter a new running trial; durable when this returns. The number is the next one of its study."""
        self.tenure.check()
        study = self._study(kind)
        if kind not in self._numbers:
            self._numbers[kind] = len(study.get_trials(deepcopy=False))
        number = self._numbers[kind]
        attributes = {_CONFIG: config.to_dict(), _POINT: point, _KEY: config.key(), _STATUS: "running"}
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=encode_point(point, distributions),
                distributions=dict(distributions),
                user_attrs=attributes,
            )
        )
        self._numbers[kind] = number + 1
        return self._job(kind, number, config, point)

    def close(
        self,
        job: Job,
        outcome: Outcome,
        values: tuple[float, ...] | None = None,
        violations: Mapping[str, float] | None = None,
    ) -> None:
        """Enter the end of a trial: first what is known about it, then, as the last line, that it is over."""
        self.tenure.check()
        with self._together(), quiet_optuna():
            self._close(job, outcome, values, violations or {})

    def _close(
        self, job: Job, outcome: Outcome, values: tuple[float, ...] | None, violations: Mapping[str, float]
    ) -> None:
        study, frozen, trial = self._open(job)
        before = frozen.user_attrs.get(_RESTS, {}).get(_SECONDS, 0.0)
        trial.set_user_attr(_STATUS, outcome.status)
        trial.set_user_attr(_FINALS, outcome.finals)
        trial.set_user_attr(_ERROR, outcome.error)
        trial.set_user_attr(_SECONDS, before + outcome.seconds)
        trial.set_user_attr(_WEIGHTS, outcome.weights_sha256)
        trial.set_user_attr(_PROVENANCE, outcome.provenance)
        if job.config.is_path:
            trial.set_user_attr(_ENDED, outcome.ended)  # also "": an earlier part may have ended otherwise
        for name, excess in violations.items():
            if name not in frozen.constraints:
                trial.set_constraint(name, excess)
        state = TrialState[STATUSES[outcome.status].optuna]
        if state == TrialState.COMPLETE and values is None:
            state = TrialState.FAIL  # refused before it was trained: there is nothing honest to tell
        study.tell(frozen.number, values=values if state == TrialState.COMPLETE else None, state=state)

    def pause(self, job: Job, outcome: Outcome) -> None:
        """Enter that a path rests; its trial stays open."""
        self.tenure.check()
        _, frozen, trial = self._open(job)
        seconds = frozen.user_attrs.get(_RESTS, {}).get(_SECONDS, 0.0) + outcome.seconds
        known = {
            _FINALS: outcome.finals,
            _SECONDS: seconds,
            _WEIGHTS: outcome.weights_sha256,
            _PROVENANCE: outcome.provenance,
        }
        with self._together():
            trial.set_user_attr(_RESTS, known)
            trial.set_user_attr(_STATUS, "paused")

    def resume(self, job: Job) -> Job:
        """Record that a path continues, and return the job to run.

        A path that had ended continues as a further part, in a sibling study, because what Optuna was told stays told.
        """
        self.tenure.check()
        _, frozen, trial = self._open(job)
        if not frozen.state.is_finished():
            trial.set_user_attr(_STATUS, "running")
            self.renew(job)
            return job
        part, known = job.part + 1, frozen.user_attrs
        so_far = {name: known[name] for name in (_FINALS, _SECONDS, _WEIGHTS, _PROVENANCE)}
        about = {**known, _STATUS: "running", _CONFIG: job.config.to_dict(), _RESTS: so_far}
        self._continued.add(job.trial_id, part, about)
        return dataclasses.replace(job, part=part)

    def renew(self, job: Job) -> None:
        """Enter how deep an open path goes now: its target or its cap was raised."""
        self.tenure.check()
        _, frozen, trial = self._open(job)
        config = job.config.to_dict()
        if frozen.user_attrs[_CONFIG] != config:
            trial.set_user_attr(_CONFIG, config)

    def decide(self, job: Job, level: int, decision: Mapping[str, Any]) -> None:
        """Record what was decided at a snapshot of an open path, and the numbers behind it."""
        self.tenure.check()
        self._open(job)[2].set_user_attr(f"{_DECISION}{level}", dict(decision))

    def note_unjudged(self, job: Job, snap: Snap) -> None:
        """Keep a snapshot of an open path that waits for its baseline; its entry under its name comes later."""
        self.tenure.check()
        self._open(job)[2].set_user_attr(f"{_WAITS}{snap.level}", snap.to_dict())

    def _open(self, job: Job) -> tuple[optuna.Study, FrozenTrial, optuna.Trial]:
        """The study that holds the job's last part, its entry there, and the handle to write with."""
        study = self._study(job.kind)
        if job.part:
            study, frozen = self._continued.find(job.trial_id, job.part)
        else:  # asking for this one alone: a list of all grows with the sweep
            storage = study._storage
            frozen = storage.get_trial(
                storage.get_trial_id_from_study_id_trial_number(study._study_id, job.number)
            )
        return study, frozen, optuna.trial.Trial(study, frozen._trial_id)

    def add_snapshot(
        self, job: Job, snap: Snap, values: tuple[float, ...] | None, violations: Mapping[str, float]
    ) -> None:
        """Enter a finished snapshot of a path under its name, in one line; one that is there already stays."""
        self.tenure.check()
        name = snap.name(job.trial_id)
        if name in self._snapshot_names():
            return
        about = {_NAME: name, _TRIAL: job.trial_id, _SNAP: snap.to_dict(), _VIOLATIONS: dict(violations)}
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        with quiet_optuna():
            self._snapshots.made().add_trial(
                create_trial(state=state, values=None if values is None else list(values), user_attrs=about)
            )
        self._snapshot_names().add(name)

    def snapshots(self) -> dict[str, list[SnapshotRecord]]:
        """Trial id -> its snapshots by level, as far as they are finished; none that was polished."""
        return self._taken(polished=False)

    def polished(self) -> dict[str, list[SnapshotRecord]]:
        """The same of polished snapshots: models that a user chose, from which neither the search nor paths may learn."""
        return self._taken(polished=True)

    def _taken(self, polished: bool) -> dict[str, list[SnapshotRecord]]:
        study = self._snapshots.there()
        found: dict[str, list[SnapshotRecord]] = {}
        for frozen in study.get_trials(deepcopy=False) if study is not None else ():
            known = frozen.user_attrs
            values = tuple(frozen.values) if frozen.state == TrialState.COMPLETE else None
            record = SnapshotRecord(
                known[_TRIAL], Snap.from_dict(known[_SNAP]), values, dict(known[_VIOLATIONS])
            )
            if bool(record.snap.polish) == polished:
                found.setdefault(record.trial_id, []).append(record)
        return {
            trial: sorted(all_, key=lambda r: (r.snap.level, r.snap.polish)) for trial, all_ in found.items()
        }

    def _snapshot_names(self) -> set[str]:
        if self._names is None:
            study = self._snapshots.there()
            trials = study.get_trials(deepcopy=False) if study is not None else ()
            self._names = {frozen.user_attrs[_NAME] for frozen in trials}
        return self._names

    def records(self, kind: Kind = "trial") -> list[Record]:
        """All records of a kind in the order of their numbers."""
        study, later = self._studies[kind].there(), self._continued.latest()
        trials = study.get_trials(deepcopy=False) if study is not None else ()
        return [self._record(kind, frozen, later) for frozen in trials]

    def _record(self, kind: Kind, first: FrozenTrial, later: Mapping[str, FrozenTrial]) -> Record:
        """``later``: trial id -> the last part of a path that was taken up again after its end."""
        frozen = later.get(trial_id(kind, first.number), first)
        known = frozen.user_attrs
        config = TrialConfig.from_dict(known[_CONFIG])
        running = frozen.state in (TrialState.RUNNING, TrialState.WAITING)
        status = known[_STATUS]
        if running:  # a killed driver may have written how it ends, and not that it has ended
            status = "paused" if status == "paused" else "running"
            known = {**known, **known.get(_RESTS, {})}
        job = self._job(kind, first.number, config, known[_POINT])
        return Record(
            job=dataclasses.replace(job, part=known.get(PART, 0)),
            key=known[_KEY],
            status=status,
            finals=dict(known.get(_FINALS, {})),
            error=known.get(_ERROR, ""),
            seconds=known.get(_SECONDS, 0.0),
            values=tuple(frozen.values) if frozen.state == TrialState.COMPLETE else None,
            violations={} if running else dict(frozen.constraints),
            weights_sha256=known.get(_WEIGHTS, ""),
            provenance=dict(known.get(_PROVENANCE, {})),
            unjudged=_unjudged(known),
            started_ms=_ms(first.datetime_start),
            ended_ms=_ms(frozen.datetime_complete),
            ended=known.get(_ENDED, ""),
            decisions={
                int(name.removeprefix(_DECISION)): value
                for name, value in known.items()
                if name.startswith(_DECISION)
            },
        )

    def _job(self, kind: Kind, number: int, config: TrialConfig, point: dict[str, Any]) -> Job:
        name = trial_id(kind, number)
        return Job(name, kind, number, config, point, str(self.folder.absolute() / "trials" / name))

    def _study(self, kind: Kind) -> optuna.Study:
        return self._studies[kind].made()


def read_snapshots(
    folder: Path, name: str, objectives: Mapping[str, str], url: str | None = None
) -> dict[str, list[SnapshotRecord]]:
    """As :func:`reading`, the snapshots of a sweep's paths: trial id -> its snapshots by level."""
    with reading(folder, name, objectives, url) as ledger:
        return ledger.snapshots()


def read_records(
    folder: Path,
    name: str,
    objectives: Mapping[str, str],
    kinds: Sequence[Kind] = ("trial", "baseline"),
    url: str | None = None,
) -> tuple[list[Record], ...]:
    """As :func:`reading`, the records of each kind."""
    with reading(folder, name, objectives, url) as ledger:
        return tuple(ledger.records(kind) for kind in kinds)


@contextlib.contextmanager
def reading(
    folder: Path, name: str, objectives: Mapping[str, str], url: str | None = None
) -> Iterator[Ledger]:
    """The ledger of a sweep that another process may be writing: a copy of the whole lines, not to be written to."""
    if url is not None:
        yield Ledger(folder, name, objectives, url=url, sweep_id=existing_entry(folder).id, reading=True)
        return
    path = folder / JOURNAL
    whole = path.read_bytes() if path.exists() else b""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / JOURNAL
        copy.write_bytes(whole[: whole.rfind(b"\n") + 1])
        yield Ledger(folder, name, objectives, journal=copy, reading=True)


def _unjudged(known: Mapping[str, Any]) -> tuple[Snap, ...]:
    noted = [value for name, value in known.items() if name.startswith(_WAITS)]
    return tuple(map(Snap.from_dict, [*known.get(_UNJUDGED, ()), *noted]))


def _ms(moment: datetime | None) -> int:
    """Optuna's times are local ones without a zone, which is how ``timestamp`` reads them."""
    return 0 if moment is None else int(moment.timestamp() * 1000)


def encode_point(point: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """The point in Optuna's terms: a choice that is a list or mapping is its JSON text."""
    return {name: encode(point[name]) for name in distributions}


def encode(value: Any) -> Any:
    """A value Optuna can hold as a category or number."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (list, dict)) else value
