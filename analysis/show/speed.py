"""What ``bench`` measured, as the report shows it: times and accuracy in each runtime, pruned beside unpruned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import text
from analysis.ship import measured
from analysis.show.page import Table
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.ship.measured import Interval, Measured

#: Runtimes in words.
_RUNTIMES = {
    measured.TORCH: "torch",
    measured.ONNX: "ONNX Runtime",
    measured.INT8: "ONNX Runtime, int8",
    measured.OPENVINO: "OpenVINO",
}


@dataclass(frozen=True)
class Speed:
    """One model on one machine; ``note`` is what a reader must know before trusting it, "" = nothing."""

    model: str
    beside: str
    machine: str
    times: Table
    accuracies: Table
    images: str
    skipped: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Speeds:
    """All of them, the chosen model first; ``unread`` says in sentences which files could not be read."""

    models: tuple[Speed, ...] = ()
    unread: tuple[str, ...] = ()
    chosen: Measured | None = None

    def __bool__(self) -> bool:
        return bool(self.models or self.unread)


def speeds(df: pd.DataFrame, chosen: str, more: Sequence[Path] = (), *, sweep: str = "") -> Speeds:
    """What the files of ``bench`` say: those in the sweeps' folders, and ``more``.

    ``sweep`` is that of the chosen model, if there are several; each may have a model of that name.

    A file in a sweep's folder that cannot be read is named on the page.

    Raises:
        ConfigError: one of ``more`` cannot be read.
    """
    found, unread = [], []
    for file in measured.files(df):
        try:
            found.append(measured.read(file))
        except ConfigError as error:
            unread.append(f"{file.name} {error.message}")
    found += [measured.read(file) for file in more]
    found.sort(key=lambda one: (one.model != chosen, one.model))
    known = set(df["model"])
    own = df[df["sweep"] == sweep] if sweep else df
    valid = (one for one in found if one.model == chosen and not measured.is_outdated(one, own))
    return Speeds(
        tuple(_speed(one, _note(one, df, known)) for one in found), tuple(unread), next(valid, None)
    )


def _note(one: Measured, df: pd.DataFrame, known: set[str]) -> str:
    if one.model not in known:
        return "This sweep has no model of that name."
    if measured.is_outdated(one, df):
        return "The model's weights have changed since: measure it again."
    return ""


def _speed(one: Measured, note: str) -> Speed:
    return Speed(
        one.model,
        one.dense,
        "; ".join(f"{name}: {value}" for name, value in one.machine.items()),
        _times(one),
        _accuracies(one),
        text.plural(one.accuracies[0].images, "validation image") if one.accuracies else "",
        tuple(f"{_name(runtime)}: {why}" for runtime, why in one.skipped.items()),
        note,
    )


def _times(one: Measured) -> Table:
    threads = {line.threads for line in one.lines} != {1}
    header = ["runtime", "batch", *(["threads"] if threads else []), "what pruning changes"]
    rows = [
        [
            _name(line.runtime),
            line.batch_size,
            *([line.threads] if threads else []),
            _verdict(line.share) + ("" if line.narrow else ", roughly"),
            _interval(line.unpruned),
            _interval(line.pruned),
            _interval(line.share),
        ]
        for line in one.lines
    ]
    return Table([*header, "unpruned, ms", "pruned, ms", "pruned / unpruned"], rows)


def _verdict(share: Interval) -> str:
    """``29 % less time``; nothing is claimed where the interval holds 1."""
    if share.low <= 1 <= share.high:
        return "no measurable change"
    change = 100 * abs(1 - share.middle)
    return f"{change:.0f} % {'less' if share.middle < 1 else 'more'} time"


def _accuracies(one: Measured) -> Table:
    """By runtime; what a runtime changes is counted from torch, which computes as the network was trained."""
    eager = next((a.pruned for a in one.accuracies if a.runtime == measured.TORCH), None)
    dense = any(a.unpruned is not None for a in one.accuracies)
    header = ["runtime", *(["unpruned"] if dense else []), "pruned", "pruned, against torch"]
    rows = [
        [
            _name(a.runtime),
            *(["-" if a.unpruned is None else f"{a.unpruned:.2f} %"] if dense else []),
            f"{a.pruned:.2f} %",
            "-" if eager is None or a.runtime == measured.TORCH else f"{a.pruned - eager:+.2f} points",
        ]
        for a in one.accuracies
    ]
    return Table(header, rows)


def _name(runtime: str) -> str:
    return _RUNTIMES.get(runtime, runtime)


def _interval(found: Interval) -> str:
    """``0.213 (0.210-0.216)``: three digits of the middle, and its ends to the same place."""
    digits = max(0, 2 - math.floor(math.log10(found.middle))) if found.middle > 0 else 0
    return f"{found.middle:.{digits}f} ({found.low:.{digits}f}-{found.high:.{digits}f})"
