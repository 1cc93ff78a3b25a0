"""Attainment surfaces: which accuracy at which cost was reached by a quarter, half, three quarters of the
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis.front import pareto
from analysis.front.objectives import Objectives, costs

if TYPE_CHECKING:
    import pandas as pd

#: Seeds below which quartiles mean little: best, median and worst are shown instead.
_FEW = 5


def attainment(parts: Mapping[str, pd.DataFrame], objectives: Objectives) -> pd.DataFrame:
    """Points of the attainment surfaces per label (empirical attainment function, Grunert da Fonseca et al.
    2001).

    Columns: ``label, level`` (share of seeds that reached the point or better: 25, 50, 75 %; with fewer than
    five seeds the best, median and worst), ``band`` (best, median, worst), and the objectives in their own
    units.
    """
    import moocore
    import pandas as pd

    frames = []
    for label, part in parts.items():
        fronts = _fronts(part, objectives)
        points = _repeated(fronts, 1)
        # moocore minimises and takes the share of runs that attain a point, in per cent.
        levels = (25.0, 50.0, 75.0) if len(fronts) >= _FEW else (100.0 / len(fronts), 50.0, 100.0)
        found = moocore.eaf(points[:, :-1], sets=points[:, -1], percentiles=sorted(set(levels)))
        # Of two seeds the best is the median too.
        for band, level in zip(("best", "median", "worst"), levels):
            surface = found[np.isclose(found[:, -1], level)]
            rows = pd.DataFrame(surface[:, :-1], columns=list(objectives))
            for column, direction in objectives.items():
                if direction == "max":
                    rows[column] = -rows[column]
            frames.append(rows.assign(label=label, band=band, level=surface[:, -1]))
    return pd.concat(frames, ignore_index=True)[["label", "band", "level", *objectives]]


def attainment_difference(a: pd.DataFrame, b: pd.DataFrame, objectives: Objectives) -> pd.DataFrame:
    """Rectangles of the objective space with ``difference``: share of seeds of ``a`` minus that of ``b``
    that reach it.

    Columns ``<cost>_low, <cost>_high, <benefit>_low, <benefit>_high, difference`` (-1..1); only where they
    differ, so without a row where all seeds of both have one and the same front.
    """
    import moocore
    import pandas as pd

    fronts = [_fronts(part, objectives) for part in (a, b)]
    # moocore takes the first half of all runs for the first side, however many that has: every seed counts so often
    # that both sides have as many. The shares stay what they are.
    runs = math.lcm(*map(len, fronts))
    if len({np.unique(front, axis=0).tobytes() for side in fronts for front in side}) == 1:
        found = np.empty((0, 5))  # moocore fails where it finds no rectangle
    else:
        found = moocore.eafdiff(*(_repeated(side, runs // len(side)) for side in fronts), rectangles=True)
    names = list(objectives)
    frame = pd.DataFrame(
        {
            f"{names[0]}_low": found[:, 0], f"{names[1]}_low": found[:, 1],
            f"{names[0]}_high": found[:, 2], f"{names[1]}_high": found[:, 3],
        }
    )  # fmt: skip
    for name, direction in objectives.items():
        if direction == "max":
            low, high = -frame[f"{name}_high"], -frame[f"{name}_low"]
            frame[f"{name}_low"], frame[f"{name}_high"] = low, high
    # moocore gives the difference in numbers of intervals; the largest possible is the number of runs of a side.
    frame["difference"] = found[:, 4] / runs
    return frame


def _fronts(part: pd.DataFrame, objectives: Objectives) -> list[np.ndarray]:
    """The front of every seed, as values to be minimised."""
    values = (costs(group, objectives)[0] for _, group in part.groupby("seed"))
    return [found[pareto.nondominated(found)] for found in values]


def _repeated(fronts: list[np.ndarray], times: int) -> np.ndarray:
    """The points of all fronts, each front so often, with the number of the run in the last column."""
    runs = [front for front in fronts for _ in range(times)]
    return np.vstack([np.column_stack([front, np.full(len(front), i)]) for i, front in enumerate(runs, 1)])
