"""Which searched parameters mattered, how sure that is, and "no evidence" where the trials show none.

Forests learn the target from a part of the trials and are judged on the rest. One set of such draws gives everything: how
much of the variation they predict (out-of-bag R2), what each parameter adds to that with its range, and, repeated with
shuffled targets, how much a parameter seems to add where it does nothing. Shares that sum to one whatever the data, as
fANOVA's and PED-ANOVA's do, cannot say "nothing mattered"; for those, ask Optuna: the ledger is one of its studies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from analysis.errors import NothingFeasible
from analysis.evidence import forest
from analysis.evidence.compare import entrants
from analysis.front import pareto
from analysis.front.anchors import anchors_for
from analysis.front.objectives import usable
from analysis.plain import rows_of
from analysis.runs.models import broke_a_limit, one_per_trial, word
from analysis.runs.table import varying
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd

METHOD = "random forests, judged on the trials they did not learn from"
#: What is explained in a sweep of paths: how much of the objectives' box a path's snapshots cover.
PATHS = "hypervolume of a path"
#: Fewer trials than this say nothing about importance.
FEWEST = 10
#: More are drawn from at random: what matters shows in so many, and the null takes forty times as long as the answer.
MOST = 400
#: Shuffled targets; the smallest p is 1 / 40.
_NULLS = 39
_LEVEL = 0.05


def importance(
    df: pd.DataFrame, target: str = "val_accuracy", *, repeats: int = 10, seed: int = 0
) -> pd.DataFrame:
    """One row per searched parameter, most important first. In a sweep of paths the target is a path's hypervolume
    (``df.attrs["objectives"]``), whatever was asked for. A trial that made the same model as an earlier one counts: its
    setting led there too. So does one that broke a limit, as those that kept it differ less in what it is about; of a
    path only the models that keep the limits make its hypervolume. Trials that failed or were stopped do not count.

    Columns:
        parameter: dotted configuration path. Trials without a value (``null``) are a value of their own.
        importance: share (0..1) of the variation of ``target`` that goes with it, interactions included: the median over
            ``repeats`` draws that learn from 63 % of the trials and are judged on the rest; ``low`` and ``high`` are the
            10 % and 90 % points of the same draws.
        p: chance that any parameter seems so important where all that were not found before it do nothing (39 shuffled
            targets, corrected for the number of parameters); ``evidence``: p <= 0.05.
        r2: share of the variation that all parameters together predict on trials held out (median of the same draws);
            below 0 where the mean predicts better.
        trials, target, method: what it rests on. Of more than 400 trials that many are drawn.

    The null shuffles trials, so p is exact where the sampler did not learn from results (random, grid) and a guide where
    it did (TPE).

    Raises:
        NothingFeasible: fewer than ten finished trials.
        ConfigError: nothing was searched, or the target is unknown.
    """
    import pandas as pd

    if target not in FINALS or target not in df.columns:
        raise ConfigError("no such value", target, did_you_mean(target, FINALS))
    df = entrants(df)
    broke = broke_a_limit(df) & (df["kind"] == "trial" if "kind" in df.columns else True)
    rows = df[(df["candidate"] | broke) & usable(df[[target]].to_numpy(dtype=float, na_value=np.nan))]
    names = varying(rows.assign(candidate=True))
    if word(rows) == "model":
        rows, target = _one_per_path(df, rows), PATHS
    if len(rows) < FEWEST:
        raise NothingFeasible(
            f"{len(rows)} finished trials say nothing about importance", "importance", f"{FEWEST} do"
        )
    if not names:
        raise ConfigError("nothing was searched: no parameter varies", "importance")
    rng = np.random.default_rng(seed)
    if len(rows) > MOST:
        rows = rows.iloc[np.sort(rng.choice(len(rows), MOST, replace=False))]
    x, y = forest.encode(rows, names), rows[target].to_numpy(dtype=float)
    draws = forest.draw(len(rows), repeats, rng)
    fits, parts = forest.judge(x, y, draws, seed)
    # Below 0 is chance, above 1 is a few odd trials held out; clipping keeps the order of median and quantiles.
    parts = parts.clip(0.0, 1.0)
    low, middle, high = np.quantile(parts, (0.1, 0.5, 0.9), axis=0)
    p = _chances(x, y, draws, middle, rng)
    table = pd.DataFrame({"parameter": names, "importance": middle, "low": low, "high": high, "p": p})
    table["evidence"] = table["p"] <= _LEVEL
    table["r2"], table["trials"] = float(np.median(fits)), len(rows)
    table["target"], table["method"] = target, METHOD
    return table.sort_values(["evidence", "importance"], ascending=False, ignore_index=True, kind="stable")


def _one_per_path(df: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per trial with the hypervolume of its models: snapshots of one path share a training and a configuration,
    so the path is what can be explained.
    """
    goals = df.attrs["objectives"]
    scales = anchors_for(df, goals)
    volumes = {
        key: pareto.hypervolume(part, goals, scales).value for key, part in rows.groupby(["sweep", "trial"])
    }
    last = one_per_trial(rows)
    return last.assign(**{PATHS: [volumes[key] for key in zip(last["sweep"], last["trial"])]})


