"""The better share by several objectives: non-dominated sorting, then crowding distance (Deb et al. 2002)."""

from __future__ import annotations

import math

import numpy as np

from analysis.front.pareto import rank_costs


def goes_on(values: np.ndarray, place: int, share: float, alive: np.ndarray) -> bool:
    """Whether row ``place`` is among the better ``share`` (0..1], rounded up) of ``values`` (n, m; minimised).

    Rank first (0 = not dominated), wider spacing second, earlier row third. The ends of the front always continue.
    """
    quota, own = math.ceil(share * len(values) - 1e-9), values[place]
    # Who dominates it has a lower rank, who is dominated by it a higher one: often that is enough, and cheap to count.
    equal = (values == own).all(axis=1)
    if ((values <= own).all(axis=1) & ~equal).sum() >= quota:
        return False
    if len(values) - ((values >= own).all(axis=1) & ~equal).sum() <= quota:
        return True
    ranks = rank_costs(values)
    mine = np.flatnonzero(ranks == ranks[place])  # only within its own rank the spacing matters
    room, me = spacing(values[mine], alive[mine]), int(np.searchsorted(mine, place))
    if ranks[place] == 0 and math.isinf(room[me]):
        return True
    before = int((ranks < ranks[place]).sum() + (room > room[me]).sum() + (room[:me] == room[me]).sum())
    return before < quota


def spacing(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """(n,) crowding distance of the rows of one rank: the gap between a row's two neighbours in every objective, as a
    share of the rank's extent, summed; infinite without a neighbour on either side. Neighbours are other rows that are
    ``alive`` ((n,) bool): where all have been stopped there is room."""
    room = np.zeros(len(values))
    for column, extent in zip(values.T, np.ptp(values, axis=0), strict=True):
        near = np.sort(column[alive])
        first, after = np.searchsorted(near, column, "left"), np.searchsorted(near, column, "right")
        # Another one has the very value: both neighbours are there, and no gap.
        equal = after - first - alive > 0
        lonely = ~equal & ((first == 0) | (after == len(near)))
        room[lonely] = math.inf
        between = ~(equal | lonely)
        if extent > 0:
            room[between] += (near[after[between]] - near[first[between] - 1]) / extent
    return room
