"""The only reader of MLflow: from a sweep's name or folder to one tidy table.

Nothing heavy is imported until something is read, so that ``gcp-analyze --help`` stays instant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.environment import environment
from analysis.errors import NotBegun, SweepNotFound, Unreachable
from gcp_core.config import CYCLES
from gcp_core.errors import ConfigError, DataError, first_line, shortened
from gcp_core.redaction import redact
from gcp_core.schema import (
    FINALS,
    SCHEMA_VERSION,
    SNAPSHOT,
    Direction,
    Tag,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList
    from mlflow.tracking import MlflowClient

_T = TypeVar("_T")

#: What a sweep looks for unless its config says otherwise.
DEFAULT_OBJECTIVES: dict[str, Direction] = {"val_accuracy": "max", "macs": "min"}

#: Values of at least this magnitude count as missing: MLflow stores an infinity as one.
HUGE = 1e300

_PAGE = 5000
#: Snapshots of so many paths are asked for path by path, of more at once: all that the sweep has. A request takes as
#: long as reading so many runs.
_FEW_PATHS, _RUNS_PER_REQUEST = 20, 100
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class SweepRef:
    """Where a sweep lives. ``folder`` is None if it was found by name; ``parent_run_id`` is its MLflow
    run.
    """

    id: str
    name: str
    tracking_uri: str
    experiment_id: str
    parent_run_id: str
    folder: Path | None
    objectives: dict[str, Direction]
    running: bool = False


def find(sweep: str | Path, *, tracking_uri: str | None = None) -> SweepRef:
    """Locate a sweep by folder, or by name, id or parent run id at ``tracking_uri``."""
    path = Path(sweep)
    if (path / "sweep.json").is_file():
        return _from_folder(path.resolve(), tracking_uri)
    if (path / "run.lock").exists() or (path / "config.yaml").exists():  # its driver writes sweep.json last
        raise NotBegun("has not begun", str(sweep), "wait for its driver, or start it again")
    if tracking_uri is None:
        what = "the folder has no sweep.json" if path.is_dir() else "no such folder"
        raise SweepNotFound(what, str(sweep), "a sweep's folder, or its name with --tracking-uri")
    return _by_name(str(sweep), tracking_uri)


def client_for(tracking_uri: str) -> MlflowClient:
    """A client for one store; unlike ``mlflow.set_tracking_uri`` it changes nothing for anybody else."""
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as exc:
        raise ConfigError("mlflow is not installed", "analysis", 'pip install "gcp-sweep[analysis]"') from exc
    _check_store(tracking_uri)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@contextmanager
def answering(tracking_uri: str) -> Iterator[None]:
    """Turn what MLflow's client says of a server that is away, or refuses, into one of our errors.

    Raises:
        Unreachable: in place of MLflow's own exception.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as exc:
        raise Unreachable(f"MLflow is away or refuses: {first_line(exc)}", redact(tracking_uri)) from exc


def _check_store(tracking_uri: str) -> None:
    """Opening a SQLite file that does not exist would create an empty store; say so instead."""
    if tracking_uri.startswith(SQLITE):
        file = Path(tracking_uri.removeprefix(SQLITE))
        if not file.is_file():
            hint = (
                "was the sweep's folder moved? if it is lost, `gcp-sweep run` writes it again from the ledger"
            )
            raise SweepNotFound("no such SQLite store", str(file), hint)


def _from_folder(folder: Path, tracking_uri: str | None) -> SweepRef:
    try:
        entry = json.loads((folder / "sweep.json").read_text())
        sweep_id, name, parent = entry["id"], entry["name"], entry["parent_run_id"]
        uri = tracking_uri or entry.get("tracking_uri")
    except (json.JSONDecodeError, KeyError, TypeError) as exc:
        raise DataError(f"not a sweep's description: {exc}", str(folder / "sweep.json")) from exc
    own = folder / "mlflow.db"
    if tracking_uri is None and own.is_file() and (uri is None or uri.startswith("sqlite:")):
        uri = f"sqlite:///{own}"  # right even after the folder was moved
    if uri is None or parent is None:
        raise NotBegun("has not started yet: no tracking store", name)
    run = _parent_run(client_for(uri), parent, name)
    return SweepRef(
        id=sweep_id,
        name=name,
        tracking_uri=uri,
        experiment_id=run.info.experiment_id,
        parent_run_id=parent,
        folder=folder,
        objectives=_objectives(folder / "config.yaml", run),
        running=run.info.status == "RUNNING",
    )


