"""Which searched parameters mattered, by Optuna's evaluators, with the spread over resampled trials."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.errors import NothingFeasible
from analysis.runs.table import varying
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd

METHODS = {
    "fanova": "functional ANOVA over a random forest (Hutter et al. 2014)",
    "pedanova": "PED-ANOVA: what the best trials have in common (Watanabe et al. 2023)",
}
#: Fewer trials than this say nothing about importance.
FEWEST = 10
#: More are drawn from at random: a forest of this many has long settled, and one of 10,000 takes minutes.
MOST = 2000


def importance(
    df: pd.DataFrame,
    target: str = "val_accuracy",
    *,
    method: str = "fanova",
    repeats: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per searched parameter: ``parameter, importance`` (0..1, sums to 1 for fanova), ``low, high``
    (10 % and 90 % over ``repeats`` draws of 63 % of the trials), ``method, target``; most important first.

    Importance says how much of the variation of ``target`` goes with the parameter within what was searched;
    a value whose interval reaches 0 is not told apart from no influence. Of more than 2,000 trials that many are drawn.

    Raises:
        NothingFeasible: fewer than ten finished trials.
        ConfigError: nothing was searched, or the target or method is unknown.
    """
    import pandas as pd

    if method not in METHODS:
        raise ConfigError(f"{method!r} is no method", "importance", did_you_mean(method, METHODS))
    if target not in FINALS or target not in df.columns:
        raise ConfigError("no such value", target, did_you_mean(target, FINALS))
    rows = df[df["candidate"] & df[target].notna()]
    names = [name for name in varying(df) if rows[name].notna().all()]
    if len(rows) < FEWEST:
        raise NothingFeasible(
            f"{len(rows)} finished trials say nothing about importance", "importance", f"{FEWEST} do"
        )
    if not names:
        raise ConfigError("nothing was searched: no parameter varies", "importance")
    rng = np.random.default_rng(seed)
    space = _space(rows, names)
    if len(rows) > MOST:
        rows = rows.iloc[np.sort(rng.choice(len(rows), MOST, replace=False))]
    whole = _evaluate(rows, space, target, method, seed)
    draws = [
        _evaluate(rows.iloc[_part(rng, len(rows))], space, target, method, seed + 1 + i)
        for i in range(repeats)
    ]
    table = pd.DataFrame({"parameter": names, "importance": [whole[name] for name in names]})
    spread = np.array([[draw[name] for name in names] for draw in draws]).reshape(len(draws), len(names))
    low, high = np.quantile(spread, (0.1, 0.9), axis=0) if len(draws) else (np.nan, np.nan)
    table["low"], table["high"], table["method"] = low, high, METHODS[method]
    table["target"] = target
    return table.sort_values("importance", ascending=False, ignore_index=True)


def _part(rng: np.random.Generator, n: int) -> np.ndarray:
    """As many different trials as a bootstrap draw holds, but each once: a forest learns repeated ones by heart."""
    return rng.choice(n, size=max(2, round(0.632 * n)), replace=False)


def _space(rows: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    """One distribution per parameter, from all trials, so that every resampling is judged on the same
    space.
    """
    try:
        from optuna.distributions import CategoricalDistribution, FloatDistribution
    except ImportError as exc:
        raise ConfigError("needs optuna", "importance", 'pip install "gcp-sweep[sweep]"') from exc
    import pandas as pd

    space: dict[str, Any] = {}
    for name in names:
        values = rows[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            space[name] = FloatDistribution(float(values.min()), float(values.max()))
        else:
            space[name] = CategoricalDistribution(sorted(values.astype(str).unique()))
    return space


def _evaluate(
    rows: pd.DataFrame, space: dict[str, Any], target: str, method: str, seed: int
) -> dict[str, float]:
    import optuna
    from optuna.distributions import FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    def plain(name: str, value: Any) -> Any:
        return float(value) if isinstance(space[name], FloatDistribution) else str(value)

    trials = [
        optuna.trial.create_trial(
            params={name: plain(name, row[name]) for name in space},
            distributions=space,
            value=float(row[target]),
        )
        for row in rows.to_dict("records")
    ]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # making a study is announced otherwise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # evaluators announce that they are experimental
            study = optuna.create_study(
                direction="maximize" if FINALS[target].better == "max" else "minimize"
            )
            study.add_trials(trials)
            evaluator = (
                FanovaImportanceEvaluator(seed=seed) if method == "fanova" else PedAnovaImportanceEvaluator()
            )
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(space))
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(found.get(name, 0.0)) for name in space}
