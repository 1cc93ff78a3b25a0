"""The sweep's own run in MLflow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gcp_core.errors import ConfigError
from sweeps.tracking.parent import open_parent
from tests.sweeps.inline import config


def test_a_name_whose_experiment_was_deleted_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    """MLflow keeps the name until it is purged, and lets nobody write into what was deleted."""
    gone = SimpleNamespace(experiment_id="7", lifecycle_stage="deleted")
    client: Any = SimpleNamespace(get_experiment_by_name=lambda name: gone)
    with pytest.raises(ConfigError) as caught:
        open_parent(client, config(tmp_path), tmp_path, "0123456789ab", "http://mlflow.lab:5000")
    assert caught.value.where == "name"
    assert "the MLflow experiment of that name was deleted" in caught.value.message
    assert "mlflow experiments restore --experiment-id 7" in caught.value.hint
