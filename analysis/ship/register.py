"""Put a proven model into MLflow: a LoggedModel with signature, example and requirements, then a registered version.

The flavour is ONNX: a protobuf file that ``mlflow.onnx`` and ``mlflow.pyfunc`` load with onnxruntime, without torch,
without this package and without unpickling anything. (A ``torch.export`` archive may hold pickled constants.) Weights,
plans, proof and model card travel in the same artifact folder, so a version can also be fine-tuned or pruned further.

The alias names the operating point (``macs-50``: at most half of the baseline's MACs), so that a deployment asks for a
point, not for a version number. The model's run itself is not opened again: its state and end time stay as they are.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from analysis import text
from analysis.choose.constraints import Constraint
from analysis.plain import plain
from analysis.runs.artifacts import folder_of, sweep_of
from analysis.runs.fetch import own_artifacts
from analysis.runs.store import answering, client_for, no_progress_bar, pages, taking_files
from analysis.runs.table import config_columns
from analysis.ship.export import CARD, PROOF, Exported
from gcp_core.errors import ConfigError
from gcp_core.schema import Tag

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

#: Everything the model needs to run; without an explicit list MLflow starts a process to guess it.
REQUIREMENTS = ("onnx", "onnxruntime", "numpy")
#: Files of the export that travel with the ONNX file.
_BESIDE = ("weights.pt", "manifest.json", PROOF, CARD)
#: By how much a share in per cent may be more than a whole number without being more.
_ROUNDING = 1e-9
#: Values that name the operating point on the version itself.
_SHOWN = ("val_accuracy", "test_accuracy", "accuracy_drop", "macs", "macs_kept", "params", "params_kept")


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        uri: what loads it (``models:/name@alias``).
        model_id: its LoggedModel (``models:/<model_id>`` loads the same files).
        new: False if these weights were a version of the model already and only the alias was set.
        moved_from: version that had the alias before ("" if none had).
    """

    name: str
    version: str
    alias: str
    uri: str
    model_id: str
    new: bool
    moved_from: str


def alias_for(row: pd.Series, constraints: Sequence[Constraint] = ()) -> str:
    """The operating point: ``macs-50`` where ``macs <= 50%`` was asked for (``macs-12_5``: 12.5 %), else the share of the
    baseline's MACs that the trial kept, rounded up to whole per cent, as the alias says "at most". The asked one is
    stable: the next sweep's choice for the same point replaces it.

    Raises:
        ConfigError: nothing relative was asked for and the trial has no baseline to take a share of.
    """
    for constraint in constraints:
        if constraint.relative and constraint.op in ("<=", "<"):
            share = f"{100 * float(constraint.bound):g}".replace(".", "_").replace("+", "")
            return f"{constraint.column.replace('_', '-')}-{share}"
    kept = row["macs_kept"]
    if not np.isfinite(kept):
        raise ConfigError("has no baseline to name its operating point by", str(row["model"]), "give --alias")
    return f"macs-{math.ceil(100 * kept - _ROUNDING)}"


def register(df: pd.DataFrame, row: pd.Series, exported: Exported, *, name: str, alias: str) -> Registered:
    """Log the proven model in ``exported`` as a LoggedModel of its run, register it, set the alias.

    Safe to repeat: a version with the same weights is found again instead of being made twice.

    Args:
        exported: what :func:`analysis.ship.export.export` returned for this row, with ``onnx=True``.
        name: of the registered model.
        alias: moved here if another version has it.

    Raises:
        ConfigError: the table is not in MLflow, or the ONNX file is missing.
        Unreachable: MLflow, or the store of its files, is away or refuses.
    """
    check_name(name)
    check_alias(alias)
    entry = check_place(df, row)
    if not (exported.folder / "model.onnx").is_file():
        raise ConfigError("was exported without ONNX", str(row["model"]), "export it with --onnx")
    client = client_for(entry["tracking_uri"])
    with answering(entry["tracking_uri"]), no_progress_bar():
        tags = _lineage(client, row, exported, entry)
        _create(client, name)
        version = _same_weights(client, name, exported.sha256)
        new = version is None
        if version is None:
            logged = _log(client, df, row, exported, name, tags)
            version = _version(client, name, logged, row, exported, tags)
        before = client.get_registered_model(name).aliases.get(alias, "")
        client.set_registered_model_alias(name, alias, version.version)
    number = str(version.version)
    moved = str(before) if str(before) != number else ""
    return Registered(
        name,
        number,
        alias,
        f"models:/{name}@{alias}",
        (version.source or "").removeprefix("models:/"),
        new,
        moved,
    )


def check_name(name: str) -> None:
    """MLflow's rules for names of registered models, asked before the long proof; and no quotes, which end its filters.

    Raises:
        ConfigError: MLflow would refuse it.
    """
    if not name.strip() or name == "." or name.startswith("..") or any(sign in name for sign in "/:'\""):
        hint = "not empty, and without / and : and quotes"
        raise ConfigError(f"{name!r} is no name of a registered model for MLflow", "--name", hint)


def check_alias(alias: str) -> None:
    """MLflow's rules for aliases, asked before the long proof: a version is made before its alias is set.

    Raises:
        ConfigError: MLflow would refuse it.
    """
    if not re.fullmatch(r"[\w\-]{1,255}", alias):
        hint = "letters, digits, _ and -, 255 of them at most, for instance macs-50"
        raise ConfigError(f"{alias!r} is no alias for MLflow", "--alias", hint)
    if alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise ConfigError(
            f"{alias!r} is a name that MLflow keeps for itself", "--alias", "for instance macs-50"
        )


