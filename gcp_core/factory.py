"""``package.module:factory``: how a user's own model, data or criterion is named in a config."""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from collections.abc import Callable
from typing import Any

from gcp_core.errors import GcpError, did_you_mean, first_line

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
#: Of more names than these none is offered.
_FEW = 20
#: What a mistake in a path raises; other errors of files may be the machine's, and pass next time.
_WRONG_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def is_factory_name(name: str) -> bool:
    """Whether ``name`` has the form ``package.module:factory``."""
    return _NAME.fullmatch(name) is not None


def load_factory(name: str, where: str, error: type[GcpError]) -> Callable[..., Any]:
    """The callable ``name`` refers to; raises ``error`` (with ``where``) if there is none, or its module cannot be
    imported.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        itself = exc.name is not None and f"{module_name}.".startswith(f"{exc.name}.")
        hint = (
            "is its folder on PYTHONPATH?"
            if itself
            else f"{module_name} is there, but what it imports is not"
        )
        raise error(f"cannot import {module_name!r}: {exc}", where, hint) from exc
    except Exception as exc:  # the user's own code
        raise error(f"cannot import {module_name!r}: {_said(exc)}", where, _line(exc)) from exc
    factory = getattr(module, attribute, None)
    if not callable(factory):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = did_you_mean(attribute, names) if 0 < len(names) <= _FEW else ""
        raise error(f"{module_name} has no callable {attribute!r}", where, hint)
    return factory


def call_factory(
    factory: Callable[..., Any], name: str, where: str, error: type[GcpError], *args: Any, **arguments: Any
) -> Any:
    """What the user's own ``factory``, called ``name`` in the config, returns. What it raises becomes ``error`` (with
    ``where``), which names the line; our own errors, and what is the machine's fault (no memory, no disk), stay.
    """
    try:
        return factory(*args, **arguments)
    except (GcpError, MemoryError):
        raise
    except Exception as exc:
        if isinstance(exc, OSError) and not isinstance(exc, _WRONG_PATH):
            raise
        raise error(f"{name} raised {_said(exc)}", where, _line(exc, _file_of(factory))) from exc


def _said(exc: Exception) -> str:
    kind, text = type(exc).__name__, first_line(exc)
    return kind if text == kind else f"{kind}: {text}"


def _file_of(factory: Callable[..., Any]) -> str:
    try:
        return inspect.getfile(factory)
    except TypeError:  # a builtin, or an object that can be called
        return ""


def _line(exc: Exception, file: str = "") -> str:
    """Where it was raised, as far as the user's code goes: the last line of ``file``, or else of any file."""
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith("<") and frame.filename not in (__file__, importlib.__file__)
    ]
    own = [frame for frame in frames if frame.filename == file] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""
