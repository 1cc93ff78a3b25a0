"""Which of several sweeps, criteria or samplers found the better front, and whether the data can tell.

The unit of evidence is a seed: one hypervolume per seed with the same fixed anchors, then an exact
permutation test. Where so few seeds cannot reach 5 %, that is said instead of a p-value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from analysis import pareto
from analysis.anchors import Anchors, anchors_for
from gcp_core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

#: Exact up to this many rearrangements, drawn at random beyond.
_EXACT = 200_000
_LEVEL = 0.05


@dataclass(frozen=True)
class Test:
    """A two-sided permutation test of ``first`` against ``second``.

    Attributes:
        difference: mean of first - mean of second; ``low`` to ``high`` its 95 % bootstrap interval.
        p: two-sided p-value; ``smallest``: the smallest this design could give.
        decided: p <= 0.05. ``verdict`` says it in words.
    """

    first: str
    second: str
    what: str
    n_first: int
    n_second: int
    difference: float
    low: float
    high: float
    p: float
    smallest: float
    exact: bool
    decided: bool
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Hypervolume per label and seed, the tests between all pairs of labels, and what was held equal."""

    volumes: pd.DataFrame
    tests: tuple[Test, ...]
    anchors: str
    equal: str


def split(df: pd.DataFrame, by: str) -> dict[str, pd.DataFrame]:
    """The candidates of a table by the values of one column (``sweep``, ``prune.criterion``, ...).

    Raises:
        ConfigError: no such column, or it has a single value.
    """
    if by not in df.columns:
        raise ConfigError("no such column", by, did_you_mean(by, df.columns))
    rows = df[df["candidate"]]
    parts = {str(value): part for value, part in rows.groupby(by, sort=True)}
    if len(parts) < 2:
        raise ConfigError(f"has a single value ({', '.join(parts) or 'none'}): nothing to compare", by)
    return parts


def check_comparable(df: pd.DataFrame) -> None:
    """Refuse sweeps on different data or with different baselines.

    Raises:
        ConfigError: names what differs.
    """
    if df["sweep"].nunique() < 2:
        return
    different = []
    for column in [c for c in df.columns if c.startswith("data.")]:
        values = df.groupby("sweep")[column].agg(lambda v: ", ".join(sorted(set(v.astype(str)))))
        if values.nunique() > 1:
            different.append(f"{column}: " + " / ".join(f"{v} ({k})" for k, v in values.items()))
    base = df[df["kind"] == "baseline"].groupby("sweep")["macs"].max()
    if base.nunique() > 1:
        different.append("baseline MACs: " + " / ".join(f"{v:g} ({k})" for k, v in base.items()))
    if different:
        raise ConfigError(
            "the sweeps do not answer the same question: " + "; ".join(different),
            "compare",
            "--force compares anyway",
        )


def compare(
    df: pd.DataFrame,
    by: str = "sweep",
    *,
    equal: str = "device_hours",
    objectives: pareto.Objectives | None = None,
) -> Comparison:
    """Compare the fronts of the groups of ``by``, seed by seed, at equal cost.

    Args:
        equal: what is held equal: each group and seed only counts the trials that ended before the cheapest
            of all had spent its ``device_hours``, ``epochs`` or ``trials``; ``nothing`` takes all.
    """
    goals = objectives or df.attrs["objectives"]
    scales = anchors_for(df, goals)
    parts = {label: _at_equal_cost(df, part, by, equal) for label, part in split(df, by).items()}
    volumes = seed_volumes(parts, goals, scales)
    values = {label: rows["hypervolume"].to_numpy() for label, rows in volumes.groupby("label", sort=True)}
    tests = tuple(permutation_test(values[a], values[b], a, b) for a, b in combinations(values, 2))
    return Comparison(volumes, tests, scales.describe(), equal)


def _at_equal_cost(df: pd.DataFrame, part: pd.DataFrame, by: str, equal: str) -> pd.DataFrame:
    if equal == "nothing":
        return part
    if equal not in ("device_hours", "epochs", "trials"):
        raise ConfigError(
            f"{equal!r} cannot be held equal", "--equal", "device_hours, epochs, trials or nothing"
        )
    rows = df[df["candidate"]]
    totals = [_cost(g, equal).iloc[-1] for _, g in rows.groupby([by, "seed"]) if len(g)]
    limit = min(totals) * (1 + 1e-9)
    kept = [g[(_cost(g, equal) <= limit).reindex(g.index)] for _, g in part.groupby("seed")]
    import pandas as pd

    return pd.concat(kept)


def _cost(rows: pd.DataFrame, equal: str) -> pd.Series:
    """Running cost of trials in the order they ended."""
    import pandas as pd

    ordered = rows.sort_values(["ended", "trial"], kind="stable")
    each = pd.Series(1.0, index=ordered.index) if equal == "trials" else ordered[equal].fillna(0.0)
    return each.cumsum()


