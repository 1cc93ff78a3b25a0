"""Pareto mathematics over named objectives: front, ranks, bands, hypervolume, contributions, knee.

Objectives are a mapping ``{column: "max" | "min"}`` in the caller's order. Rows with a value that is not
finite, or of magnitude >= 1e300 (how MLflow stores an infinity), are rejected before anything is computed:
one NaN can otherwise destroy a front. Rows with equal values are equally good and stay together. A frame
with a boolean column ``candidate`` (as ``analysis.load`` returns it) is restricted to its candidates.

moocore does the work; its cost matrices do not leave this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.front.objectives import Objectives, costs
from gcp_core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from analysis.front.anchors import Anchors


#: Costs that differ by less than this share count as equal where a front is shown (:func:`distinct`).
BAND = 0.01
#: A volume that grows by less has not grown.
GROWN = 1e-12


@dataclass(frozen=True)
class Hypervolume:
    """Normalised hypervolume: 1 = the whole box between the worst and the best anchor of every objective.

    ``cut`` counts front points that lie outside the box on the bad side of at least one objective: they add
    nothing.
    """

    value: float
    cut: int
    points: int


@dataclass(frozen=True)
class Knee:
    """The front point farthest from the chord between the front's two ends.

    Attributes:
        index: label of the row in the frame.
        distance: its distance, both objectives scaled to 0..1 over the front.
        cheaper, dearer: (label, change of the benefit, change of the cost as a share of the knee's cost) of
            its neighbours on the front, None at an end.
        order: labels of all front points, farthest from the chord first.
    """

    index: object
    distance: float
    cheaper: tuple[object, float, float] | None
    dearer: tuple[object, float, float] | None
    order: tuple[object, ...]


def nondominated(costs: np.ndarray) -> np.ndarray:
    """(n,) bool mask of the rows of ``costs`` (n, m; minimised, finite) that no row dominates; ties are
    kept.
    """
    return rank_costs(costs, front_only=True) == 0


def rank_costs(costs: np.ndarray, *, front_only: bool = False) -> np.ndarray:
    """(n,) ints: 0 = the front, 1 = the front of the rest, ... (all others 1 if ``front_only``); equal rows
    are equal.
    """
    import moocore

    if len(costs) == 0:
        return np.zeros(0, dtype=int)
    # As np.unique does by rows, at a fifth of its time: that compares rows as records, field by field.
    order = np.lexsort(costs.T[::-1])
    ordered = costs[order]
    first = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))
    rows, back = ordered[first], np.empty(len(costs), dtype=int)
    back[order] = np.cumsum(first) - 1
    if front_only:
        ranks = (~moocore.is_nondominated(rows, keep_weakly=True)).astype(int)
    else:
        ranks = np.asarray(moocore.pareto_rank(rows), dtype=int)
    return ranks[back]


def front(df: pd.DataFrame, objectives: Objectives) -> pd.DataFrame:
    """The rows of ``df`` that no other row dominates, in their order.

    A row dominates another if it is at least as good in every objective and better in one. The number of
    rows that were rejected (not finite) or are no candidates is in ``.attrs["rejected"]``.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"val_accuracy": [90.0, 91.0, 89.0], "macs": [10, 20, 15]})
    >>> front(runs, {"val_accuracy": "max", "macs": "min"}).index.tolist()
    [0, 1]
    """
    values, keep = costs(df, objectives)
    mask = keep.copy()
    mask[keep] = nondominated(values)
    result = df[mask].copy()
    result.attrs["rejected"] = int(len(df) - keep.sum())
    return result


def distinct(df: pd.DataFrame, objectives: Objectives, band: float = BAND) -> pd.DataFrame:
    """The front without its near-ties, for display: costs that differ by at most the share ``band`` count as equal.

    A front point is removed if one that stays is at least as good in every maximised objective and costs at most
    ``1 + band`` times as much in every minimised one: 38 % beside 49 % at equal MACs is not a real choice. The
    removed rows are in ``.attrs["near_ties"]`` by name (of several sweeps ``sweep/model``), each with the one that
    replaces it. ``band=0``: the front as it is, exact twins included.
    """
    if not (np.isfinite(band) and 0 <= band < 1):
        raise ConfigError(f"{band!r} is not a share from 0 to below 1", "band", "for instance 0.01")
    best = front(df, objectives)
    names = next((best[c] for c in ("model", "trial") if c in best.columns), best.index.to_series())
    if "sweep" in df.columns and df["sweep"].nunique() > 1:
        names = best["sweep"].map(str) + "/" + names.map(str)
    best.attrs["near_ties"] = {}
    if not band:
        return best
    values, _ = costs(best, objectives)
    benefit = np.array([direction == "max" for direction in objectives.values()])
    # The best in what is maximised first: whatever could stand for a point is looked at before the point.
    order = np.lexsort([*values[:, ~benefit].T[::-1], *values[:, benefit].T[::-1]])
    # A negative cost (none of ours is) would make the room smaller, not larger.
    reach = np.where(benefit, values, values + band * np.abs(values))
    ordered, stays = values[order], np.zeros(len(order), dtype=bool)
    for i, at in enumerate(order):
        before = ordered[:i]
        close = stays[:i] & (before <= reach[at]).all(axis=1) & (before != values[at]).any(axis=1)
        stays[i] = not close.any()
        if not stays[i]:
            best.attrs["near_ties"][str(names.iloc[at])] = str(names.iloc[order[close.argmax()]])
    result = best.iloc[np.sort(order[stays])].copy()
    result.attrs = best.attrs
    return result


def ranks(df: pd.DataFrame, objectives: Objectives) -> pd.Series:
    """Pareto rank of every row (Int64): 1 = on the front, 2 = on the front once those are gone, ...; <NA> if
    rejected.
    """
    import pandas as pd

    values, keep = costs(df, objectives)
    result = pd.Series(pd.NA, index=df.index, dtype="Int64", name="pareto_rank")
    result[keep] = rank_costs(values) + 1
    return result


def band(df: pd.DataFrame, objectives: Objectives, within: Mapping[str, float]) -> pd.DataFrame:
    """Rows that would be on the front if they were better by ``within`` (absolute, per objective): "almost
    optimal".

    Noise makes rank 1 arbitrary; a band of, say, ``{"val_accuracy": 0.3}`` shows what a lucky seed may have
    hidden.
    """
    for column, width in within.items():
        if column not in objectives:
            raise ConfigError("is not an objective", f"within.{column}", did_you_mean(column, objectives))
        if not (np.isfinite(width) and width >= 0):
            raise ConfigError(f"{width!r} is not a number >= 0", f"within.{column}")
    values, keep = costs(df, objectives)
    widths = np.array([within.get(column, 0.0) for column in objectives])
    best = np.unique(values[nondominated(values)], axis=0)
    improved = values - widths
    almost = np.ones(len(values), dtype=bool)
    for point in best:
        almost &= ~((point <= improved).all(axis=1) & (point < improved).any(axis=1))
    mask = keep.copy()
    mask[keep] = almost
    return df[mask].copy()


def hypervolume(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Hypervolume:
    """Share of the anchors' box that the front dominates (Zitzler and Thiele 1998); higher = better.

    Points better than the best anchor (say, a pruned model that beats its baseline) count with their full
    value, so 1 can be passed. The anchors are fixed by the task, never by the data, so that two sweeps can
    be compared.
    """
    values, _ = costs(df, objectives)
    scaled = anchors.losses(values, objectives)
    best = scaled[nondominated(scaled)]
    inside = (best < 1.0).all(axis=1)
    return Hypervolume(dominated_volume(best), int((~inside).sum()), len(best))


def dominated_volume(losses: np.ndarray) -> float:
    """Share of the box that the rows of ``losses`` (n, m) dominate: 0 = best anchor, 1 = worst, below 0 counts in full.

    Rows outside the box on the bad side, or not finite, add nothing.
    """
    import moocore

    inside = (losses < 1.0).all(axis=1) & np.isfinite(losses).all(axis=1)
    if not inside.any():
        return 0.0
    return float(moocore.hypervolume(losses[inside], ref=np.ones(losses.shape[1])))


def volume_added(front: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(j,) what :func:`dominated_volume` of ``front`` (n, m) grows by when the first, the first two, ... of ``points``
    (j, m) join it.
    """
    front = front[(front < 1.0).all(axis=1)]
    grown, start = front, dominated_volume(front)
    added, so_far = np.zeros(len(points)), 0.0
    for i, point in enumerate(points):
        if (point < 1.0).all() and not (grown <= point).all(axis=1).any():
            grown = np.vstack([grown, point])
            growth = dominated_volume(grown) - start
            so_far = max(so_far, growth if growth > GROWN else 0.0)
        added[i] = so_far
    return added


