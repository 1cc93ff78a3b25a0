"""What MLflow already holds of a sweep: the parent run, and one child per trial. ``client`` is an MlflowClient."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from gcp_core.redaction import clean
from gcp_core.schema import Tag


@dataclass(frozen=True)
class SweepRun:
    """The parent run: where it is and what it is called."""

    sweep_id: str
    name: str
    uri: str
    experiment: str
    experiment_id: str
    run_id: str


@dataclass
class Child:
    """What is known of a trial's run in MLflow."""

    run_id: str
    status: str
    epochs: set[int] = field(default_factory=set)
    finals: frozenset[str] = frozenset()


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
    finals = {key.removeprefix("final/") for key in run.data.metrics if key.startswith("final/")}
    child = Child(run.info.run_id, run.info.status, finals=frozenset(finals))
    if epochs and child.status != "FINISHED":
        points = client.get_metric_history(child.run_id, "val/accuracy")
        child.epochs = {metric.step for metric in points}
    return child


def as_param(value: Any) -> str:
    """A config value as MLflow keeps it: text as it is, everything else as JSON (``null``, ``0.1``, ``[]``)."""
    return clean(value) if isinstance(value, str) else json.dumps(clean(value), sort_keys=True)
