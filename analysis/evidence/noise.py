"""Seeds are replicates: means and spreads per configuration, a robust front, and what is surely not on the front.

A front of single-seed trials is optimistic, because the best of many noisy numbers is partly luck. Rank by
mean, never by the best seed, and confirm the choice on fresh seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from analysis import text
from analysis.front import pareto
from analysis.front.objectives import Objectives, minimised, usable
from analysis.runs.models import broke_a_limit, of_the_search
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Confirmation:
    """What fresh seeds show about a configuration.

    Attributes:
        selected: the value it was chosen by (mean over the seeds of the search).
        n: fresh runs; ``mean`` is theirs, ``low`` to ``high`` the interval for the true mean.
        drop: selected - mean; positive where the search was lucky (for a maximised column).
        spread_from: ``these runs``, or ``all configurations`` if there is a single fresh run; ``nothing``: no interval.
        failed: fresh runs that ended without this model (diverged, failed, lost, refused); the mean cannot have them.
            Where all have, ``n`` is 0, and ``mean`` to ``high`` and ``drop`` are NaN.
        accuracy_drop: mean of what the fresh runs lost, each against the baseline of its own seed, points; NaN where
            one of them has none.
        config_id, model, trial: the configuration, its first model and trial; ``macs`` the mean of the fresh runs.
    """

    column: str
    config_id: str
    model: str
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
    failed: int = 0
    accuracy_drop: float = math.nan


#: Rows of the search; confirm runs never take part in choosing.
SEARCH = ("trial",)
#: Rows that tell the noise: runs of equal configuration differ only by their seed.
REPLICATES = ("trial", "confirm")
#: Ends of a fresh run that is trained no further: what it has not left by then it never will.
_ENDED = ("failed", "diverged", "lost", "infeasible")
#: Models of a sweep that agree in this differ only by their seed: snapshots of one number of paths of one configuration.
SETTING = ["config_id", "level"]
#: Rows of the pairwise comparison held in memory at a time.
_CHUNK = 256


def by_config(df: pd.DataFrame, columns: Sequence[str], kinds: Sequence[str] = SEARCH) -> pd.DataFrame:
    """One row per configuration, of paths per configuration and level: ``sweep, config_id, level, model`` and ``trial``
    (the first ones, of the search if it has one), ``trials`` and ``models`` (all), ``n``, and for each of ``columns`` its
    mean under the column's name and its standard deviation (n - 1) as ``<column>_std`` (NaN if n = 1).

    Seeds that broke a limit count too, if another one of the search kept it (:func:`_sound`).
    """
    import pandas as pd

    rows = _sound(df, columns, kinds)
    # Candidates first: they give the row its name.
    rows = rows.iloc[np.lexsort([rows["left_out"] != "", rows["kind"] != "trial"])]
    groups = rows.groupby(["sweep", *SETTING], sort=False, dropna=False)
    result = pd.DataFrame({name: groups[name].first() for name in ("model", "trial")} | {"n": groups.size()})
    for name in ("trial", "model"):
        result[f"{name}s"] = groups[name].agg(lambda ids: ", ".join(sorted(ids)))
    for column in columns:
        result[column] = groups[column].mean().astype(float)
        result[f"{column}_std"] = groups[column].std(ddof=1).astype(float)
    result = result.reset_index()
    result["candidate"] = True
    return result


def _sound(df: pd.DataFrame, columns: Sequence[str], kinds: Sequence[str]) -> pd.DataFrame:
    """Finished rows of these kinds with a finite value in every column; a polished model is not a run of its setting.

    Of a setting that the search may choose, runs on other seeds that broke a limit count as those that kept it: the
    mean of the ones that did well enough would only say that they did.
    """
    rows = of_the_search(df)
    counts, broke = rows["left_out"] == "", broke_a_limit(rows)
    if broke.any():
        chosen = set(_settings(rows[counts & rows["kind"].isin(SEARCH)]))
        counts |= broke & np.array([setting in chosen for setting in _settings(rows)])
    rows = rows[rows["kind"].isin(kinds) & counts]
    return rows[usable(rows[list(columns)].to_numpy(dtype=float, na_value=np.nan))]


def _settings(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Sweep and what only the seed is missing to, as something that can be compared (missing levels cannot)."""
    return [tuple(map(str, setting)) for setting in zip(*(rows[name] for name in ("sweep", *SETTING)))]


