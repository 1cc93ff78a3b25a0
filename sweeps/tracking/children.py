"""What MLflow already has of a sweep: the parent run, and one child per trial. ``client`` is an MlflowClient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcp_core.redaction import clean
from gcp_core.schema import STATUSES, Tag
from sweeps.config.reading import flatten
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Record, read_outcome, read_rest
from sweeps.tracking.refusals import Refusals

if TYPE_CHECKING:
    from mlflow.entities import Param

#: MLflow takes so many parameters at once, so a run that was left half described has a multiple of it.
_PARAMS_AT_ONCE = 100


@dataclass(frozen=True)
class SweepRun:
    """The parent run: where it is and what it is called.

    ``views``: title -> address below the MLflow UI's own, of the views that are kept with the experiment.
    """

    sweep_id: str
    name: str
    uri: str
    experiment: str
    experiment_id: str
    run_id: str
    views: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Child:
    """What is known of a trial's run in MLflow.

    Attributes:
        status: MLflow's own word, such as FINISHED.
        epochs: that are there; of a finished run they are not known.
        finals: final values by short name, the latest ones of a path that continued.
        said: the tag ``status``, such as paused.
        dropped: whether its weights were dropped while the sweep ran.
        described: whether its parameters are there.
        erred: whether it has an error; that of a path that continued is not true any more.
    """

    run_id: str
    status: str
    epochs: set[int] = field(default_factory=set)
    finals: dict[str, float] = field(default_factory=dict)
    said: str = ""
    dropped: bool = False
    described: bool = False
    erred: bool = False

    def lacks(self, record: Record) -> bool:
        """Whether it does not say what a trial was, or how one that has ended, or a path that rests, stands."""
        stands = self.status == STATUSES[record.status].mlflow and self.said in ("", record.status)
        if not (self.described and stands):
            return True
        path, epochs = record.job.config.is_path, record.finals.get("epochs")
        return path and epochs is not None and self.finals.get("epochs") != epochs


def children_of(client: Any, run: SweepRun, more: str = "") -> dict[str, Child]:
    """The sweep's children by trial id. Of two runs of one trial (a creation whose answer was lost) the emptier goes."""
    return runs_by(
        client, run.experiment_id, f"tags.`{Tag.PARENT}` = '{run.run_id}'{more}", Tag.TRIAL_ID, epochs=True
    )


def runs_by(client: Any, experiment_id: str, query: str, tag: str, epochs: bool = False) -> dict[str, Child]:
    """The runs that a query finds, by the value of a tag; of two with one value the emptier goes.

    ``epochs``: also which epochs of those that are not finished are there.
    """
    found: dict[str, Any] = {}
    token: str | None = None
    while token != "":
        page = client.search_runs([experiment_id], query, max_results=1000, page_token=token)
        for child in page:
            name = child.data.tags.get(tag, child.info.run_id)
            other = found.setdefault(name, child)
            if other is not child:
                emptier, found[name] = sorted((other, child), key=_fullness)
                client.delete_run(emptier.info.run_id)
        token = page.token or ""
    return {name: _known(client, child, epochs) for name, child in found.items()}


def _fullness(run: Any) -> int:
    return len(run.data.metrics) + len(run.data.params) + len(run.data.tags)


def _known(client: Any, run: Any, epochs: bool) -> Child:
    """What a run in MLflow holds already."""
    metrics, tags = run.data.metrics, run.data.tags
    finals = {key.removeprefix("final/"): value for key, value in metrics.items() if key.startswith("final/")}
    said, dropped = tags.get(Tag.STATUS, ""), Tag.DROPPED in tags
    child = Child(run.info.run_id, run.info.status, finals=finals, said=said, dropped=dropped)
    child.described, child.erred = is_described(run), bool(tags.get(Tag.ERROR))
    if epochs and child.status != "FINISHED":
        child.epochs = epochs_of(client, child.run_id)
    return child


def epochs_of(client: Any, run_id: str) -> set[int]:
    """The epochs of a trial that MLflow holds."""
    return {metric.step for metric in client.get_metric_history(run_id, "val/accuracy")}


def is_described(run: Any) -> bool:
    """Whether a run in MLflow has its parameters. They come after the run: what fails between the two leaves it bare."""
    return len(run.data.params) % _PARAMS_AT_ONCE != 0


def describe(client: Any, child: Child, job: Job, refusals: Refusals) -> None:
    """Give a trial's run, or a snapshot's, its parameters where it has none yet; if refused, nobody asks again."""
    if not child.described:
        with refusals:
            client.log_batch(child.run_id, params=params_of(job.config.to_dict()))
        child.described = True


def ended(record: Record) -> Outcome:
    """How a trial ended, as the ledger and the trial's folder know it."""
    outcome = read_outcome(record.job.folder, record.job.part)
    return Outcome(
        record.status,
        record.finals,
        outcome.history if outcome is not None else spool.rows(Path(record.job.folder)),
        record.error,
        record.seconds,
        record.weights_sha256,
        record.provenance,
        ended=record.ended or ("paused" if record.status == "paused" else ""),
        decision=record.decision,
    )


def why_rests(job: Job, outcome: Outcome) -> str:
    """Why the driver let a path rest or end, in one sentence; empty where it had no part in it."""
    if outcome.decision or outcome.ended not in ("paused", "constraint"):
        return outcome.decision
    word = read_rest(job.folder)
    return word.reason if word is not None and word.rest else ""


def params_of(config: Mapping[str, Any]) -> list[Param]:
    """A config as MLflow's parameters, by dotted path."""
    from mlflow.entities import Param

    return [Param(path, as_param(value)) for path, value in flatten(config).items()]


def as_param(value: Any) -> str:
    """A config value as MLflow keeps it: text as it is, everything else as JSON (``null``, ``0.1``, ``[]``)."""
    return clean(value) if isinstance(value, str) else json.dumps(clean(value), sort_keys=True)
