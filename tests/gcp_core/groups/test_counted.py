"""Numbers that were read from activations keep in mind what they count."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from gcp_core.groups.counted import Counted, CountedFloat, counted_in, fall, unfollowed
from gcp_core.groups.labels import Label

CHANNELS = Label(torch.arange(1, 17).reshape(1, 16, 1, 1))
OTHERS = Label(torch.arange(17, 25).reshape(1, 8, 1, 1))
C, D, H = Counted(16, (CHANNELS,), 1), Counted(8, (OTHERS,), 1), Counted(4)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (C / 2, 8.0), (2 / C, 0.125), (C**2, 256), (C**-0.5, 0.25), (2**D, 256), (C * 0.5, 8.0), (C % 5, 1), (-C, -16),
        (abs(-C), 16), (1 / C / C, 2**-8), (C / H, 4.0), ((C / 2) // 3, 2.0), (round(C / 5), 3), (math.floor(C / 5), 3),
        (math.ceil(C / 5), 4), (math.trunc(-(C / 5)), -3), (round(C / 3, 1), 5.3), (math.prod([H, C, 2]), 128),
        (C >> 1, 8), (C << D, 4096), (divmod(C, 5)[0], 3), (divmod(C, 5)[1], 1), (divmod(36, C)[1], 4),
    ],
)  # fmt: skip
def test_whatever_is_computed_from_a_size_counts_what_it_counts(number, value):
    assert number == value
    assert isinstance(number, (Counted, CountedFloat))
    assert counted_in({"sizes": [number]})


@pytest.mark.parametrize(
    ("number", "falls"),
    [
        (C, [2, 0]), (D, [1, 1]), (H, 0), (3, 0), (C + D, [3, 1]), (C - D, [1, -1]), (64 - C, [-2, 0]),
        (C * H, [8, 0]), (3 * C, [6, 0]), (C // 2, [1, 0]), ((C + 1) // 2, [1, 0]), (-C, [-2, 0]), (C % 2, [0, 0]),
        (C >> 1, [1, 0]), (C << 2, [8, 0]), (C >> 2, None),
        (C // 3, None), (C * D, None), (C * C, None), (64 // C, None), (C**2, None), (round(C / 2), None), (C / 2, None),
    ],
)  # fmt: skip
def test_it_is_known_by_how_much_a_size_falls(number, falls):
    # Two ways to cut: two of the channels and one of the others; one of the others.
    found = fall(number, lambda label, dim: np.array([2, 0] if label is CHANNELS else [1, 1]))
    assert (found is None) == (falls is None)
    assert falls is None or np.array_equal(np.broadcast_to(found, 2), np.broadcast_to(falls, 2))


@pytest.mark.parametrize(
    ("number", "value", "counts"),
    [
        (H * C * 3 // C, 12, []), (H * C / (C * H), 1.0, []), (C * D // D, 16, [CHANNELS]), (C * C / C, 16.0, [CHANNELS]),
        (C // D, 2, [CHANNELS, OTHERS]), (6 * C // (2 * C), 3, []), ((C + 1) // C, 1, [CHANNELS]),
    ],
)  # fmt: skip
def test_what_stands_above_and_below_counts_nothing(number, value, counts):
    assert number == value
    assert [label is one for label, one in zip(counted_in(number), counts, strict=True)] == [True] * len(
        counts
    )


def test_a_number_does_not_remember_all_that_it_was_made_of():
    total = C
    for _ in range(5000):
        total = total + C
    assert total == 5001 * 16
    assert [label is CHANNELS for label in counted_in(total)] == [True]
    assert fall(total, lambda label, dim: np.array([1])) is None
    assert copy.deepcopy(total) == total


@pytest.mark.parametrize("leave", [math.sqrt, float, int, lambda c: int(c / 2), lambda c: float(c / 2)])
def test_a_number_that_turns_into_a_plain_one_is_reported_while_somebody_listens(leave):
    with unfollowed() as found:
        leave(C)
        leave(H)
    assert [label is CHANNELS for label in found] == [True]
    leave(C)
    assert len(found) == 1


@pytest.mark.parametrize("number", [C, C / 2, C // 2], ids=str)
def test_a_model_that_keeps_one_can_be_copied_and_stored(number):
    assert copy.deepcopy(number) == number == pickle.loads(pickle.dumps(number))


def test_a_number_of_a_trace_that_is_over_counts_nothing_in_the_next():
    with unfollowed():
        kept = Counted(16, (CHANNELS,), 1)
        assert [label is CHANNELS for label in counted_in(kept // 2)] == [True]
    with unfollowed() as found:
        assert counted_in([kept, kept // 2, kept / 2]) == []
        assert math.sqrt(kept) == 4.0
    assert found == []
