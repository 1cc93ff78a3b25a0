"""What to try next: where the front is thin, and configurations that aim into its gaps.

A gap is the distance between two neighbours of the front on the anchored scales. Into each of the widest gaps aim
configurations made from its two ends: numbers half way between, snapped to what the sweep's config allows, choices
from either end. Nothing that already ran is proposed again. This is interpolation, no model of the objective: it says
where to look, not what will be found.

Of paths only the configuration is proposed: a path leaves models at all of its levels, so a searched target stays at its
upper end. Between two snapshots of one path aim configurations that differ from it by one step of one parameter.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import text
from analysis.errors import NothingFeasible
from analysis.front import pareto
from analysis.front.anchors import Anchors
from analysis.front.objectives import Objectives, costs
from analysis.plain import plain, rows_of, structured
from analysis.runs.artifacts import config_tree
from analysis.runs.models import of_the_search
from analysis.runs.table import varying
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

#: Seeds are replicates, not something to aim with.
_SEED = "seed"
_TARGET, _RATIO = "prune.target", "prune.ratio"
_RANGE = ("choice", "low")
#: Shares of the way from the cheaper to the dearer end.
_STEPS = (0.5, 0.25, 0.75)
_MOST_CHOICES = 8


@dataclass(frozen=True)
class Gap:
    """Two neighbours on the front and the distance between them (anchored scales; 1 = worst to best anchor)."""

    cheaper: str
    dearer: str
    width: float
    words: str


@dataclass(frozen=True)
class Advice:
    """The widest gaps, widest first, and the points that aim into them (searched path -> value)."""

    gaps: tuple[Gap, ...]
    points: tuple[dict[str, Any], ...]


def gaps(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> pd.DataFrame:
    """One row per pair of neighbours on the front, widest gap first: ``cheaper, dearer`` (row labels), ``width``.

    Neighbours are consecutive by the first minimised objective; with more than two objectives the width counts all. The
    front is the search's: a polished model fills no gap that a search could aim into.

    Raises:
        NothingFeasible: the front has a single point.
    """
    import pandas as pd

    best = pareto.front(of_the_search(df), objectives).drop_duplicates(subset=list(objectives))
    if len(best) < 2:
        raise NothingFeasible(
            "the front has fewer than two points, so it has no gap", "advise", "run more trials"
        )
    cost = next((c for c, direction in objectives.items() if direction == "min"), next(iter(objectives)))
    best = best.sort_values(cost)
    losses = anchors.losses(costs(best, objectives)[0], objectives)
    widths = np.sqrt((np.diff(losses, axis=0) ** 2).sum(axis=1))
    rows = pd.DataFrame({"cheaper": best.index[:-1], "dearer": best.index[1:], "width": widths})
    return rows.sort_values("width", ascending=False, kind="stable", ignore_index=True)


def advise(
    df: pd.DataFrame, objectives: Objectives, anchors: Anchors, *, points: int = 6, widest: int = 3
) -> Advice:
    """Up to ``points`` configurations that aim into the ``widest`` gaps, the widest gap first, taking turns.

    Raises:
        NothingFeasible: there is no gap.
        ConfigError: nothing was searched.
    """
    searched = searched_ranges(df)
    if not set(searched) - {_SEED}:
        raise ConfigError("nothing was searched: no parameter varies", "advise")
    found = gaps(df, objectives, anchors).head(widest)
    settings = df.loc[df["kind"] == "trial", [path for path in searched if path in df.columns]]
    ran = {_key(_point(row, searched)) for row in rows_of(settings)}
    aims = [_aims(df.loc[a], df.loc[b], searched) for a, b in zip(found["cheaper"], found["dearer"])]
    chosen: list[dict[str, Any]] = []
    while aims and len(chosen) < points:
        for aim in list(aims):
            point = next((p for p in aim if _key(p) not in ran), None)
            if point is None:
                aims.remove(aim)
                continue
            ran.add(_key(point))
            chosen.append(point)
            if len(chosen) == points:
                break
    said = tuple(_described(df, row, objectives) for row in rows_of(found))
    return Advice(said, tuple(chosen))


def _described(df: pd.DataFrame, row: dict[str, Any], objectives: Objectives) -> Gap:
    a, b = df.loc[row["cheaper"]], df.loc[row["dearer"]]
    ends = ", ".join(f"{text.quantity(c, a[c])} to {text.quantity(c, b[c])}" for c in objectives)
    words = f"nothing between {a['model']} and {b['model']}: {ends}"
    return Gap(str(a["model"]), str(b["model"]), float(row["width"]), words)


def searched_ranges(df: pd.DataFrame) -> dict[str, Any]:
    """Searched path -> its range as the sweep's config wrote it, else the values that were seen (``choice``)."""
    tree = config_tree(df.attrs["sweeps"][0])
    found = dict(_ranges(tree)) if tree else {}
    if found:
        return found
    rows = df[df["candidate"]]
    names = varying(df) + ([_SEED] if rows[_SEED].nunique() > 1 else [])
    seen = {name: sorted({plain(v) for v in rows[name]}, key=str) for name in names}
    return {name: {"choice": [structured(v) for v in values]} for name, values in seen.items()}


