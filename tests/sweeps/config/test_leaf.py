"""The type of one value of a config: strict, and explained in words."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from gcp_core.errors import ConfigError
from sweeps.config.leaf import default_of, hints_of, is_mapping_type, members, typed
from sweeps.config.reading import plain


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (2, int, 2),
        (2, float, 2.0),  # a whole number is welcome where a number is asked for
        ("x", str, "x"),
        (None, float | None, None),
        ([1, 2], tuple[int, ...], (1, 2)),
        ({"a": 1}, dict[str, int], {"a": 1}),
        (["anything", 1], Any, ["anything", 1]),
    ],
)
def test_a_value_of_its_type_is_taken(value, hint, expected):
    found = typed(value, hint, "here")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "where", "message"),
    [
        (True, int, "a.b", "True is not a whole number"),  # YAML's true is no 1
        (True, float, "a.b", "True is not a number"),
        ("2", int, "a.b", "'2' is not a whole number"),  # nor is text one
        (2.0, int, "a.b", "2.0 is not a whole number"),
        (1, bool, "a.b", "1 is not true or false"),
        (7, str | None, "a.b", "7 is not text or null"),
        ("x", int | float | None, "a.b", "'x' is not a whole number or a number or null"),
        ([1, "x"], tuple[int, ...], "a.b.1", "'x' is not a whole number"),
        ({"k": "x"}, dict[str, int], "a.b.k", "'x' is not a whole number"),
        (3, tuple[int, ...], "a.b", "3 is not a list"),
        (3, dict[str, int], "a.b", "3 is not a mapping"),
        ("low", Literal["max", "min"], "a.b", "'low' is unknown"),
        ({"k": "low"}, dict[str, Literal["max", "min"]], "a.b.k", "'low' is unknown"),
    ],
)
def test_another_type_is_refused_with_its_place_and_in_words(value, hint, where, message):
    with pytest.raises(ConfigError) as caught:
        typed(value, hint, "a.b")
    assert (caught.value.where, caught.value.message) == (where, message)


def test_a_default_is_the_fields_own_or_made_anew():
    @dataclasses.dataclass
    class Section:
        number: int = 3
        names: list[str] = dataclasses.field(default_factory=list)
        needed: str = dataclasses.field(kw_only=True)

    number, names, needed = dataclasses.fields(Section)
    assert default_of(number) == 3
    assert default_of(names) == []
    assert default_of(names) is not default_of(names)
    assert default_of(needed) is None


def test_types_are_read_from_annotations_that_are_text():
    @dataclasses.dataclass
    class Section:
        number: int | None = None

    assert hints_of(Section) == {"number": int | None}
    assert members(int | None) == (int, type(None))
    assert members(int) == (int,)
    assert is_mapping_type(dict[str, int])
    assert not is_mapping_type(tuple[int, ...])


def test_a_tree_becomes_what_yaml_can_hold():
    assert plain({"a": (1, (2, 3)), "b": [{"c": ()}]}) == {"a": [1, [2, 3]], "b": [{"c": []}]}
