"""Errors that name the place, the value, what is allowed and what to try.

Every error a user can cause derives from :class:`GcpError`. They cross process borders (Ray workers),
so their fields survive pickle: all of them are positional arguments of ``Exception``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from gcp_core.redaction import redact

T = TypeVar("T")


class GcpError(Exception):
    """Base of every error that this project raises on purpose. Its text holds no secret (``gcp_core.redaction``).

    Args:
        message: one sentence that says what is wrong.
        where: config path, file, layer name, ... (may be empty).
        hint: what to try (may be empty).
    """

    def __init__(self, message: str, where: str = "", hint: str = "") -> None:
        message, where, hint = redact(message), redact(where), redact(hint)
        super().__init__(message, where, hint)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def as_dict(self) -> dict[str, str]:
        """What both programs answer with ``--json``."""
        return {"error": self.message, "where": self.where, "hint": self.hint}


class ConfigError(GcpError):
    """A configuration value, flag or override that cannot be used (exit code 2)."""


class DataError(GcpError):
    """A data set that is missing, corrupt or out of range (exit code 2)."""


class ModelError(GcpError):
    """A model that cannot be built, traced or pruned."""


class PlanError(GcpError):
    """A plan that does not fit the model, or a removal that was refused."""


class RelevanceError(GcpError):
    """A relevance pass that met a non-finite value or an unusable input."""


class CheckpointError(GcpError):
    """A checkpoint that is missing, truncated, tampered with, or of another version (exit code 2)."""


class InfeasibleTarget(ConfigError):
    """A target the schedule cannot reach even when the costliest units go first."""


class Diverged(GcpError):
    """The training loss was not finite."""


class ProcessLost(GcpError):
    """One of the processes that train a trial is gone. The trial can go on from its newest checkpoint."""


def required(value: T | None, what: str) -> T:
    """``value``, which the caller knows to be present; if it is None, that is a bug and not a user's mistake.

    Raises:
        ValueError: it is None; names ``what`` is missing.
    """
    if value is None:
        raise ValueError(f"{what} is missing")
    return value


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """A hint: the nearest allowed word, or the list of all of them.

    >>> did_you_mean("intervall", ["interval", "ratio"])
    'did you mean "interval"?'
    """
    names = sorted(str(name) for name in allowed)
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return "allowed: " + ", ".join(names)


def first_line(exc: BaseException) -> str:
    """The first line of any exception, shortened and without secrets; the name of its type if it has no message."""
    return shortened(redact((str(exc).strip().splitlines() or [type(exc).__name__])[0]))


def shortened(text: str) -> str:
    """At most 300 characters of a message. What is left out is in its middle: the cause often stands at its end."""
    return text if len(text) <= 300 else f"{text[:180]} ... {text[-115:]}"