def seed_volumes(
    parts: Mapping[str, pd.DataFrame], goals: pareto.Objectives, scales: Anchors
) -> pd.DataFrame:
    """One row per label and seed: ``label, seed, trials, hypervolume``."""
    import pandas as pd

    rows = [
        {
            "label": label,
            "seed": seed,
            "trials": len(g),
            "hypervolume": pareto.hypervolume(g, goals, scales).value,
        }
        for label, part in parts.items()
        for seed, g in part.groupby("seed")
    ]
    return pd.DataFrame(rows)


def permutation_test(
    a: np.ndarray, b: np.ndarray, first: str, second: str, what: str = "hypervolume"
) -> Test:
    """Two-sided test of equal means over all ways to deal the seeds to two groups (random ones beyond
    200,000).
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    ways = math.comb(len(a) + len(b), len(a))
    # With equal sizes every arrangement has a mirror image with the same distance.
    smallest = min(1.0, (2.0 if len(a) == len(b) else 1.0) / ways)
    pool, observed = np.concatenate([a, b]), a.mean() - b.mean()
    if ways <= _EXACT:
        sums = np.array([pool[list(chosen)].sum() for chosen in combinations(range(len(pool)), len(a))])
    else:
        rng = np.random.default_rng(0)
        sums = np.array([rng.permutation(pool)[: len(a)].sum() for _ in range(20_000)])
    distance = np.abs(sums / len(a) - (pool.sum() - sums) / len(b))
    extreme = int((distance >= abs(observed) - 1e-12).sum())
    p = extreme / len(sums) if ways <= _EXACT else (extreme + 1) / (len(sums) + 1)
    low, high = _interval(a, b)
    return _test(first, second, what, a, b, (observed, low, high), (p, smallest, ways <= _EXACT))


def paired_test(differences: np.ndarray, first: str, second: str, what: str) -> Test:
    """Two-sided sign-flip test that paired differences (first - second, same configuration and seed) have
    mean 0.
    """
    d = np.asarray(differences, dtype=float)
    exact = len(d) <= 16
    if exact:
        signs = np.array(list(product((1.0, -1.0), repeat=len(d))))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), size=(20_000, len(d)))
    distance = np.abs(signs @ d) / len(d)
    extreme = int((distance >= abs(d.mean()) - 1e-12).sum())
    p = extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)
    rng = np.random.default_rng(0)
    means = d[rng.integers(len(d), size=(5000, len(d)))].mean(axis=1)
    low, high = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    return _test(
        first, second, what, d, d, (float(d.mean()), low, high), (p, min(1.0, 2.0 / 2 ** len(d)), exact)
    )


def paired_differences(df: pd.DataFrame, by: str, first: str, second: str, column: str) -> np.ndarray:
    """``column`` of first - second for every configuration and seed that both have (all other parameters
    equal).
    """
    from analysis.table import config_columns

    rows = df[df["candidate"]]
    same = [c for c in config_columns(df) if c != by]
    # map, not astype: pandas keeps missing values missing when it turns a column into text
    keys = rows[[*same, "seed"]].map(str).agg("|".join, axis=1)
    values = {
        label: rows[rows[by].astype(str) == label].groupby(keys)[column].mean() for label in (first, second)
    }
    both = values[first].index.intersection(values[second].index)
    return (values[first][both] - values[second][both]).to_numpy(dtype=float)


def _interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the difference of means."""
    rng = np.random.default_rng(0)
    draws = [s[rng.integers(len(s), size=(5000, len(s)))].mean(axis=1) for s in (a, b)]
    low, high = np.quantile(draws[0] - draws[1], (0.025, 0.975))
    return float(low), float(high)


def _test(
    first: str,
    second: str,
    what: str,
    a: np.ndarray,
    b: np.ndarray,
    effect: tuple[float, float, float],
    chance: tuple[float, float, bool],
) -> Test:
    difference, low, high = effect
    p, smallest, exact = chance
    interval = (
        f"95 % interval {low:+.4g} to {high:+.4g}" if min(len(a), len(b)) > 1 else "one value: no interval"
    )
    said = f"{first} against {second}, {what}: {difference:+.4g} ({interval})"
    if smallest > _LEVEL:
        n = f"{len(a)} pairs" if a is b else f"{len(a)} and {len(b)} seeds"
        verdict = f"{said}; {n} cannot reach 5 % (smallest possible p = {smallest:.2g}): undecided"
    elif p <= _LEVEL:
        verdict = f"{said}; p = {p:.3g}: {first if difference > 0 else second} is better"
    else:
        verdict = f"{said}; p = {p:.3g}: the data cannot tell them apart"
    decided = bool(p <= _LEVEL and smallest <= _LEVEL)
    counts = (len(a), len(b))
    return Test(
        first,
        second,
        what,
        *counts,
        float(difference),
        low,
        high,
        float(p),
        smallest,
        exact,
        decided,
        verdict,
    )
