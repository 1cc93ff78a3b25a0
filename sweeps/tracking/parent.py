"""The sweep's own run in MLflow: found again, or created with the whole config as parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcp_core import schema
from gcp_core.errors import ConfigError
from gcp_core.schema import Tag
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.layout import ARTIFACTS
from sweeps.records.provenance import git_sha, tags, versions
from sweeps.tracking.children import SweepRun, is_described, params_of
from sweeps.tracking.view import keep_views, views

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def open_parent(client: MlflowClient, config: SweepConfig, folder: Path, sweep_id: str, uri: str) -> SweepRun:
    # A database without a server has no place for files; MLflow would take ./mlruns of whoever starts it.
    location = None if uri.startswith("http") else (folder.absolute() / ARTIFACTS).as_uri()
    experiment = _experiment(client, config.name, location)
    experiment_id = experiment.experiment_id
    query = f"tags.`{Tag.KIND}` = 'sweep' and tags.`{Tag.SWEEP_ID}` = '{sweep_id}'"
    found = client.search_runs([experiment_id], query, max_results=1)
    if found:
        run_id, known = found[0].info.run_id, found[0].data.params
        client.update_run(run_id, status="RUNNING")
        if not is_described(found[0]):  # MLflow keeps a value for good, and some may have changed since
            missing = [param for param in params_of(config.tree) if param.key not in known]
            client.log_batch(run_id, params=missing)
    else:
        run_id = _create_parent(client, config, experiment_id, sweep_id)
    client.log_artifact(run_id, str(folder / schema.ARTIFACT_CONFIG))
    kept = keep_views(client, experiment, views(config, sweep_id))
    return SweepRun(sweep_id, config.name, uri, config.name, experiment_id, run_id, kept)


def _experiment(client: MlflowClient, name: str, location: str | None) -> Any:
    """The experiment of that name, made where there is none.

    Raises:
        ConfigError: it was deleted, and MLflow has not purged it yet: nothing can be written into it.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            number = found.experiment_id
            raise ConfigError(
                f"{name!r}: the MLflow experiment of that name was deleted, and MLflow keeps the name",
                "name",
                f"name=ANOTHER, or `mlflow experiments restore --experiment-id {number}`, or have the server purge it"
                " (`mlflow gc`)",
            )
        return found
    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=location))
    except Exception as exc:
        # Another driver has made it at the same moment, or we have, and the answer to the first request was lost.
        if getattr(exc, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name)


def _create_parent(client: MlflowClient, config: SweepConfig, experiment_id: str, sweep_id: str) -> str:
    about = {
        Tag.KIND: "sweep",
        Tag.SWEEP_ID: sweep_id,
        Tag.SWEEP_NAME: config.name,
        Tag.GIT_SHA: git_sha(),
        Tag.SCHEMA: schema.SCHEMA_VERSION,
        **tags("", versions()),
    }
    run = client.create_run(experiment_id, tags=about, run_name=config.name)
    client.log_batch(run.info.run_id, params=params_of(config.tree))
    return run.info.run_id
