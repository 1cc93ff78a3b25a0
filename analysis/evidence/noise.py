"""Seeds are replicates: means and spreads per configuration, a robust front, and how sure the front is.

A front of single-seed trials is optimistic, because the best of many noisy numbers is partly luck. Rank by
mean, never by the best seed, and confirm the choice on fresh seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.front import pareto
from analysis.front.objectives import Objectives, minimised, usable
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Confirmation:
    """What fresh seeds say about a configuration.

    Attributes:
        selected: the value it was chosen by (mean over the seeds of the search).
        n: fresh runs; ``mean`` is theirs, ``low`` to ``high`` the interval for the true mean.
        drop: selected - mean; positive where the search was lucky (for a maximised column).
        spread_from: ``these runs``, or ``all configurations`` if there is a single fresh run.
        trial, config_id: the configuration and its first trial; ``macs`` the mean of the fresh runs.
    """

    column: str
    config_id: str
    trial: str
    macs: float
    selected: float
    n: int
    mean: float
    low: float
    high: float
    level: float
    drop: float
    spread_from: str


#: Rows of the search; confirm runs never take part in choosing.
SEARCH = ("trial",)
#: Rows that tell the noise: runs of equal configuration differ only by their seed.
REPLICATES = ("trial", "confirm")


def by_config(df: pd.DataFrame, columns: Sequence[str], kinds: Sequence[str] = SEARCH) -> pd.DataFrame:
    """One row per configuration: ``sweep, config_id, trial`` (first id), ``trials`` (all ids), ``n``, and
    for each of ``columns`` its mean under the column's name and its standard deviation (n - 1) as
    ``<column>_std`` (NaN if n = 1).
    """
    import pandas as pd

    rows = _sound(df, columns, kinds)
    groups = rows.groupby(["sweep", "config_id"], sort=False, dropna=False)
    result = pd.DataFrame({"trial": groups["trial"].first(), "n": groups.size()})
    result["trials"] = groups["trial"].agg(lambda ids: ", ".join(sorted(ids)))
    for column in columns:
        result[column] = groups[column].mean().astype(float)
        result[f"{column}_std"] = groups[column].std(ddof=1).astype(float)
    result = result.reset_index()
    result["candidate"] = True
    return result


def _sound(df: pd.DataFrame, columns: Sequence[str], kinds: Sequence[str]) -> pd.DataFrame:
    """Finished rows of these kinds with a finite value in every column."""
    rows = df[df["kind"].isin(kinds) & (df["left_out"] == "")]
    return rows[usable(rows[list(columns)].to_numpy(dtype=float, na_value=np.nan))]


def replicates(df: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """:func:`by_config` rows of search and confirm runs apart (column ``kind``): what tells the noise.

    Apart, because the search's value of a chosen configuration is lucky and would make the spread look larger.
    """
    import pandas as pd

    parts = [by_config(df, columns, (kind,)).assign(kind=kind) for kind in REPLICATES]
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def pooled_std(groups: pd.DataFrame, column: str) -> float:
    """Standard deviation between seeds, pooled over all configurations that have several (degrees of freedom
    n - 1).

    Raises:
        ConfigError: no configuration was run with more than one seed.
    """
    many = groups[groups["n"] > 1]
    freedom = (many["n"] - 1).sum()
    if not freedom:
        raise ConfigError(
            "no configuration was run with more than one seed, so the noise is unknown",
            column,
            "search the seed too (seed: {choice: [0, 1, 2]}), or confirm the finalists",
        )
    return float(np.sqrt(((many["n"] - 1) * many[f"{column}_std"] ** 2).sum() / freedom))


def robust_front(
    groups: pd.DataFrame, objectives: Objectives, k: float = 1.0, noise: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Front of the pessimistic values mean - k std (mean + k std where minimised) of :func:`by_config` rows.

    The spread of a single configuration is too uncertain to rank by, so the pooled one (of ``noise``, as
    :func:`replicates` returns it; default ``groups``) is used for all; the standard error shrinks with a
    configuration's own number of seeds.
    """
    shifted = groups.copy()
    for column, direction in objectives.items():
        error = pooled_std(groups if noise is None else noise, column) / np.sqrt(groups["n"])
        shifted[column] = groups[column] - k * error if direction == "max" else groups[column] + k * error
    return groups.loc[pareto.front(shifted, objectives).index]


