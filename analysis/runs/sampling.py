"""How far an accuracy on a few hundred images can be trusted: the images behind it and its binomial interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pandas as pd

from analysis.runs.store import HUGE

#: Coverage of the interval, and the normal quantile that belongs to it.
LEVEL, _Z = 0.95, 1.959963984540054
#: More images than this are not guessed from the accuracies.
_MOST = 200_000


def interval(accuracy: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), per cent: Wilson's 95 % interval of accuracies (per cent) that were counted on ``images``.

    It says how far the accuracy on other images of the same kind may lie, for this one trained model; what another seed
    would give is not in it. NaN where either number is unknown.

    >>> low, high = interval(np.array([90.0]), np.array([100.0]))
    >>> round(float(low[0]), 2), round(float(high[0]), 2)
    (82.56, 94.48)
    """
    p, n = np.asarray(accuracy, dtype=float) / 100, np.asarray(images, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = _Z**2 / n
        middle = (p + share / 2) / (1 + share)
        half = np.sqrt(p * (1 - p) * share + share**2 / 4) / (1 + share)
    return 100 * np.clip(middle - half, 0, 1), 100 * np.clip(middle + half, 0, 1)


def images_behind(accuracies: Iterable[float], *, rounded: bool = False) -> int | None:
    """The number of images that explains all ``accuracies`` (per cent) as counts; None if none does.

    For sweeps that did not record it. The smallest such number: with few trials it may be a divisor of the true one, and
    then the interval is too wide rather than too narrow. ``rounded``: the numbers may have been, as in a file made by
    hand; then at most four digits after the point say nothing.
    """
    values = [float(a) for a in accuracies if math.isfinite(a)]
    if not values or (rounded and all(abs(v * 1e4 - round(v * 1e4)) < 1e-6 for v in values)):
        return None
    found = 1
    for value in values:
        part = Fraction(value / 100).limit_denominator(_MOST)
        if abs(float(part) - value / 100) > 1e-14:
            return None
        found = math.lcm(found, part.denominator)
        if found > _MOST:
            return None
    return found


def val_images(df: pd.DataFrame, recorded: int | None, *, rounded: bool) -> pd.Series:
    """Validation images per row: recorded, configured, or the number that explains every accuracy of the table."""
    images = pd.Series(float(recorded) if recorded else np.nan, index=df.index)
    for name in ("val_images", "data.val_images"):
        if name in df.columns:
            images = images.fillna(pd.to_numeric(df[name], errors="coerce").astype("float64"))
    accuracy = pd.to_numeric(df["val_accuracy"], errors="coerce")
    found = images_behind(accuracy[accuracy.abs() < HUGE], rounded=rounded) if images.isna().any() else None
    return images.fillna(float(found)) if found else images
