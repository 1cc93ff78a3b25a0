"""Steps back, for an operation that is done as a whole or not at all: each puts one value back when it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def setter(target: Any, name: str, value: Any) -> Callable[[], None]:
    """What gives an attribute the value back."""
    return lambda: setattr(target, name, value)


def item_setter(target: Any, key: Any, value: Any) -> Callable[[], None]:
    """What gives an item of a mapping or a list the value back."""

    def restore() -> None:
        target[key] = value

    return restore