def front_probability(
    df: pd.DataFrame,
    objectives: Objectives,
    *,
    kinds: Sequence[str] = REPLICATES,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """:func:`by_config` rows with ``probability``: share of bootstrap draws in which the configuration is on
    the front.

    Each draw moves every mean by the mean of n residuals drawn from all configurations with several seeds
    (each residual is inflated by sqrt(n / (n - 1)), which removes the bias of residuals about their own
    mean). Residuals of one run stay together, so correlated objectives stay correlated. Every seed of a configuration
    counts, fresh ones of confirm runs too; configurations that only have confirm runs are left out.
    """
    columns = list(objectives)
    groups = by_config(df, columns, kinds)
    searched = set(_sound(df, columns, SEARCH)["config_id"])
    groups = groups[groups["config_id"].isin(searched)].reset_index(drop=True)
    residuals = _residuals(df, columns)
    rng = np.random.default_rng(seed)
    means = groups[columns].to_numpy(dtype=float)
    counts = groups["n"].to_numpy()
    hits = np.zeros(len(groups))
    for _ in range(draws):
        moved = means.copy()
        for n in np.unique(counts):
            of_n = np.flatnonzero(counts == n)
            picked = residuals[rng.integers(len(residuals), size=(len(of_n), n))]
            moved[of_n] += picked.mean(axis=1)
        hits += pareto.nondominated(minimised(moved, objectives.values()))
    return groups.assign(probability=hits / draws)


def _residuals(df: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """(r, m) unbiased residuals of all runs whose configuration has several seeds of one kind."""
    groups = replicates(df, columns)
    for column in columns:
        pooled_std(groups, column)
    many = groups.loc[groups["n"] > 1, ["sweep", "config_id", "kind", "n", *columns]]
    keys = ["sweep", "config_id", "kind"]
    rows = _sound(df, columns, REPLICATES)[[*keys, *columns]]
    joined = rows.merge(many, on=keys, suffixes=("", "_mean"))
    raw = joined[columns].to_numpy(dtype=float) - joined[[f"{c}_mean" for c in columns]].to_numpy(dtype=float)
    n = joined["n"].to_numpy(dtype=float)[:, None]
    return raw * np.sqrt(n / (n - 1))


def confirm(
    df: pd.DataFrame, config_id: str, column: str = "val_accuracy", level: float = 0.8
) -> Confirmation:
    """Compare what a configuration was chosen by with what its confirm runs (kind=confirm, fresh seeds) give.

    The interval is Student's t for the mean of the confirm runs; with a single one, the spread pooled over all
    configurations with several seeds stands in.

    Raises:
        ConfigError: the configuration has no confirm run, or nothing tells the noise.
    """
    chosen, fresh = (_sound(df, [column], (kind,)) for kind in REPLICATES)
    chosen, fresh = (rows[rows["config_id"] == config_id] for rows in (chosen, fresh))
    if fresh.empty or chosen.empty:
        raise ConfigError("has no finished confirm run", config_id, "run the finalists again on fresh seeds")
    pooled = _pooled(df, column) if len(fresh) == 1 else None
    return _confirmation(config_id, chosen, fresh, column, level, pooled)


def confirmations(df: pd.DataFrame, column: str = "val_accuracy", level: float = 0.8) -> list[Confirmation]:
    """:func:`confirm` for every configuration of the search that has finished confirm runs, fewest MACs first.

    A configuration with a single fresh run is left out where no other tells the noise.
    """
    chosen, fresh = (dict(iter(_sound(df, [column], (kind,)).groupby("config_id"))) for kind in REPLICATES)
    both = [config_id for config_id in fresh if config_id in chosen]
    try:
        pooled = _pooled(df, column) if any(len(fresh[one]) == 1 for one in both) else None
    except ConfigError:
        pooled = None
        both = [one for one in both if len(fresh[one]) > 1]
    found = [_confirmation(str(one), chosen[one], fresh[one], column, level, pooled) for one in both]
    return sorted(found, key=lambda c: (c.macs, c.config_id))


def _pooled(df: pd.DataFrame, column: str) -> tuple[float, int]:
    """Spread between seeds over all configurations, and its degrees of freedom."""
    groups = replicates(df, [column])
    return pooled_std(groups, column), int((groups["n"] - 1).clip(lower=0).sum())


def _confirmation(
    config_id: str,
    chosen: pd.DataFrame,
    fresh: pd.DataFrame,
    column: str,
    level: float,
    pooled: tuple[float, int] | None,
) -> Confirmation:
    from scipy import stats

    values = fresh[column].to_numpy(dtype=float)
    n, mean, source = len(values), float(values.mean()), "these runs"
    if n > 1:
        spread, freedom = float(values.std(ddof=1)), n - 1
    else:
        assert pooled is not None  # the callers see to it
        (spread, freedom), source = pooled, "all configurations"
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * spread / np.sqrt(n)
    selected = float(chosen[column].mean())
    trial, macs = str(chosen["trial"].iloc[0]), float(fresh["macs"].mean())
    drop = selected - mean
    return Confirmation(
        column, config_id, trial, macs, selected, n, mean, mean - half, mean + half, level, drop, source
    )