def _parent_run(client: MlflowClient, run_id: str, name: str) -> Run:
    from mlflow.exceptions import MlflowException

    with answering(str(client.tracking_uri)):
        try:
            return client.get_run(run_id)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise SweepNotFound(f"MLflow has no run {run_id}: {first_line(exc)}", name) from exc


def _by_name(name: str, tracking_uri: str) -> SweepRef:
    from mlflow.exceptions import MlflowException

    client = client_for(tracking_uri)
    try:
        parents = list(_sweeps(client))
    except MlflowException as exc:
        raise SweepNotFound(f"cannot read the tracking store: {first_line(exc)}", tracking_uri) from exc
    hits = [
        run
        for run in parents
        if name in (run.info.run_id, run.data.tags.get(Tag.SWEEP_NAME), run.data.tags.get(Tag.SWEEP_ID))
    ]
    if not hits:
        from gcp_core.errors import did_you_mean

        known = {run.data.tags.get(Tag.SWEEP_NAME, "") for run in parents}
        hint = did_you_mean(name, known) if known else "the store holds no sweep"
        raise SweepNotFound(f"no sweep of this name at {tracking_uri}", name, hint)
    if len(hits) > 1:
        ids = ", ".join(run.data.tags.get(Tag.SWEEP_ID, run.info.run_id) for run in hits)
        raise SweepNotFound(f"{len(hits)} sweeps have this name", name, f"give an id instead: {ids}")
    run = hits[0]
    return SweepRef(
        id=run.data.tags.get(Tag.SWEEP_ID, run.info.run_id),
        name=run.data.tags.get(Tag.SWEEP_NAME, name),
        tracking_uri=tracking_uri,
        experiment_id=run.info.experiment_id,
        parent_run_id=run.info.run_id,
        folder=None,
        objectives=_objectives(None, run),
        running=run.info.status == "RUNNING",
    )


def _objectives(config: Path | None, parent: Run) -> dict[str, Direction]:
    """From the sweep's merged config, else from the parent's params ``search.objectives.*``, else the
    default.
    """
    found: dict[str, Any] = {}
    if config is not None and config.is_file():
        import yaml

        merged = yaml.safe_load(config.read_text()) or {}
        found = (merged.get("search") or {}).get("objectives") or {}
    if not found:
        prefix = "search.objectives."
        found = {k.removeprefix(prefix): v for k, v in parent.data.params.items() if k.startswith(prefix)}
    known = {name: direction for name, direction in found.items() if name in FINALS}
    return known or dict(DEFAULT_OBJECTIVES)


