"""What is run (a job) and its result (an outcome): the records that pass between driver, ledger and workers."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gcp_core.config import TrialConfig
from gcp_core.errors import GcpError
from gcp_core.redaction import redact
from gcp_core.schema import STATUSES, Kind, model_id
from sweeps.records.disk import write_whole
from sweeps.records.layout import OUTCOME_FILE, REST_FILE, STOP_FILE

_PREFIX: dict[str, str] = {"trial": "t", "baseline": "b", "confirm": "c"}


def trial_id(kind: Kind, number: int) -> str:
    """``t0007``: the name of a trial everywhere (ledger number, folder, MLflow run name)."""
    return f"{_PREFIX[kind]}{number:04d}"


@dataclass(frozen=True)
class Job:
    """One training run to be done. ``point`` holds the searched values only; ``folder`` is its own, absolute.

    ``part`` counts how often a path was taken up again after its end (its target was raised, for instance).
    """

    trial_id: str
    kind: Kind
    number: int
    config: TrialConfig
    point: dict[str, Any]
    folder: str
    part: int = 0

    @functools.cached_property
    def baseline_key(self) -> str:
        """Names the unpruned twin this job is compared with."""
        return self.config.baseline().key()

    def to_json(self) -> str:
        """One line of JSON; inverse of :meth:`from_json`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({**values, "config": self.config.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        return cls(**{**values, "config": TrialConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class Snap:
    """A path's snapshot, as it passes between worker, driver and ledger (``gcp_core.records.results.Snapshot``).

    ``status`` is ``complete``, or ``infeasible`` where it violates a constraint. ``polish`` is for how many epochs it was
    polished, 0 = not, ``provenance`` what it was polished with: the trial's own is not that.
    """

    level: int
    epoch: int
    finals: dict[str, float]
    weights_sha256: str = ""
    status: str = "complete"
    polish: int = 0
    provenance: dict[str, str] = field(default_factory=dict)

    def name(self, trial_id: str) -> str:
        """``t0007@3``, or ``t0007@3+30`` polished."""
        return model_id(trial_id, self.level, self.polish)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; NaN and infinities survive as text."""
        values = dataclasses.asdict(self)
        extra = ("polish", "provenance")
        return _writable({name: value for name, value in values.items() if value or name not in extra})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Snap:
        return cls(**{**values, "finals": _numbers(values["finals"])})


#: A path that ended or rests for one of these reasons may continue from its last state.
GOES_ON = ("target", "cap", "paused")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: one of ``gcp_core.schema.STATUSES``.
        finals: final values by short name (empty unless the training reached its end).
        history: per epoch: ``{"epoch": e, <MLflow key>: value, ...}``.
        error: one sentence, empty if nothing went wrong.
        seconds: wall time of the run that ended it.
        weights_sha256: of the final weights, empty if there are none.
        provenance: of the process that ended it (``sweeps.records.provenance``).
        snapshots: of a path, all of them.
        ended: of a path, why it ended or rests (``gcp_core.records.results.ENDS``, ``"constraint"``); "" if not known.
        part: of the job that it is the end of.
        decision: of a path that the driver let rest or end: why, in one sentence.
    """

    status: str
    finals: dict[str, float] = field(default_factory=dict)
    history: tuple[dict[str, float], ...] = ()
    error: str = ""
    seconds: float = 0.0
    weights_sha256: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    snapshots: tuple[Snap, ...] = ()
    ended: str = ""
    part: int = 0
    decision: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise GcpError(f"{self.status!r} is not a status", "outcome")
        object.__setattr__(self, "history", tuple(self.history))
        object.__setattr__(self, "snapshots", tuple(self.snapshots))
        object.__setattr__(self, "error", redact(self.error))  # it is shown, logged and kept in many places

    @property
    def reopens(self) -> bool:
        """Whether it is the end of a path that a raised target or cap, or a sweep that is asked for more, may undo."""
        return _reopens(self.status, self.ended)

    @property
    def last_epoch(self) -> int:
        """The last epoch with a report, 0 if there is none."""
        return max((int(row["epoch"]) for row in self.history), default=0)

    def to_json(self) -> str:
        """One line of JSON; NaN and infinities survive as text."""
        return json.dumps(_writable(dataclasses.asdict(self)), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        values = json.loads(text)
        values["finals"] = _numbers(values["finals"])
        values["history"] = tuple(_numbers(row) for row in values["history"])
        values["snapshots"] = tuple(map(Snap.from_dict, values.get("snapshots", ())))
        return cls(**values)


def write_outcome(folder: str | os.PathLike[str], outcome: Outcome) -> None:
    """Put the outcome into the job's folder in one step: a reader sees all of it or nothing."""
    write_whole(Path(folder) / OUTCOME_FILE, outcome.to_json() + "\n")


def read_outcome(folder: str | os.PathLike[str], part: int = 0) -> Outcome | None:
    """The outcome in a job's folder, None if the job has not ended (or its record is unreadable).

    An outcome of an earlier part of a path is none: the path was taken up again since.
    """
    try:
        outcome = Outcome.from_json((Path(folder) / OUTCOME_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return outcome if outcome.part >= part else None


@dataclass(frozen=True)
class Stop:
    """The driver's decision that a running trial should end early.

    Attributes:
        reason: one sentence.
        violations: constraint -> how far it will be exceeded at least, in the value's unit; empty if none will.
    """

    reason: str
    violations: dict[str, float] = field(default_factory=dict)


def write_stop(folder: str | os.PathLike[str], stop: Stop) -> None:
    """Write the decision to the trial's folder, where the trial looks after every epoch; it outlives the driver."""
    _leave(Path(folder) / STOP_FILE, stop)


def read_stop(folder: str | os.PathLike[str]) -> Stop | None:
    """The decision in a trial's folder, None if there is none."""
    return _find(Path(folder) / STOP_FILE, Stop)


@dataclass(frozen=True)
class Rest:
    """The driver's decision about a path's snapshot, written to the path's folder.

    Attributes:
        level: of the snapshot that it is about; it says nothing about any other.
        rest: the path should end its process there, to continue later or not at all. False takes an earlier word back.
        reason: one sentence.
        over: it should not continue later.
    """

    level: int
    rest: bool
    reason: str = ""
    over: bool = False


def write_rest(folder: str | os.PathLike[str], word: Rest) -> None:
    """Write the decision to where the path looks after every snapshot; it outlives the driver."""
    _leave(Path(folder) / REST_FILE, word)


def read_rest(folder: str | os.PathLike[str]) -> Rest | None:
    """The decision in a path's folder, None if there is none."""
    return _find(Path(folder) / REST_FILE, Rest)


_Word = TypeVar("_Word", Stop, Rest)


def _leave(file: Path, word: Stop | Rest) -> None:
    write_whole(file, json.dumps(dataclasses.asdict(word), sort_keys=True) + "\n")


def _find(file: Path, kind: type[_Word]) -> _Word | None:
    try:
        return kind(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _reopens(status: str, ended: str) -> bool:
    return status in ("complete", "infeasible") and ended in GOES_ON


def _writable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(item) for item in value]
    return value


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) if isinstance(value, str) else value for key, value in row.items()}


@dataclass(frozen=True)
class Record:
    """One line of the ledger. ``values`` are the objectives, ``violations`` the constraints (<= 0 is kept).

    ``weights_sha256`` and ``provenance`` (what it was trained with) are what ``gcp-sweep replay`` compares with.
    ``started_ms`` and ``ended_ms``: when it was entered and closed, in milliseconds since 1970 (0 = not closed yet).
    ``ended``: of a path, why it ended; ``decisions``: number of a snapshot -> what was decided there, and why;
    ``unjudged``: snapshots of a path that had to wait for their baseline; those that it came for are in the ledger too.
    """

    job: Job
    key: str
    status: str
    finals: dict[str, float]
    error: str
    seconds: float
    values: tuple[float, ...] | None
    violations: dict[str, float]
    weights_sha256: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    started_ms: int = 0
    ended_ms: int = 0
    ended: str = ""
    decisions: dict[int, dict[str, Any]] = field(default_factory=dict)
    unjudged: tuple[Snap, ...] = ()

    @property
    def decision(self) -> str:
        """Why the driver let a path rest or end, in one sentence; empty = the driver did not decide it."""
        if not self.decisions or not (self.status == "paused" or self.ended in ("paused", "constraint")):
            return ""
        return str(self.decisions[max(self.decisions)].get("reason", ""))

    @property
    def finished(self) -> bool:
        """Whether the trial has come to any end; a path that rests has not."""
        return self.status not in ("running", "paused")

    @property
    def reopens(self) -> bool:
        """As :attr:`Outcome.reopens`."""
        return _reopens(self.status, self.ended)
