"""How much of each layer is left in a chosen model, from the plans in its manifest (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.runs.artifacts import artifact_of
from gcp_core.errors import CheckpointError
from gcp_core.plan import Plan
from gcp_core.schema import ARTIFACT_MANIFEST

if TYPE_CHECKING:
    import pandas as pd

_WIDTHS = ("out_channels", "out_features")


@dataclass(frozen=True)
class LayerWidth:
    """Output channels (or features) of one layer before the first and after the last event."""

    layer: str
    before: int
    after: int


def layer_widths(manifest: Mapping[str, Any]) -> list[LayerWidth]:
    """Every layer that lost outputs, in the order of its first loss; layers that kept all are not listed.

    Raises:
        PlanError: the manifest's plans are of another version.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for values in manifest.get("plans", []):
        plan = Plan.from_dict(values)
        for change in (*plan.attributes, *(plan.growth.attributes if plan.growth is not None else ())):
            if change.name in _WIDTHS:
                first.setdefault(change.module, change.before)
                last[change.module] = change.after
    return [LayerWidth(name, first[name], last[name]) for name in sorted(first, key=natural)]


def natural(name: str) -> list[tuple[int, int, str]]:
    """``features.10`` after ``features.3``; the classifier last, as it runs."""
    return [
        (1, int(part), "") if part.isdigit() else (0, part != "features", part) for part in name.split(".")
    ]


def manifest_of(df: pd.DataFrame, row: pd.Series) -> dict[str, Any] | None:
    """The manifest of a model: from the sweep's folder, else from MLflow; None if it has none.

    Raises:
        CheckpointError: there is one, but it is not JSON.
    """
    file = artifact_of(df, row, ARTIFACT_MANIFEST)
    if file is None:
        return None
    try:
        return json.loads(file.read_text())
    except ValueError as exc:
        raise CheckpointError(f"not JSON: {exc}", str(file)) from exc