def _selected(df: pd.DataFrame, column: str) -> pd.DataFrame:
    """What the search could choose."""
    rows = _sound(df, [column], SEARCH)
    return rows[rows["left_out"] == ""]


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
    weight = (many["n"] - 1).sum()
    if not weight:
        raise ConfigError(
            "no configuration was run with more than one seed, so the noise is unknown",
            column,
            "search the seed too (seed: {choice: [0, 1, 2]}), or confirm the finalists",
        )
    return float(np.sqrt(((many["n"] - 1) * many[f"{column}_std"] ** 2).sum() / weight))


def extent(groups: pd.DataFrame) -> str:
    """How much :func:`by_config` rows are about: ``5 configurations``, or ``19 levels of 3 configurations``."""
    number = text.plural(groups[["sweep", "config_id"]].drop_duplicates().shape[0], "configuration")
    return f"{text.plural(len(groups), 'level')} of {number}" if groups["level"].notna().any() else number


def freedom(groups: pd.DataFrame) -> int:
    """Degrees of freedom of the pooled spread of :func:`by_config` rows: n - 1 of every configuration.

    The snapshots of one path share their training, so the levels of a configuration add no evidence: they count as one,
    the one with most runs.
    """
    keys = [name for name in ("sweep", "config_id", "kind") if name in groups.columns]
    return int((groups.groupby(keys, dropna=False)["n"].max() - 1).clip(lower=0).sum())


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


def ruled_out(
    df: pd.DataFrame, objectives: Objectives, *, kinds: Sequence[str] = REPLICATES, level: float = 0.05
) -> pd.DataFrame:
    """:func:`by_config` rows with ``ruled_out``: some other configuration is better in every objective by more than
    noise explains, so this one is not on the front. One that truly is gets ruled out with a chance of at most ``level``.

    One-sided t-tests with the pooled spread, at ``level`` / (number of other configurations); an objective without any
    spread counts as it is. Every seed of a configuration counts, fresh ones of confirm runs too; configurations that only
    have confirm runs are left out.

    No chance of being on the front is given: a bootstrap over seeds and a posterior about a smooth trend were off by up
    to 31 and 17 points in simulated sweeps (``benchmarks/search/analysis_calibration.py``), because the chance depends on
    where the configurations near the front are, which so few of them cannot show.
    """
    from scipy import stats

    columns = list(objectives)
    groups = by_config(df, columns, kinds)
    searched = set(_settings(_sound(df, columns, SEARCH)))
    groups = groups.loc[[one in searched for one in _settings(groups)]].reset_index(drop=True)
    apart = replicates(df, columns)
    spread = np.array([pooled_std(apart, column) for column in columns])
    quantile = float(stats.t.ppf(1.0 - level / max(1, len(groups) - 1), freedom(apart)))
    values = minimised(groups[columns].to_numpy(dtype=float), objectives.values())
    parts = 1.0 / groups["n"].to_numpy(dtype=float)
    rivals = _rivals(values, groups["n"].to_numpy())
    beaten = np.zeros(len(groups), dtype=bool)
    for at in range(0, len(groups), _CHUNK):
        rows = slice(at, at + _CHUNK)
        gain = values[rows, None, :] - values[None, rivals, :]
        margin = quantile * np.sqrt(parts[rows, None, None] + parts[None, rivals, None]) * spread
        surely = np.where(spread > 0, gain > margin, gain >= 0)
        beaten[rows] = (surely.all(axis=2) & (gain > 0).any(axis=2)).any(axis=1)
    return groups.assign(ruled_out=beaten)


