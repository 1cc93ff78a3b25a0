"""``package.module:factory`` in a config."""

from __future__ import annotations

import collections

import pytest

from gcp_core.errors import DataError, ModelError
from gcp_core.factory import call_factory, is_factory_name, load_factory


def test_a_name_with_a_module_and_a_callable_is_a_factorys():
    for name in ("collections:OrderedDict", "my_package.models:build_2"):
        assert is_factory_name(name)
    for name in ("resnet20", "shuffled:", ":build", "a b:c", "a:b.c", "1a:b", "s3://bucket"):
        assert not is_factory_name(name)


def test_the_callable_itself_comes_back():
    assert load_factory("collections:OrderedDict", "model.name", ModelError) is collections.OrderedDict


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.models:build", "cannot import 'no_such_package.models'"),
        ("collections:Missing", "collections has no callable 'Missing'"),
        ("collections:__all__", "collections has no callable '__all__'"),
    ],
)
def test_what_is_not_there_is_the_callers_error_at_its_place(name, message):
    with pytest.raises(ModelError) as caught:
        load_factory(name, "model.name", ModelError)
    assert caught.value.message.startswith(message)
    assert caught.value.where == "model.name"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a module of the user's own, whose folder is on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    names = (f"own_module_{tmp_path.name}_{number}".replace("-", "_") for number in range(9))

    def write(text):
        name = next(names)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("import no_such_package", "No module named 'no_such_package'", "but what it imports is not"),
        ("from math import no_such_name", "cannot import name 'no_such_name'", "but what it imports is not"),
        ("x = 1\ny = z", "NameError: name 'z' is not defined", ".py, line 2"),
        ("def f(:", "SyntaxError: invalid syntax", ""),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_message_that_says_why(module, text, message, hint):
    """A package that it lacks is not its own folder, which is on PYTHONPATH."""
    name = module(text)
    with pytest.raises(ModelError) as caught:
        load_factory(f"{name}:build", "model.name", ModelError)
    assert caught.value.message.startswith(f"cannot import {name!r}: {message}")
    assert caught.value.hint.endswith(hint)
    assert "PYTHONPATH" not in caught.value.hint


def test_a_factory_with_a_typo_gets_the_name_that_was_meant(module):
    with pytest.raises(ModelError) as caught:
        load_factory(f"{module('def small_net(): pass')}:smal_net", "model.name", ModelError)
    assert caught.value.hint == 'did you mean "small_net"?'


def test_what_a_factory_raises_names_its_own_line(module):
    """Not the line deep in a library, and no traceback."""
    name = module("def birds(config):\n    return open(config)\n")
    factory = load_factory(f"{name}:birds", "data.name", DataError)
    with pytest.raises(DataError) as caught:
        call_factory(factory, f"{name}:birds", "data.name", DataError, "nowhere.npz")
    assert caught.value.message.startswith(f"{name}:birds raised FileNotFoundError: [Errno 2]")
    assert caught.value.hint.endswith(f"{name}.py, line 2")


@pytest.mark.parametrize("exc", [MemoryError("no room"), OSError(5, "Input/output error"), DataError("ours")])
def test_errors_of_the_machine_and_our_own_stay_what_they_are(exc):
    """A baseline that the machine took is trained again; its error says so by its type."""

    def factory():
        raise exc

    with pytest.raises(type(exc)) as caught:
        call_factory(factory, "own:factory", "model.name", ModelError)
    assert caught.value is exc
