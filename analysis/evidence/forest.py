"""Small random forests, each judged on the rows it has not seen: how well they predict, and what each feature adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.runs.table import as_words

if TYPE_CHECKING:
    import pandas as pd

#: Share of the rows that a draw trains on: as many different ones as a bootstrap draw holds.
_SHARE = 0.632
#: Trees per draw, fewest rows in a leaf, shuffles of each feature.
_TREES, _LEAF, _SHUFFLES = 6, 3, 2


@dataclass(frozen=True)
class Features:
    """Rows as numbers.

    Attributes:
        values: (n, c) float32; numbers as they are (and a column that marks those without one), one column per value of a
            category.
        columns: for each feature the indices of its columns.
    """

    values: np.ndarray
    columns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Draws:
    """Orders of the rows, (d, n); the first ``size`` rows of each are trained on, the others are held out."""

    orders: np.ndarray
    size: int


def encode(rows: pd.DataFrame, names: Sequence[str]) -> Features:
    """The columns ``names`` of a table as features. That a value is missing is a value."""
    import pandas as pd

    parts, columns, at = [], [], 0
    for name in names:
        values = rows[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            part = _numbers(values.to_numpy(dtype=float, na_value=np.nan))
        else:
            words = as_words(values).to_numpy(dtype=str)
            part = (words[:, None] == np.unique(words)[None, :]).astype(float)
        parts.append(part)
        columns.append(tuple(range(at, at + part.shape[1])))
        at += part.shape[1]
    return Features(np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float32), tuple(columns))


def _numbers(values: np.ndarray) -> np.ndarray:
    """(n, 1) the values, or (n, 2) if some are missing: those as the middle one, and which they are."""
    missing = np.isnan(values)
    if not missing.any():
        return values[:, None]
    middle = float(np.median(values[~missing])) if not missing.all() else 0.0
    return np.column_stack([np.where(missing, middle, values), missing])


def draw(rows: int, repeats: int, rng: np.random.Generator) -> Draws:
    """``repeats`` random splits of the rows."""
    orders = np.array([rng.permutation(rows) for _ in range(repeats)])
    return Draws(orders, max(2, round(_SHARE * rows)))


def judge(x: Features, y: np.ndarray, draws: Draws, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(d,) R2 on the rows held out in each draw, and (d, f) what each feature explains there.

    A feature's part is half of what the squared error grows by when its values are shuffled among the rows held out, as
    a share of the variance of all of ``y``: an estimate of its total effect, interactions included (Sobol's total
    index). It is about 0, of either sign, for a feature that says nothing.
    """
    rng = np.random.default_rng(seed)
    variance = float(y.var())
    if variance == 0:
        return np.zeros(len(draws.orders)), np.zeros((len(draws.orders), len(x.columns)))
    fits, parts = [], []
    for order in draws.orders:
        held = order[draws.size :]
        blocks = [x.values[held]]
        for columns in x.columns:
            for _ in range(_SHUFFLES):
                shuffled = x.values[held].copy()
                shuffled[:, columns] = shuffled[rng.permutation(len(held))][:, columns]
                blocks.append(shuffled)
        found = _grow(x.values[order[: draws.size]], y[order[: draws.size]], np.concatenate(blocks), rng)
        errors = ((found.reshape(len(blocks), -1) - y[held]) ** 2).mean(axis=1) / variance
        fits.append(1.0 - errors[0])
        parts.append((errors[1:].reshape(-1, _SHUFFLES).mean(axis=1) - errors[0]) / 2.0)
    return np.array(fits), np.array(parts)


def predict(x: Features, which: Sequence[int], y: np.ndarray, draws: Draws, seed: int) -> np.ndarray:
    """(n,) what forests on the features ``which`` say about every row, from the draws that held it out; the mean of
    ``y`` for a row that none held out.
    """
    rng = np.random.default_rng(seed)
    values = np.ascontiguousarray(x.values[:, [c for f in which for c in x.columns[f]]])
    total, count = np.zeros(len(y)), np.zeros(len(y))
    for order in draws.orders:
        seen, held = order[: draws.size], order[draws.size :]
        total[held] += _grow(values[seen], y[seen], values[held], rng)
        count[held] += 1
    return np.where(count > 0, total / np.maximum(count, 1), y.mean())


def _grow(x: np.ndarray, y: np.ndarray, ask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean prediction of the rows ``ask`` by trees on bootstrap draws of (x, y)."""
    # Bare trees: making sklearn's forest object takes several times as long as growing six trees on fifty rows.
    from sklearn.tree import DecisionTreeRegressor

    said = np.zeros(len(ask))
    for _ in range(_TREES):
        rows = rng.integers(0, len(x), len(x))
        tree = DecisionTreeRegressor(min_samples_leaf=_LEAF, random_state=int(rng.integers(2**31)))
        tree.fit(x[rows], y[rows], check_input=False)  # encode() made them float32 and finite
        said += tree.predict(ask, check_input=False)
    return said / _TREES