def check_place(df: pd.DataFrame, row: pd.Series) -> dict[str, Any]:
    """The model's sweep, if the model can be registered in its store; asked before the long proof, and again after it.

    A registered version is permanent, so its files must not go to a folder that the sweep was moved or copied from.

    Raises:
        ConfigError: the table is not in MLflow, or MLflow names another folder.
    """
    entry = sweep_of(df, row)
    if not entry.get("tracking_uri") or not row["run_id"]:
        raise ConfigError("is not in MLflow, so it cannot be registered there", str(row["model"]))
    with answering(entry["tracking_uri"]):
        place = client_for(entry["tracking_uri"]).get_run(row["run_id"]).info.artifact_uri
    places = own_artifacts(entry["tracking_uri"], folder_of(entry), row["run_id"])
    here = [own for own in places if own.is_dir()]
    if not here or not place.startswith("file:"):
        return entry
    recorded = Path(url2pathname(urlparse(place).path))
    if not (recorded.is_dir() and any(own.samefile(recorded) for own in here)):
        raise ConfigError(
            f"MLflow names another folder for its files, {recorded}",
            str(row["model"]),
            "moved or copied? `gcp-sweep run` with the sweep's config writes the new place",
        )
    return entry


def _create(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _same_weights(client: MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    """The version that has these weights, None if there is none; the registry gives them in pages."""
    versions = (
        version
        for page in pages(lambda token: client.search_model_versions(f"name = '{name}'", page_token=token))
        for version in page
    )
    return next((one for one in versions if one.tags.get("weights_sha256") == sha256), None)


def _lineage(
    client: MlflowClient, row: pd.Series, exported: Exported, entry: dict[str, Any]
) -> dict[str, str]:
    """Where a version comes from and what it was measured to be, as tags."""
    tags = {
        Tag.SWEEP_NAME: row["sweep"],
        Tag.SWEEP_ID: entry.get("id"),
        "sweep.run_id": entry.get("parent_run_id"),
        Tag.TRIAL_ID: row["trial"],
        Tag.MODEL_ID: None if row.isna()["level"] else row["model"],
        Tag.CONFIG_ID: row["config_id"],
        Tag.SEED: row["seed"],
        Tag.GIT_SHA: client.get_run(row["run_id"]).data.tags.get(Tag.GIT_SHA),
        "weights_sha256": exported.sha256,
    }
    tags.update(
        {name: text.digits(float(row[name])) for name in _SHOWN if name in row and row[name] == row[name]}
    )
    return {key: str(value) for key, value in tags.items() if value is not None}


def _log(
    client: MlflowClient,
    df: pd.DataFrame,
    row: pd.Series,
    exported: Exported,
    name: str,
    tags: dict[str, str],
) -> str:
    """The LoggedModel's id; it is READY only when all of its files are stored."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(row["run_id"])
    params = {key: str(plain(row[key])) for key in config_columns(df) if plain(row[key]) is not None}
    model = client.create_logged_model(
        run.info.experiment_id,
        _plain(name),
        source_run_id=row["run_id"],
        tags={**tags, Tag.NOTE: _card(exported)},  # the model's page shows it as its description
        params=params,
        model_type="onnx",
    )
    try:
        with tempfile.TemporaryDirectory() as work:
            _write_model(model, row["run_id"], exported, Path(work) / "model")
            with taking_files(name):
                client.log_model_artifacts(model.model_id, str(Path(work) / "model"))
        client.log_outputs(row["run_id"], [LoggedModelOutput(model.model_id, step=0)])
        _log_finals(client, row["run_id"], model.model_id)
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _card(exported: Exported) -> str:
    """The card, as much of it as MLflow takes."""
    return (exported.folder / CARD).read_text(encoding="utf-8")[:4000]


def _plain(name: str) -> str:
    """LoggedModel names take fewer signs than names of registered models."""
    return "".join("-" if sign in "/:.%\"'" else sign for sign in name)


def _write_model(model: Any, run_id: str, exported: Exported, folder: Path) -> None:
    """An MLflow model folder around ``model.onnx``."""
    import mlflow.onnx
    from mlflow.models import Model, infer_signature

    onnx = importlib.import_module("onnx")
    sample = np.load(exported.folder / "sample.npz")
    mlflow.onnx.save_model(
        onnx.load(str(exported.folder / "model.onnx")),
        str(folder),
        mlflow_model=Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id),
        signature=infer_signature(sample["inputs"], sample["logits"]),
        input_example=sample["inputs"][:1],
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS],
        save_as_external_data=False,
        extra_files=[str(exported.folder / file) for file in _BESIDE],
    )


def _log_finals(client: MlflowClient, run_id: str, model_id: str) -> None:
    """Tie the run's final values to the model, so that ``search_logged_models`` can filter by them."""
    from mlflow.entities import Metric

    metrics = []
    for key in client.get_run(run_id).data.metrics:
        if key.startswith("final/"):
            last = client.get_metric_history(run_id, key)[-1]
            metrics.append(
                Metric(key, last.value, last.timestamp, last.step, model_id=model_id, run_id=run_id)
            )
    client.log_batch(run_id, metrics=metrics)


def _version(
    client: MlflowClient, name: str, model_id: str, row: pd.Series, exported: Exported, tags: dict[str, str]
) -> ModelVersion:
    with _process_store(str(client.tracking_uri)):
        return client.create_model_version(
            name,
            f"models:/{model_id}",
            run_id=row["run_id"],
            tags=tags,
            description=_card(exported),
            model_id=model_id,
        )


@contextmanager
def _process_store(uri: str) -> Iterator[None]:
    """A database registry looks a ``models:/`` source up in the process-wide store; set it, and give the old one back."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