def contributions(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> pd.Series:
    """The hypervolume that would be lost without the row; 0 off the front and for rows with a twin, NaN if
    rejected.
    """
    import moocore
    import pandas as pd

    values, keep = costs(df, objectives)
    scaled = anchors.losses(values, objectives)
    result = pd.Series(np.nan, index=df.index, name="contribution")
    parts = np.zeros(len(scaled))
    inside = (scaled < 1.0).all(axis=1)
    if inside.any():
        parts[inside] = moocore.hv_contributions(scaled[inside], ref=np.ones(scaled.shape[1]))
    result[keep] = parts
    return result


def spread(df: pd.DataFrame, objectives: Objectives, anchors: Anchors, k: int) -> pd.DataFrame:
    """At most ``k`` rows that represent the front: the least contributor to the hypervolume goes first, one
    at a time.
    """
    if k < 1:
        raise ConfigError(f"{k!r} is not a whole number >= 1", "top")
    chosen = front(df, objectives).drop_duplicates(subset=list(objectives))
    while len(chosen) > k:
        chosen = chosen.drop(index=contributions(chosen, objectives, anchors).idxmin())
    return chosen


def knee(df: pd.DataFrame, benefit: str, cost: str) -> Knee | None:
    """Where the front of (``benefit``: max, ``cost``: min) bends most, or None if it has no bend toward the
    ideal.

    Both objectives are scaled to 0..1 over the front of ``df``; restrict ``df`` to the feasible rows first,
    because one collapsed run at the far end moves the chord and with it the knee. A knee is a suggestion,
    never a default.
    """
    objectives: Objectives = {benefit: "max", cost: "min"}
    best = front(df, objectives).drop_duplicates(subset=list(objectives)).sort_values(cost)
    if len(best) < 3:
        return None
    gain, price = (best[column].to_numpy(dtype=float) for column in (benefit, cost))
    if gain[0] == gain[-1]:  # latencies that cannot be told apart: all of them are one point
        return None
    # After sorting by cost the benefit rises otherwise, so both ends differ and neither scale is zero.
    y = (gain - gain[0]) / (gain[-1] - gain[0])
    x = (price - price[0]) / (price[-1] - price[0])
    distance = (y - x) / np.sqrt(2.0)
    at = int(np.argmax(distance))
    if distance[at] <= 1e-12:
        return None

    def neighbour(i: int) -> tuple[object, float, float] | None:
        if not 0 <= i < len(best):
            return None
        return best.index[i], float(gain[i] - gain[at]), float(price[i] / price[at] - 1.0)

    order = tuple(best.index[i] for i in np.argsort(-distance, kind="stable"))
    return Knee(best.index[at], float(distance[at]), neighbour(at - 1), neighbour(at + 1), order)


def supported(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> pd.Series:
    """Per front row of two objectives: whether some weighted sum picks it (it lies on the lower convex
    hull).
    """
    import pandas as pd

    best = front(df, objectives)
    points = anchors.losses(costs(best, objectives)[0], objectives)
    order = np.lexsort((points[:, 1], points[:, 0]))
    hull: list[int] = []
    for i in order:
        while len(hull) > 1 and _turn(points[hull[-2]], points[hull[-1]], points[i]) < -1e-15:
            hull.pop()
        hull.append(int(i))
    on_hull = {tuple(points[i]) for i in hull}
    return pd.Series([tuple(p) in on_hull for p in points], index=best.index, name="supported")


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Positive if the path a, b, c turns left."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
