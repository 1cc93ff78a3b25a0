"""The type of one leaf of a config: checked with pydantic in strict mode, explained in words.

``true`` is not a number and ``"2"`` is not a whole number; a whole number is accepted where a number is expected.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any

import pydantic

from gcp_core.errors import ConfigError


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def default_of(spec: dataclasses.Field[Any]) -> Any:
    if spec.default is not dataclasses.MISSING:
        return spec.default
    return spec.default_factory() if spec.default_factory is not dataclasses.MISSING else None


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type alone."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def is_mapping_type(hint: Any) -> bool:
    return typing.get_origin(hint) is dict


@functools.lru_cache(maxsize=256)
def _adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(strict=True))


def typed(value: Any, hint: Any, path: str) -> Any:
    """``value`` if it has the type ``hint``; a whole number is accepted where a number is expected."""
    if hint is Any:
        return value
    if any(typing.get_origin(member) is tuple for member in members(hint)) and isinstance(value, list):
        value = tuple(value)
    try:
        return _adapter(hint).validate_python(value)
    except pydantic.ValidationError as exc:
        first = exc.errors()[0]
        inner = ".".join(
            str(part) for part in first["loc"] if not str(part).startswith(("int", "float", "str"))
        )
        where = f"{path}.{inner}" if inner and typing.get_origin(hint) in (tuple, dict) else path
        given = first["input"] if where != path else value
        if first["type"] == "literal_error":
            words = ", ".join(str(word) for word in _words_of(hint))
            raise ConfigError(f"{given!r} is unknown", where, f"allowed: {words}") from None
        raise ConfigError(f"{given!r} is not {_describe(hint, where != path)}", where) from None


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def _words_of(hint: Any) -> tuple[Any, ...]:
    """What a ``Literal`` inside the hint allows."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return inner
    return tuple(word for arg in inner for word in _words_of(arg))


def _describe(hint: Any, inner: bool = False) -> str:
    if inner:
        hint = [arg for arg in typing.get_args(hint) if arg is not Ellipsis][-1]
    words = [_WORDS.get(member) or _describe_container(member) for member in members(hint)]
    return " or ".join(words)


def _describe_container(hint: Any) -> str:
    return (
        "a mapping" if is_mapping_type(hint) else "a list" if typing.get_origin(hint) is tuple else "a value"
    )
