from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcp_core.errors import ConfigError
from sweeps.config.space import Dimension, Space, read_range

STEPPED = Dimension("x", low=0.1, high=0.4, step=0.1)
CHOSEN = Dimension("y", choices=("a", "b"))


def test_values_of_a_step_are_written_without_binary_noise() -> None:
    assert STEPPED.values() == [0.1, 0.2, 0.3, 0.4]
    assert Dimension("t", low=0.3, high=0.95, step=0.05).values()[-3:] == [0.85, 0.9, 0.95]


def test_a_high_end_off_the_grid_is_drawn_down_to_it() -> None:
    assert read_range("x", {"low": 0.1, "high": 0.45, "step": 0.1}, numbers="float").values() == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]


def test_a_range_of_whole_numbers_has_step_one() -> None:
    assert read_range("n", {"low": 2, "high": 5}, numbers="int").values() == [2, 3, 4, 5]


def test_whole_numbers_on_a_log_scale_are_counted_listed_and_each_of_them_is_drawn() -> None:
    dimension = read_range("n", {"low": 1, "high": 8, "log": True}, numbers="int")
    assert dimension.size() == 8
    assert dimension.values() == [1, 2, 3, 4, 5, 6, 7, 8]
    rng = random.Random(0)
    drawn = [dimension.draw(rng) for _ in range(500)]
    assert set(drawn) == {1, 2, 3, 4, 5, 6, 7, 8}
    # What rounds to 1 lies in 1 .. 1.5, to 8 in 7.5 .. 8: log(1.5) is 0.41, log(8 / 7.5) is 0.06.
    assert drawn.count(1) > 2 * drawn.count(8)


def test_a_continuous_range_has_no_size_and_no_list() -> None:
    continuous = read_range("x", {"low": 0.1, "high": 0.4}, numbers="float")
    assert continuous.size() is None
    assert Space({}, (continuous, CHOSEN)).size() is None
    with pytest.raises(ConfigError, match="give it a step"):
        continuous.values()


def test_the_grid_is_the_product_of_all_values() -> None:
    space = Space({}, (STEPPED, CHOSEN))
    expected = [{"x": x, "y": y} for x, y in itertools.product([0.1, 0.2, 0.3, 0.4], ["a", "b"])]
    assert list(space.grid()) == expected
    assert space.size() == len(expected) == 8


def test_corners_visit_every_choice_and_both_ends() -> None:
    corners = Space({}, (STEPPED, Dimension("y", choices=("a", "b", "c")))).corners()
    assert {corner["x"] for corner in corners} == {0.1, 0.4}
    assert {corner["y"] for corner in corners} == {"a", "b", "c"}


def test_of_too_many_combinations_of_ends_those_that_are_drawn_have_both_ends_of_every_dimension() -> None:
    space = Space({}, tuple(Dimension(f"d{i}", choices=(0, 1)) for i in range(12)))
    found = space.all_corners()
    assert found == space.all_corners()
    for one, other in itertools.combinations((f"d{i}" for i in range(12)), 2):
        assert len({(point[one], point[other]) for point in found}) == 4
    # Of few enough it has all.
    assert len(Space({}, space.dimensions[:8]).all_corners()) == 256


def test_a_point_outside_the_range_is_refused() -> None:
    space = Space({}, (STEPPED, CHOSEN))
    with pytest.raises(
        ConfigError, match=r"search\.points\.x: 0\.5 is outside the range \(0\.1 \.\. 0\.4 in steps"
    ):
        space.canonical({"x": 0.5, "y": "a"})
    for value in (float("inf"), float("nan")):
        for dimension in (STEPPED, Dimension("x", low=0.1, high=0.4)):
            with pytest.raises(ConfigError, match=f"search.points.x: {value} is outside the range"):
                Space({}, (dimension,)).canonical({"x": value})
    with pytest.raises(ConfigError, match=r"search\.points: 'z' is not searched"):
        space.canonical({"x": 0.1, "y": "a", "z": 1})


def test_a_point_may_write_a_choice_as_a_whole_number() -> None:
    chosen = Space(
        {}, (Dimension("x", choices=(0.0, 0.5)), Dimension("y", choices=(False, 1, "a", (0.5, 1.0))))
    )
    point = chosen.canonical({"x": 0, "y": 1})
    assert point == {"x": 0.0, "y": 1}
    assert type(point["x"]) is float, "one value, one trial"
    assert chosen.canonical({"y": False})["y"] is False
    for y in (True, 0, "b"):
        with pytest.raises(ConfigError, match=r"search\.points\.y: .* is outside the range"):
            chosen.canonical({"x": 0.5, "y": y})


def test_the_first_epoch_and_all_epochs_are_two_choices_of_until() -> None:
    both = Space({}, (Dimension("prune.until", choices=(1, 1.0)),))
    for value in (1, 1.0):
        assert type(both.canonical({"prune.until": value})["prune.until"]) is type(value)
    share = Space({}, (Dimension("prune.until", choices=(0.75, 1.0)),))
    with pytest.raises(ConfigError, match=r"prune\.until: 1 is outside the range"):
        share.canonical({"prune.until": 1})


@given(st.integers(0, 1000), st.sampled_from([0.001, 0.01, 0.025, 0.05, 0.1, 0.3, 2.5]), st.integers(-5, 5))
def test_rounding_to_the_grid_twice_changes_nothing(index: int, step: float, low: int) -> None:
    dimension = Dimension("x", low=low * step, high=low * step + 1000 * step, step=step)
    once = dimension.canonical(low * step + index * step * (1 + 1e-12))
    assert dimension.canonical(once) == once
    assert once == pytest.approx(low * step + index * step, rel=1e-9, abs=1e-9)


@given(st.floats(1e-4, 1.0))
def test_a_continuous_value_keeps_six_digits(value: float) -> None:
    dimension = Dimension("x", low=1e-4, high=1.0, log=True)
    assert dimension.canonical(value) == pytest.approx(value, rel=1e-5)
    assert dimension.canonical(dimension.canonical(value)) == dimension.canonical(value)
