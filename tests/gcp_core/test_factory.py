"""``package.module:factory`` in a config."""

from __future__ import annotations

import collections

import pytest

from gcp_core.errors import ModelError
from gcp_core.factory import is_factory_name, load_factory


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
