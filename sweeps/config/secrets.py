"""Refuse secrets in a config, because it is copied to the sweep's folder, to MLflow and to every trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcp_core.errors import ConfigError
from gcp_core.redaction import is_secret_name, secret_in

_REMEDIES = {
    "tracking": "leave it out; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, tell a"
    " server who you are, ~/.pgpass or PGPASSWORD a PostgreSQL database",
    "ledger": "leave it out; PostgreSQL finds it in ~/.pgpass or PGPASSWORD",
    "storage": "leave it out; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_SAS_TOKEN,"
    " GOOGLE_APPLICATION_CREDENTIALS, a profile or the machine's role say who you are",
}
_REMEDY = "leave it out; give it to whoever needs it in an environment variable"


def refuse_secret(text: str, where: str) -> None:
    """Raise ConfigError if an address in ``text`` may hold a secret; ``where`` is its path in the config."""
    found = secret_in(text)
    if found:
        _refuse(found, where)


def refuse_secrets(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError at the first text of a raw config that may hold a secret, wherever it stands."""
    _walk(tree, "")


def _walk(value: Any, path: str) -> None:
    if isinstance(value, str):
        refuse_secret(value, path)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            here = f"{path}.{name}" if path else str(name)
            if item and isinstance(item, str) and is_secret_name(str(name)):
                _refuse("a secret by its name", here)
            _walk(item, here)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _walk(item, f"{path}.{index}")


def _refuse(what: str, where: str) -> None:
    remedy = _REMEDIES.get(where.partition(".")[0], _REMEDY)
    raise ConfigError(
        f"holds {what}, which would be copied to the sweep's folder and to MLflow", where, remedy
    )
