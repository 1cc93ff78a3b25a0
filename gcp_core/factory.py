"""``package.module:factory``: how a user's own model, data or criterion is named in a config."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from gcp_core.errors import GcpError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_factory_name(name: str) -> bool:
    """Whether ``name`` has the form ``package.module:factory``."""
    return _NAME.fullmatch(name) is not None


def load_factory(name: str, where: str, error: type[GcpError]) -> Callable[..., Any]:
    """The callable ``name`` refers to; raises ``error`` (with ``where``) if there is none."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise error(f"cannot import {module_name!r}: {exc}", where, "is its folder on PYTHONPATH?") from exc
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise error(f"{module_name} has no callable {attribute!r}", where)
    return factory
