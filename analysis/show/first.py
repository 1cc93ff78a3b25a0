"""The first screen of the report: one model, how good and how sure it is, what it saves, what to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis import text
from analysis.choose.recommend import MEASURE
from analysis.runs import table
from analysis.runs.artifacts import polish_of
from analysis.show.page import Table
from analysis.show.payload import SHOWN_PARAMS

if TYPE_CHECKING:
    from analysis.choose.recommend import Recommendation, Step
    from analysis.ship.measured import Line, Measured

_NAMES = {"macs": "MACs", "params": "Parameters"}
_TAGS = {
    "asked": "Chosen as asked",
    "within": "Recommended by default",
    "nearest": "Nearest miss: do not ship yet",
    "no baseline": "Default choice, without a baseline",
    "nothing smaller": "No recommendation",
    "nothing": "No recommendation",
}


@dataclass(frozen=True)
class Saving:
    """What one cost loses: ``share`` of the baseline's that is left in per cent (None if unknown), and both in words."""

    name: str
    words: str
    detail: str
    share: float | None

    @property
    def gone(self) -> float:
        """What its bar shows: per cent of the baseline's that is removed, 0 where it grew."""
        return 0.0 if self.share is None else max(0.0, 100 - self.share)


@dataclass(frozen=True)
class FirstScreen:
    """What the card says; ``model`` is "" where there is nothing to recommend."""

    basis: str
    tag: str
    rule: str
    why: str
    standing: str = ""
    model: str = ""
    origin: str = ""
    accuracy: str = ""
    interval: str = ""
    drop: str = ""
    savings: tuple[Saving, ...] = ()
    sure: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    constraints: tuple[str, ...] = ()
    feasible: int = 0
    considered: int = 0
    runners_up: Table | None = None


def first_screen(df: pd.DataFrame, found: Recommendation, timed: Measured | None = None) -> FirstScreen:
    """The card of a recommendation; ``timed`` is what ``bench`` measured of its model."""
    rule = found.rule[:1].upper() + found.rule[1:]
    tag = _tag(found)
    if found.choice is None:
        return FirstScreen(found.basis, tag, rule, found.why, sure=found.sure, steps=found.steps)
    choice, row = found.choice, found.choice.rows.iloc[0]
    runners_up = None
    if len(choice.runners_up):
        runners_up = Table(*text.trials_cells(choice.runners_up, table.varying(df)[:SHOWN_PARAMS]))
    return FirstScreen(
        found.basis,
        tag,
        rule,
        found.why,
        standing=found.standing,
        model=found.model,
        origin=_origin(row) + (f" Of sweep {row['sweep']}." if len(df.attrs["sweeps"]) > 1 else ""),
        accuracy=f"{row['val_accuracy']:.2f} %",
        interval=_interval(row),
        drop=_drop(row),
        savings=tuple(_savings(row, timed)),
        sure=found.sure,
        steps=tuple(step for step in found.steps if timed is None or step.words != MEASURE),
        constraints=choice.constraints if found.basis == "asked" else (),
        feasible=choice.feasible,
        considered=choice.considered,
        runners_up=runners_up,
    )


def _tag(found: Recommendation) -> str:
    if found.basis != "within":
        return _TAGS[found.basis]
    if found.standing == "miss":
        return "Missed on fresh seeds: do not ship yet"
    if found.confirmed and found.standing == "proven":
        return "Recommended, confirmed"
    return "Recommended, not confirmed" if found.standing == "open" else _TAGS[found.basis]


def _origin(row: pd.Series) -> str:
    """What its name means and how long it and its baseline were trained, as far as the table knows."""
    level = _number(row, "level")
    if level is None:
        made = f"Model at the end of trial {row['trial']}"
    elif level == 0:
        made = f"Trial {row['trial']}, before its first pruning step"
    else:
        made = f"Trial {row['trial']}, after its {_nth(int(level))} pruning step"
    if polish := polish_of(row):
        made += f", trained for another {text.plural(polish, 'epoch')}"
    epochs, cost, base = (_number(row, name) for name in ("epochs", "train_cost", "baseline_epochs"))
    if epochs is None:
        return f"{made}."
    worth = "" if cost is None else f" (at the cost of {cost:.1f} unpruned ones)"
    beside = "" if base is None else f", its baseline for {base:.0f}"
    return f"{made}; trained for {text.plural(epochs, 'epoch')}{' in all' if polish else ''}{worth}{beside}."


