"""The images that a model was trained on, found again to prove or to measure it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gcp_core.config import DataConfig
from gcp_core.data import Splits, load_splits
from gcp_core.errors import CheckpointError, DataError

_ELSEWHERE = "--data-path FOLDER says where the images are on this machine"


def images_of(
    data: DataConfig, manifest: Mapping[str, Any], model: str, data_path: str | None = None
) -> Splits:
    """The splits of ``data``, if they are those that the model's manifest names.

    Args:
        model: names it in an error.
        data_path: where the images are here, if they have moved since the trial.

    Raises:
        DataError: they are not there, or cannot be read.
        CheckpointError: they are others.
    """
    try:
        splits = load_splits(data if data_path is None else dataclasses.replace(data, path=data_path))
    except DataError as exc:
        if data_path is not None:
            raise
        hint = f"{exc.hint}; {_ELSEWHERE}" if exc.hint else _ELSEWHERE
        raise DataError(exc.message, exc.where, hint) from exc
    changed = splits.unlike(manifest)
    if changed:
        raise CheckpointError(changed, model, "" if data_path is not None else _ELSEWHERE)
    return splits
