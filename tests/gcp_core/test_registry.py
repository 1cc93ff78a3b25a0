"""One registry for every slot: names of ours, entry points, names of one's own, and what is refused."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from gcp_core import slots
from gcp_core.allocators import ALLOCATORS
from gcp_core.criteria.registry import CRITERIA
from gcp_core.errors import ConfigError
from gcp_core.methods import METHODS
from gcp_core.penalties import PENALTIES
from gcp_core.repairs import REPAIRS
from gcp_core.rewrites import REWRITES
from gcp_core.schedule.clocks import CLOCKS
from gcp_core.schedule.paces import PACES

HERE = __name__
ALL = [CRITERIA, ALLOCATORS, REPAIRS, PENALTIES, REWRITES, CLOCKS, PACES, METHODS]


class Thing:
    def patch(self):
        pass


def thing(size, colour="red"):
    """A thing of some size."""
    made = Thing()
    made.size, made.colour = size, colour
    return made


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.slot)
def test_everything_built_in_is_named_described_and_found(registry):
    assert set(registry.built_in) <= set(registry.names())
    for name in registry.names():
        if registry is not CRITERIA:  # theirs say how, not what: their formulas are in the guide
            assert registry.describe(name), name
        assert callable(registry.find(name))
    assert registry.group == f"gcp_core.{_plural(registry.slot)}"


def _plural(word):
    return {"criterion": "criteria", "penalty": "penalties"}.get(word, f"{word}s")


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.slot)
def test_an_unknown_name_is_refused_at_its_key_with_what_was_meant(registry):
    name = next(iter(registry.built_in))
    with pytest.raises(ConfigError) as caught:
        registry.find(f"{name}x")
    assert caught.value.where == registry.where
    assert f'did you mean "{name}"?' in caught.value.hint
    assert registry.form in caught.value.hint


def test_an_installed_package_registers_names(monkeypatch):
    entries = EntryPoints([EntryPoint("thing", f"{HERE}:thing", "gcp_core.repairs")])
    monkeypatch.setattr(slots, "entry_points", lambda group: entries.select(group=group))
    assert REPAIRS.names() == ["least_squares", "none", "thing"]
    assert REPAIRS.describe("thing") == "A thing of some size."
    assert REPAIRS.build("thing", {"size": 3}).size == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "prune.repair_options.size: is required (the repair needs it)"),
        (
            {"size": 1, "color": "b"},
            "prune.repair_options.color: unknown option (value 'b') (did you mean \"colour\"?)",
        ),
    ],
)
def test_options_are_held_against_the_factory(options, message):
    with pytest.raises(ConfigError) as caught:
        REPAIRS.build(f"{HERE}:thing", options)
    assert str(caught.value) == message


def test_what_lacks_the_verb_is_refused():
    with pytest.raises(ConfigError, match=r"returned a Thing, which is no clock \(a clock has due"):
        CLOCKS.build(f"{HERE}:Thing")
    with pytest.raises(ConfigError, match=r"which is no allocator \(an allocator has allot"):
        ALLOCATORS.build(f"{HERE}:Thing")


def test_forwards_are_one_where_data_is_needed_and_nothing_else_is_said():
    class Silent:
        pass

    looking = Silent()
    looking.needs = "data"
    assert (slots.forwards_of(Silent()), slots.forwards_of(looking), slots.forwards_of(None)) == (
        0.0,
        1.0,
        0.0,
    )
    looking.forwards = 2.5
    assert slots.forwards_of(looking) == 2.5
