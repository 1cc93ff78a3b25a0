"""Errors of the analysis; all survive pickle like their base."""

from __future__ import annotations

from dataclasses import dataclass

from gcp_core.errors import ConfigError, GcpError


class SweepNotFound(ConfigError):
    """No such sweep, or nothing in it (exit code 2)."""


class NotBegun(SweepNotFound):
    """The sweep exists, but nothing is in it yet."""


class Unreachable(GcpError):
    """MLflow, or the store of its files, is away or refuses: what it holds is not known (exit code 1)."""


@dataclass(frozen=True)
class Removal:
    """What one constraint does by itself, before any other is applied.

    Attributes:
        constraint: the constraint as understood.
        removed: trials it removes, those without a value included.
        missing: of them, trials that have no finite value (or no baseline) to judge by.
        of: trials it was applied to.
        nearest: the removed model that comes closest ("" if none has a value).
        nearest_value: that trial's value, in the column's unit (NaN if none).
        nearest_miss: by how much it misses the bound, same unit (NaN if none).
    """

    constraint: str
    removed: int
    missing: int
    of: int
    nearest: str
    nearest_value: float
    nearest_miss: float


class NothingFeasible(GcpError):
    """No trial satisfies what was asked (exit code 3); ``removals`` says what each constraint alone
    removed.
    """

    def __init__(
        self, message: str, where: str = "", hint: str = "", removals: tuple[Removal, ...] = ()
    ) -> None:
        super().__init__(message, where, hint)
        self.removals = removals
        self.args = (message, where, hint, removals)


class VerificationError(GcpError):
    """A model is not what its records say: hash, MACs, accuracy or outputs differ (exit code 1)."""
