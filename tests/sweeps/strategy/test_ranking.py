"""The sorting behind early stopping: ranks, spacing, and who of those at a rung goes on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.front.pareto import rank_costs
from sweeps.strategy.stopping.ranking import goes_on, spacing
from tests.oracles.sweeps.dominance import ranks as slow_ranks

#: Few different values, so that ties are common.
POINTS = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 2, st.booleans()), min_size=1, max_size=12)


def slow_spacing(values: list[tuple[float, ...]], ranks: list[int], alive: list[bool]) -> list[float]:
    """One row and one objective at a time: walk along the sorted rank until somebody alive is met on either side."""
    room = [0.0] * len(values)
    for i in range(len(values)):
        rank = [j for j in range(len(values)) if ranks[j] == ranks[i]]
        for d in range(len(values[0])):
            mine = values[i][d]
            near = sorted(values[j][d] for j in rank if j != i and alive[j])
            below = [value for value in near if value <= mine]
            above = [value for value in near if value >= mine]
            extent = max(values[j][d] for j in rank) - min(values[j][d] for j in rank)
            if not below or not above:
                room[i] = math.inf
            elif extent > 0:
                room[i] += (above[0] - below[-1]) / extent
    return room


def slow_goes_on(values: list[tuple[float, ...]], place: int, share: float, alive: list[bool]) -> bool:
    """Count who stands before whom."""
    ranks = slow_ranks(np.array(values))
    room = slow_spacing(values, ranks, alive)
    if ranks[place] == 1 and room[place] == math.inf:
        return True
    mine = (ranks[place], -room[place], place)
    before = sum((ranks[i], -room[i], i) < mine for i in range(len(values)))
    return before < math.ceil(share * len(values) - 1e-9)


@settings(max_examples=60, deadline=None)
@given(rows=POINTS, share=st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_ranks_spacing_and_the_better_share_agree_with_their_slow_definitions(
    rows: Any, share: float
) -> None:
    points, alive = [row[:2] for row in rows], [row[2] for row in rows]
    values, mask = np.array(points), np.array(alive)
    ranks = rank_costs(values)
    assert (ranks + 1).tolist() == slow_ranks(values)
    slow = np.array(slow_spacing(points, ranks.tolist(), alive))
    for rank in np.unique(ranks):
        mine = ranks == rank
        assert spacing(values[mine], mask[mine]).tolist() == pytest.approx(slow[mine].tolist())
    fast = [goes_on(values, i, share, mask) for i in range(len(points))]
    assert fast == [slow_goes_on(points, i, share, alive) for i in range(len(points))]


def test_the_ends_of_the_front_go_on_whatever_the_share() -> None:
    values = np.array([[0.0, 9.0], [4.0, 4.0], [4.5, 3.5], [9.0, 0.0], [9.0, 9.0]])
    assert [goes_on(values, i, 0.01, np.ones(5, dtype=bool)) for i in range(5)] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_of_equals_the_lonelier_one_goes_on() -> None:
    # All on one front of extent 10 x 10; the neighbours of (1, 9) are 2 + 2 apart, those of (5, 5) 8 + 8.
    values = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [5.0, 5.0], [10.0, 0.0]])
    alive = np.ones(5, dtype=bool)
    assert [goes_on(values, i, 0.6, alive) for i in range(5)] == [True, False, False, True, True]


def test_where_all_others_were_stopped_there_is_room() -> None:
    values = np.array([[0.0, 10.0], [4.0, 6.0], [4.1, 5.9], [8.0, 2.0], [10.0, 0.0], [4.05, 5.95]])
    alive = np.ones(6, dtype=bool)
    assert not goes_on(values, 5, 0.6, alive)
    alive[[1, 2]] = False  # its two near neighbours: between (0, 10) and (8, 2) nobody is left
    assert goes_on(values, 5, 0.6, alive)
