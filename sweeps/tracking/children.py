"""What MLflow already holds of a sweep: the parent run, and one child per trial. ``client`` is an MlflowClient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    query = f"tags.`{Tag.PARENT}` = '{run.run_id}'{more}"
    found: dict[str, Any] = {}
    token: str | None = None
    while token != "":
        page = client.search_runs([run.experiment_id], query, max_results=1000, page_token=token)
        for child in page:
            name = child.data.tags.get(Tag.TRIAL_ID, child.info.run_id)
            other = found.setdefault(name, child)
            if other is not child:
                emptier, found[name] = sorted((other, child), key=_fullness)
                client.delete_run(emptier.info.run_id)
        token = page.token or ""
    return {name: _known(client, child) for name, child in found.items()}


def _fullness(run: Any) -> int:
    return len(run.data.metrics) + len(run.data.params) + len(run.data.tags)


def _known(client: Any, run: Any) -> Child:
    """What a run in MLflow holds already."""
    finals = {key.removeprefix("final/") for key in run.data.metrics if key.startswith("final/")}
    child = Child(run.info.run_id, run.info.status, finals=frozenset(finals))
    if child.status != "FINISHED":
        points = client.get_metric_history(child.run_id, "val/accuracy")
        child.epochs = {metric.step for metric in points}
    return child