def _chances(
    x: forest.Features, y: np.ndarray, draws: forest.Draws, found: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """p of each feature: how often the largest importance of features that do nothing reaches its own.

    In rounds: what one round finds explains a part of ``y``, and the next round shuffles only the rest, so that a large
    effect does not hide smaller ones.
    """
    p = np.ones(len(found))
    known: list[int] = []
    while len(known) < len(found):
        left = np.array([f for f in range(len(found)) if f not in known])
        sure = forest.predict(x, known, y, draws, seed=0) if known else np.zeros(len(y))
        p[left] = _round(x, y, sure, draws, found, left, rng)
        new = [int(f) for f in left if p[f] <= _LEVEL]
        if not new:
            break
        known += new
    return p


def _round(
    x: forest.Features,
    y: np.ndarray,
    sure: np.ndarray,
    draws: forest.Draws,
    found: np.ndarray,
    left: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """p of the features ``left``, ``sure`` being the part of ``y`` that is explained already.

    Ends as soon as none of them can reach 5 % any more; p is then the share so far (Besag and Clifford 1991).
    """
    most = math.floor(_LEVEL * (_NULLS + 1)) - 1
    reached = np.zeros(len(left), dtype=int)
    for i in range(1, _NULLS + 1):
        parts = forest.judge(x, sure + rng.permutation(y - sure), draws, i)[1]
        # Clipped like the importances: one of nothing ties with the null and is no evidence.
        reached += np.median(parts, axis=0)[left].max().clip(0.0) >= found[left]
        if (reached > most).all():
            return reached / i
    return (1 + reached) / (_NULLS + 1)


def findings(table: pd.DataFrame) -> str:
    """What an :func:`importance` table says, in words."""
    first = table.iloc[0]
    target, n = first["target"], first["trials"]
    sure, open_ = (table[table["evidence"] == known] for known in (True, False))
    if sure.empty:
        said = f"No evidence in {n} trials that any searched parameter mattered for {target}."
    else:
        shares = ", ".join(f"{r['parameter']} {100 * r['importance']:.0f} %" for r in rows_of(sure))
        said = f"Share of the variation of {target} that goes with a parameter ({n} trials): {shares}."
        if len(open_):
            said += f" No evidence for {', '.join(open_['parameter'])}."
    if first["r2"] > 0:
        return (
            f"{said} All together predict {100 * first['r2']:.0f} % of it on trials held out (out-of-bag R2)."
        )
    return f"{said} Trials held out are predicted no better than by their mean (out-of-bag R2 {first['r2']:.2f})."


def cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of an :func:`importance` table as text."""
    rows = [
        [
            row["parameter"],
            f"{100 * row['importance']:.0f} %",
            f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %",
            f"p = {row['p']:.2g}" if row["evidence"] else "no evidence",
        ]
        for row in table.to_dict("records")
    ]
    return ["parameter", "importance", "10 to 90 % of draws", "evidence"], rows