def _nth(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _interval(row: pd.Series) -> str:
    low, high = (row.get(f"val_accuracy_{end}", np.nan) for end in ("low", "high"))
    if not np.isfinite(low):
        return ""
    return f"95 % interval {low:.1f} to {high:.1f} %, {row['val_images']:.0f} validation images"


def _drop(row: pd.Series) -> str:
    drop, base = row.get("accuracy_drop", np.nan), row.get("baseline_val_accuracy", np.nan)
    if not (np.isfinite(drop) and np.isfinite(base)):
        return "no baseline to compare with"
    if round(drop, 2) == 0:
        return f"as accurate as its baseline ({base:.2f} %)"
    return f"{abs(drop):.2f} points {'below' if drop > 0 else 'above'} its baseline ({base:.2f} %)"


def _savings(row: pd.Series, timed: Measured | None) -> list[Saving]:
    found = []
    for name, words in _NAMES.items():
        value, base = (_number(row, column) for column in (name, f"baseline_{name}"))
        if value is None or base is None or base <= 0:
            found.append(Saving(words, text.count(value) if value is not None else "-", "no baseline", None))
            continue
        found.append(_saving(words, value / base, f"{text.count(value)} of {text.count(base)}"))
    line = None if timed is None else timed.single()
    return [*found, _latency(row) if line is None else _timed(line)]


def _saving(name: str, share: float, detail: str) -> Saving:
    change = 100 * abs(1 - share)
    return Saving(name, f"{change:.1f} % {'fewer' if share <= 1 else 'more'}", detail, 100 * share)


def _timed(line: Line) -> Saving:
    """On this reader's machine, as ``bench`` has it: the interval of the ratio decides what may be said."""
    ms = f"{line.pruned.middle:.3g} of {line.unpruned.middle:.3g} ms, batch 1"
    share = 100 * line.share.middle
    if line.share.low <= 1 <= line.share.high:
        return Saving("Latency", "no measurable change", ms, share)
    return Saving("Latency", f"{abs(100 - share):.0f} % {'less' if share < 100 else 'more'}", ms, share)


def _latency(row: pd.Series) -> Saving:
    """As the sweep measured it, with what noise allows to be said: beside the unpruned model, if that is recorded, as the
    baseline's own latency is of another process, and maybe of another machine.
    """
    value, base = _number(row, "latency_ms"), _number(row, "baseline_latency_ms")
    if value is None:
        return Saving("Latency", "not measured", "" if base is None else f"baseline {base:.3g} ms", None)
    share, noise = _number(row, "latency_share"), _number(row, "latency_noise") or 0.0
    if share:
        detail = f"{value:.3g} of about {value / share:.3g} ms, batch 1"
        if share * (1 - noise) <= 1 <= share * (1 + noise):
            return Saving("Latency", "no measurable change", detail, 100 * share)
        change = f"{100 * abs(1 - share):.0f} % {'less' if share < 1 else 'more'}"
        return Saving("Latency", change, detail, 100 * share)
    if base is None or base <= 0:
        return Saving("Latency", f"{value:.3g} ms", "no baseline", None)
    low, high = (_number(row, f"latency_{end}_ms") or value for end in ("low", "high"))
    detail = f"{value:.3g} of {base:.3g} ms, batch 1"
    if low <= base <= high:
        return Saving("Latency", "no measurable change", detail, 100 * value / base)
    change = f"{100 * abs(1 - value / base):.0f} % {'less' if value < base else 'more'}"
    return Saving("Latency", change, detail, 100 * value / base)


def _number(row: Any, name: str) -> float | None:
    value = row.get(name, np.nan)
    return float(value) if pd.notna(value) and np.isfinite(value) else None