def read_records(
    ref: SweepRef, *, newer_than: int | None = None, deleted_too: bool = False, known: int = 0
) -> pd.DataFrame:
    """All runs of a sweep as they are in MLflow, the snapshots of its paths included: one row per run, params and tags
    still strings.

    Columns: ``run_id, mlflow_status, started, ended`` (ms since 1970, NaN while running), ``metric:KEY``,
    ``param:KEY``, ``tag:KEY``. With ``newer_than`` (ms) only trials that ended then or later, and those still
    running, all snapshots of these (they end before their path does), and snapshots that ended since: one may be written
    late, or polished long after its path. ``deleted_too``: also runs that were deleted in
    MLflow (and not yet purged). ``known``: about how many runs the sweep has; nothing but the time depends on it.
    """
    import pandas as pd
    from mlflow.entities import ViewType

    client = client_for(ref.tracking_uri)
    view = ViewType.ALL if deleted_too else ViewType.ACTIVE_ONLY

    def ask(queries: list[str]) -> dict[str, dict[str, Any]]:
        with answering(ref.tracking_uri):
            return {
                run.info.run_id: _record(run)
                for query in queries
                for run in _runs(client, [ref.experiment_id], query, view)
            }

    if newer_than is None:
        rows = ask([_children(ref.parent_run_id), _snapshots(ref)])
    else:
        # MLflow's filters know no OR, and a run without an end time matches no comparison of it.
        children = _children(ref.parent_run_id)
        rows = ask(
            [
                f"{children} and attributes.end_time >= {int(newer_than)}",
                f"{children} and attributes.status = 'RUNNING'",
                f"{_snapshots(ref)} and attributes.end_time >= {int(newer_than)}",
            ]
        )
        paths = [run_id for run_id, row in rows.items() if row.get("param:train.schedule") == CYCLES]
        few = len(paths) <= max(_FEW_PATHS, known // _RUNS_PER_REQUEST)
        rows |= ask([_children(run_id) for run_id in paths] if few else [_snapshots(ref)])
    frame = pd.DataFrame(list(rows.values()))
    return frame if len(frame) else pd.DataFrame(columns=["run_id", "mlflow_status", "started", "ended"])


def deleted_runs(ref: SweepRef) -> set[str]:
    """Ids of the sweep's runs that were deleted in MLflow."""
    from mlflow.entities import ViewType

    client = client_for(ref.tracking_uri)
    with answering(ref.tracking_uri):
        return {
            run.info.run_id
            for query in (_children(ref.parent_run_id), _snapshots(ref))
            for run in _runs(client, [ref.experiment_id], query, ViewType.DELETED_ONLY)
        }


def _children(run_id: str) -> str:
    return f"tags.`{Tag.PARENT}` = '{run_id}'"


def _snapshots(ref: SweepRef) -> str:
    """All snapshots of a sweep at once: they are no children of its own run."""
    return f"tags.`{Tag.KIND}` = '{SNAPSHOT}' and tags.`{Tag.SWEEP_ID}` = '{ref.id}'"


def _sweeps(client: MlflowClient) -> Iterator[Run]:
    """The runs of all sweeps of a store; it has pages of experiments, and pages of runs."""
    from mlflow.entities import ViewType

    for page in pages(lambda token: client.search_experiments(page_token=token)):
        ids = [experiment.experiment_id for experiment in page]
        if ids:
            yield from _runs(client, ids, f"tags.`{Tag.KIND}` = 'sweep'", ViewType.ACTIVE_ONLY)


def _runs(client: MlflowClient, experiment_ids: list[str], query: str, view: int) -> Iterator[Run]:
    def ask(token: str | None) -> PagedList[Run]:
        return client.search_runs(
            experiment_ids,
            query,
            run_view_type=view,
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )

    for page in pages(ask):
        yield from page


def pages(ask: Callable[[str | None], PagedList[_T]]) -> Iterator[PagedList[_T]]:
    """All pages of an answer of MLflow, one request each; ``ask`` is given the token of a page, None for the first."""
    token: str | None = None
    while token != "":
        page = ask(token)
        yield page
        token = page.token or ""


def _record(run: Run) -> dict[str, Any]:
    info, data = run.info, run.data
    record: dict[str, Any] = {
        "run_id": info.run_id,
        "mlflow_status": info.status,
        "started": info.start_time,
        "ended": info.end_time,
    }
    record.update({f"metric:{k}": v for k, v in data.metrics.items() if k.startswith("final/")})
    record.update({f"param:{k}": v for k, v in data.params.items()})
    record.update({f"tag:{k}": v for k, v in data.tags.items() if k != Tag.NOTE})
    return record


def download(tracking_uri: str, run_id: str, name: str, folder: Path) -> Path | None:
    """One artifact of a run, downloaded into ``folder`` unless it lies on this machine; None if there is none.

    The run's own place is asked: by way of its run MLflow looks for models too, and takes a store that does not answer
    for one without the file.

    Raises:
        Unreachable: MLflow, or the store behind it, is away or refuses.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    client = client_for(tracking_uri)
    try:
        with no_progress_bar():
            place = client.get_run(run_id).info.artifact_uri
            files = get_artifact_repository(place, tracking_uri=tracking_uri)
            if name not in {item.path for item in files.list_artifacts(str(Path(name).parent))}:
                return None
            if isinstance(files, LocalArtifactRepository):
                return Path(files.download_artifacts(name))  # the file itself, not a copy
            folder.mkdir(parents=True, exist_ok=True)
            return Path(files.download_artifacts(name, str(folder)))
    except Exception as exc:  # the clients of object stores have errors of their own
        if isinstance(exc, MlflowException) and exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise Unreachable(f"MLflow does not give its files: {_said(exc)}", f"run {run_id}: {name}") from exc


@contextmanager
def taking_files(what: str) -> Iterator[None]:
    """Turn whatever goes wrong while files are given to MLflow into one of our errors; ``what`` they belong to.

    Raises:
        Unreachable: in place of the exception; the clients of object stores have errors of their own.
    """
    try:
        yield
    except Exception as exc:
        raise Unreachable(f"MLflow does not take its files: {_said(exc)}", what) from exc


def _said(exc: Exception) -> str:
    return shortened(redact(" ".join(str(exc).split()))) or type(exc).__name__


def no_progress_bar() -> AbstractContextManager[None]:
    """MLflow draws a bar on stderr for every file; it can only be told not to through the environment."""
    return environment({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})


def schema_problem(version: object) -> str:
    """Why a row of this schema version cannot be read; "" if it can."""
    if version is None or version != version or str(version) == SCHEMA_VERSION:
        return ""
    return f"written by schema {version}; this version reads schema {SCHEMA_VERSION}"