def _rivals(values: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """(k,) positions of configurations: whatever is beaten is beaten by one of them. They are the front of those with
    equally many seeds, and so equal margins.
    """
    groups = [np.flatnonzero(seeds == n) for n in np.unique(seeds)]
    return np.concatenate([group[pareto.nondominated(values[group])] for group in groups])


def confirm(
    df: pd.DataFrame,
    config_id: str,
    column: str = "val_accuracy",
    level: float = 0.8,
    snapshot: int | None = None,
) -> Confirmation:
    """Compare what a configuration (of a path: its ``snapshot``) was chosen by with what its confirm runs (kind=confirm,
    fresh seeds) give.

    The interval is Student's t for the mean of the confirm runs; with a single one, the spread pooled over all
    configurations with several seeds stands in.

    Raises:
        ConfigError: the configuration has no confirm run, or nothing tells the noise.
    """
    chosen, fresh = _selected(df, column), _sound(df, [column], ("confirm",))
    setting = str(config_id), "<NA>" if snapshot is None else str(snapshot)
    chosen, fresh = (rows.loc[[one[1:] == setting for one in _settings(rows)]] for rows in (chosen, fresh))
    if fresh.empty or chosen.empty:
        raise ConfigError("has no finished confirm run", config_id, "run the finalists again on fresh seeds")
    pooled = _pooled(df, column) if len(fresh) == 1 else None
    return _confirmation(
        chosen, fresh, column, level, pooled, _ended(df).get(_settings(chosen)[0][:2], set())
    )


def confirmations(
    df: pd.DataFrame, column: str = "val_accuracy", level: float = 0.8, among: pd.DataFrame | None = None
) -> list[Confirmation]:
    """:func:`confirm` for every configuration of the search that has confirm runs that ended, of paths for every level,
    fewest MACs first. Of several sweeps each has its own, with the sweep before the name of the model: runs that two of
    them have in common are not twice as many.

    Where nothing tells the noise of a single fresh run, ``low`` and ``high`` are NaN. If ``among`` is given,
    configurations and levels without a row in it are left out.
    """
    search, fresh = _selected(df, column), _by_setting(_sound(df, [column], ("confirm",)))
    none, ended = df.iloc[:0], _ended(df)
    settings = _settings(search)
    wanted = set(settings if among is None else _settings(among))
    tried = [one in wanted and (one in fresh or one[:2] in ended) for one in settings]
    chosen = _by_setting(search.loc[np.array(tried, dtype=bool)])
    both = list(chosen)
    try:
        pooled = _pooled(df, column) if any(len(fresh.get(one, none)) == 1 for one in both) else None
    except ConfigError:
        pooled = None
    found = [
        _confirmation(chosen[one], fresh.get(one, none), column, level, pooled, ended.get(one[:2], set()))
        for one in both
    ]
    if df["sweep"].nunique() > 1:
        found = [replace(one, model=f"{sweep}/{one.model}") for one, (sweep, *_) in zip(found, both)]
    return sorted(found, key=lambda c: (c.macs, c.config_id))


def _by_setting(rows: pd.DataFrame) -> dict[tuple[str, ...], pd.DataFrame]:
    return {_settings(part)[0]: part for _, part in rows.groupby(["sweep", *SETTING], dropna=False)}


def _ended(df: pd.DataFrame) -> dict[tuple[str, ...], set[str]]:
    """Sweep and configuration -> confirm runs that ended badly, whatever models they may have left before."""
    if "trial_status" not in df.columns:
        return {}
    runs = df[(df["kind"] == "confirm") & df["trial_status"].isin(_ENDED)]
    found: dict[tuple[str, ...], set[str]] = {}
    for (sweep, config, _), trial in zip(_settings(runs), runs["trial"]):
        found.setdefault((sweep, config), set()).add(trial)
    return found


def _pooled(df: pd.DataFrame, column: str) -> tuple[float, int]:
    """Spread between seeds over all configurations, and its degrees of freedom."""
    groups = replicates(df, [column])
    return pooled_std(groups, column), freedom(groups)


def _confirmation(
    chosen: pd.DataFrame,
    fresh: pd.DataFrame,
    column: str,
    level: float,
    pooled: tuple[float, int] | None,
    ended: set[str],
) -> Confirmation:
    """``ended``: confirm runs of the configuration that ended badly."""
    values = fresh[column].to_numpy(dtype=float)
    mean, half, source = _mean(values, level, pooled)
    selected, lost = float(chosen[column].mean()), math.nan
    if len(fresh) and "accuracy_drop" in fresh.columns:
        lost = float(fresh["accuracy_drop"].astype(float).mean(skipna=False))
    config_id, model, trial = (str(chosen[name].iloc[0]) for name in ("config_id", "model", "trial"))
    return Confirmation(
        column,
        config_id,
        model,
        trial,
        macs=float((fresh if len(fresh) else chosen)["macs"].mean()),
        selected=selected,
        n=len(values),
        mean=mean,
        low=mean - half,
        high=mean + half,
        level=level,
        drop=selected - mean,
        spread_from=source,
        failed=len(ended - set(fresh["trial"])),
        accuracy_drop=lost,
    )


def _mean(values: np.ndarray, level: float, pooled: tuple[float, int] | None) -> tuple[float, float, str]:
    """(mean, half the width of its interval, whose spread it rests on), NaN where that is not known."""
    from scipy import stats

    n, source = len(values), "these runs"
    if n > 1:
        spread, degrees = float(values.std(ddof=1)), n - 1
    elif n and pooled is not None:
        (spread, degrees), source = pooled, "all configurations"
    else:
        return float(values[0]) if n else math.nan, math.nan, "nothing"
    # Not stats.t.interval: it is NaN where all runs agree.
    return float(values.mean()), float(stats.t.ppf(0.5 + level / 2, degrees)) * spread / np.sqrt(n), source