def _ranges(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if not isinstance(value, Mapping) or (
            not prefix and key in ("search", "resources", "tracking", "confirm")
        ):
            continue
        if any(word in value for word in _RANGE):
            yield f"{prefix}{key}", dict(value)
        else:
            yield from _ranges(value, f"{prefix}{key}.")


def _point(row: Mapping[str, Any] | pd.Series, searched: Mapping[str, Any]) -> dict[str, Any]:
    return {path: _value(row, path) for path in searched}


def _value(row: Mapping[str, Any] | pd.Series, path: str) -> Any:
    return structured(plain(row[path])) if path in row else None


def _key(point: Mapping[str, Any]) -> str:
    """A point without its seed: another seed of a configuration that ran is not a new configuration."""
    values = {path: value for path, value in point.items() if path != _SEED}
    return repr(
        [(path, float(v) if isinstance(v, (int, float)) else str(v)) for path, v in sorted(values.items())]
    )


def _aims(cheaper: pd.Series, dearer: pd.Series, searched: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Points between two configurations, the middle first; choices of the dearer end before those of the cheaper."""
    if _of_path(cheaper) and (cheaper[["sweep", "trial"]] == dearer[["sweep", "trial"]]).all():
        yield from _steps(cheaper, searched)
        return
    for share in _STEPS:
        options = []
        for path, leaf in searched.items():
            if path == _TARGET and (_of_path(cheaper) or _of_path(dearer)):
                options.append([_deepest(leaf)])
                continue
            low, high = (_value(row, path) for row in (cheaper, dearer))
            options.append(_between(low, high, leaf, share))
        combinations = product(*options)
        for _, values in zip(range(_MOST_CHOICES), combinations):
            yield dict(zip(searched, values))


def _of_path(row: pd.Series) -> bool:
    return not row.isna().get("level", True)


def _deepest(leaf: Mapping[str, Any]) -> Any:
    """The upper end of a searched target: what a path goes down to."""
    return max(v for v in leaf["choice"] if v is not None) if "choice" in leaf else leaf["high"]


def _steps(row: pd.Series, searched: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The configuration of a path with one parameter moved to a neighbour; smaller events first, as they put levels
    between those that are there.
    """
    point = _point(row, searched)
    if _TARGET in searched:
        point[_TARGET] = _deepest(searched[_TARGET])
    moved = set(searched) - {_SEED, _TARGET}
    for path in sorted(moved, key=lambda path: (path != _RATIO, isinstance(point[path], str), path)):
        for value in _neighbours(point[path], searched[path]):
            yield point | {path: value}


def _neighbours(value: Any, leaf: Mapping[str, Any]) -> list[Any]:
    """The next smaller and larger value that a range allows; for text and lists, all other values."""
    if "choice" not in leaf:
        if not _numeric([value]):  # of another sweep than the one that searched it: there is none, or a word
            return []
        first, last = float(leaf["low"]), float(leaf["high"])
        step = leaf.get("step") or max((last - first) / 4, 1 if isinstance(leaf["low"], int) else 0)
        near = [_snapped(float(value) + move, leaf, first, last) for move in (-step, step)]
        return [v for v in dict.fromkeys(near) if v != value]
    choices = list(leaf["choice"])
    if not _numeric(choices) or not isinstance(value, (int, float)):
        return [v for v in choices if v != value]
    below, above = [c for c in choices if c < value], [c for c in choices if c > value]
    return ([max(below)] if below else []) + ([min(above)] if above else [])


def _numeric(values: list[Any]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _between(low: Any, high: Any, leaf: Mapping[str, Any], share: float) -> list[Any]:
    """Values of one parameter between its values at the two ends."""
    if "choice" in leaf:
        choices = list(leaf["choice"])
        if _numeric(choices) and isinstance(low, (int, float)) and isinstance(high, (int, float)):
            wish = low + share * (high - low)
            return [min(choices, key=lambda c: (abs(c - wish), c))]
        return ([v for v in choices if v == high] + [v for v in choices if v == low != high]) or [choices[0]]
    first, last = float(leaf["low"]), float(leaf["high"])
    low = float(low) if _numeric([low]) else first
    high = float(high) if _numeric([high]) else last
    if leaf.get("log"):
        wish = float(np.exp(np.log(low) + share * (np.log(high) - np.log(low))))
    else:
        wish = low + share * (high - low)
    return [_snapped(wish, leaf, first, last)]


def _snapped(wish: float, leaf: Mapping[str, Any], first: float, last: float) -> float | int:
    whole = all(isinstance(leaf[k], int) for k in ("low", "high"))
    step = leaf.get("step") or (1 if whole else None)
    value = min(max(wish, first), last)
    if step:
        value = first + round((value - first) / step) * step
        value = value if value <= last + 1e-12 else value - step
    return round(value) if whole else float(f"{value:.10g}")


def write_config(df: pd.DataFrame, advice: Advice, path: Path) -> str:
    """Write the next sweep's config: this one's, renamed, with the points to try first; returns the new name.

    Raises:
        ConfigError: the sweep's folder, and with it its config, is not available, or there is no point to write.
    """
    import yaml

    tree = copy.deepcopy(config_tree(df.attrs["sweeps"][0]))
    if not tree:
        raise ConfigError(
            "the sweep's config is not available", str(path), "give the sweep's folder, not its name"
        )
    if not advice.points:
        raise ConfigError(
            "there is no new point to write: everything between the ends of the gaps has already run",
            str(path),
        )
    name = f"{tree['name']}-next"
    search = tree.setdefault("search", {})
    search["points"] = [dict(point) for point in advice.points]
    if search.get("sampler") == "grid":
        search["sampler"] = "random"  # a grid takes no points
    search["trials"] = max(len(advice.points), int(search.get("trials") or 0))
    head = (
        f"# The next sweep after {tree['name']}: the first {len(advice.points)} trials aim into the gaps of its front.\n"
        + "".join(f"#   {gap.words}\n" for gap in advice.gaps)
        + f"#   gcp-sweep run {shlex.quote(path.name)}\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + yaml.safe_dump({**tree, "name": name}, sort_keys=False), encoding="utf-8")
    return name
