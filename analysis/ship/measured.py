"""What ``bench`` measured, read back from its files (no torch), for whoever shows it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.runs.artifacts import folder_of, local_artifact
from gcp_core.errors import ConfigError
from gcp_core.schema import ARTIFACT_MANIFEST

if TYPE_CHECKING:
    import pandas as pd

#: Version of the files.
FORMAT = 1
#: Where a sweep's folder holds them, one per model.
FOLDER = "bench"
#: Runtimes, as the files name them; ``TORCH`` runs the network as it is, in eager mode.
TORCH, ONNX, INT8, OPENVINO = "torch", "onnxruntime", "onnxruntime int8", "openvino"


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % interval."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One runtime at a batch size and a number of threads: milliseconds per batch, and pruned / unpruned.

    ``narrow`` says whether the intervals got as narrow as was asked for.
    """

    runtime: str
    batch_size: int
    threads: int
    unpruned: Interval
    pruned: Interval
    share: Interval
    narrow: bool


@dataclass(frozen=True)
class Accuracy:
    """Validation accuracy in per cent by one runtime's outputs; ``unpruned`` is None without the baseline's weights."""

    runtime: str
    unpruned: float | None
    pruned: float
    images: int


@dataclass(frozen=True)
class Measured:
    """One file of ``bench``.

    Attributes:
        dense: what the model was measured beside, in words.
        skipped: runtime -> why it was not measured.
        machine: processor, cores, versions, clock and load average, in words.
    """

    model: str
    sha256: str
    dense: str
    lines: tuple[Line, ...]
    accuracies: tuple[Accuracy, ...]
    skipped: Mapping[str, str]
    machine: Mapping[str, str]

    def single(self) -> Line | None:
        """The line that answers "how long does one image take": batch 1 in torch with the fewest threads."""
        found = [line for line in self.lines if line.runtime == TORCH and line.batch_size == 1]
        return min(found, key=lambda line: line.threads, default=None)


def files(df: pd.DataFrame) -> list[Path]:
    """The files of ``bench`` in the folders of the sweeps of a table, by name."""
    folders = [folder for folder in map(folder_of, df.attrs["sweeps"]) if folder is not None]
    return [file for folder in folders for file in sorted((folder / FOLDER).glob("*.json"))]


def read(path: Path) -> Measured:
    """What a file holds.

    Raises:
        ConfigError: it cannot be read, or ``bench`` of this version did not write it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror or exc}", str(path)) from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"is not JSON: {exc}", str(path), _HINT) from exc
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise ConfigError(f"has format {version!r}, expected {FORMAT}", str(path), _HINT)
    try:
        return Measured(
            model=_text(values["model"]),
            sha256=_text(values["sha256"]),
            dense=_text(values["dense"]),
            lines=tuple(map(_line, values["timed"])),
            accuracies=tuple(map(_accuracy, values["accuracies"])),
            skipped={_text(name): _text(why) for name, why in values["skipped"].items()},
            machine={_text(name): _text(value) for name, value in values["machine"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        said = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)
        raise ConfigError(f"is not a result of bench: {said}", str(path), _HINT) from exc


_HINT = "measure again with `gcp-analyze bench`"


def is_outdated(found: Measured, df: pd.DataFrame) -> bool:
    """Whether the model of that name in the sweep's folder (of several sweeps: each of them) has other weights now; of
    one that is not there nothing is said.
    """
    known = set()
    for _, row in df[df["model"] == found.model].iterrows():
        manifest = local_artifact(df, row, ARTIFACT_MANIFEST)
        try:
            values = None if manifest is None else json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(values, dict) and "sha256" in values:
            known.add(values["sha256"])
    return bool(known) and found.sha256 not in known


def _line(values: Mapping[str, Any]) -> Line:
    return Line(
        _text(values["runtime"]),
        _whole(values["batch_size"]),
        _whole(values["threads"]),
        _interval(values, ("reference_ms", "reference_low_ms", "reference_high_ms")),
        _interval(values, ("median_ms", "low_ms", "high_ms")),
        _interval(values, ("share", "share_low", "share_high")),
        values["narrow"] is True,
    )


def _accuracy(values: Mapping[str, Any]) -> Accuracy:
    dense = values["dense"]
    unpruned = None if dense is None else _number(dense)
    return Accuracy(_text(values["runtime"]), unpruned, _number(values["model"]), _whole(values["images"]))


def _interval(values: Mapping[str, Any], names: Sequence[str]) -> Interval:
    return Interval(*(_number(values[name]) for name in names))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _number(value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        raise TypeError(f"{value!r} is not a number of at least 0")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TypeError(f"{value!r} is not a whole number above 0")
    return value
