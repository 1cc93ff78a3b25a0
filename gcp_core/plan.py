"""The frozen record of what one pruning event removes.

A plan refers to the model before the event and holds everything that surgery needs, so it can be replayed on a
fresh model without tracing it: a trial's history is a list of plans.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gcp_core.errors import PlanError

PLAN_VERSION = 1


@dataclass(frozen=True)
class Cut:
    """Indices that one tensor loses along one dimension.

    Attributes:
        tensor: state-dict name of a parameter or buffer.
        dim: dimension along which the indices are removed.
        size: length of that dimension before the event.
        removed: the indices that are removed, ascending.
    """

    tensor: str
    dim: int
    size: int
    removed: tuple[int, ...]


@dataclass(frozen=True)
class AttributeChange:
    """An integer attribute of a module (``out_channels``, ``groups``, ...) before and after the event."""

    module: str
    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Scatter:
    """A batch norm that starts to write into a stream of ``full_channels`` channels at registered indices."""

    module: str
    full_channels: int


@dataclass(frozen=True)
class Gate:
    """Where :func:`gcp_core.surgery.gate_channels` zeroes: output of ``module`` along ``dim`` at ``removed``."""

    module: str
    dim: int
    removed: tuple[int, ...]


@dataclass(frozen=True)
class Skipped:
    """A channel that was requested but not removed, and why."""

    layer: str
    channel: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """What one event removes. All indices refer to the model before it.

    Attributes:
        removed: group name -> units of that group, ascending.
        cuts, attributes, scatters, gates: what surgery and gating do (see their classes).
        skipped: channels that were requested but stay (only ``remove_channels`` fills it).
        meta: free JSON values, for instance ``{"epoch": 3}``.

    >>> Plan.from_json(Plan(removed={"conv1": (0, 2)}).to_json()).num_units
    2
    """

    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cuts: tuple[Cut, ...] = ()
    attributes: tuple[AttributeChange, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    gates: tuple[Gate, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def num_units(self) -> int:
        """Units this plan removes."""
        return sum(len(units) for units in self.removed.values())

    def effect(self) -> list[Any]:
        """JSON-ready: what surgery does to a model. Equal effects on equal weights leave equal weights."""
        cuts = [
            [c.tensor, c.dim, list(c.removed)] for c in sorted(self.cuts, key=lambda c: (c.tensor, c.dim))
        ]
        return [cuts, [[s.module, s.full_channels] for s in sorted(self.scatters, key=lambda s: s.module)]]

    def with_meta(self, **values: Any) -> Plan:
        """A copy whose ``meta`` also holds ``values``."""
        return dataclasses.replace(self, meta={**self.meta, **values})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values; inverse of :meth:`from_dict`."""
        parts = {name: [list(dataclasses.astuple(item)) for item in getattr(self, name)] for name in _PARTS}
        removed = {name: list(units) for name, units in self.removed.items()}
        return {"version": PLAN_VERSION, "removed": removed, **parts, "meta": dict(self.meta)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build from :meth:`to_dict`'s values.

        Raises:
            PlanError: another version, or not a plan at all.
        """
        if not isinstance(values, Mapping) or values.get("version") != PLAN_VERSION:
            given = values.get("version") if isinstance(values, Mapping) else type(values).__name__
            raise PlanError(f"not a plan of version {PLAN_VERSION} (found {given!r})", "plan")
        try:
            parts = {
                name: tuple(part(*map(_frozen, row)) for row in values[name]) for name, part in _PARTS.items()
            }
            removed = {str(name): _frozen(units) for name, units in values["removed"].items()}
            return cls(removed=removed, meta=dict(values["meta"]), **parts)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise PlanError(f"a part of the plan is missing or malformed: {exc}", "plan") from exc

    def to_json(self) -> str:
        """Compact JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Inverse of :meth:`to_json`.

        Raises:
            PlanError: the text is no JSON, or no plan.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as exc:
            raise PlanError(f"not JSON: {exc}", "plan") from exc
        return cls.from_dict(values)


_PARTS: dict[str, type] = {
    "cuts": Cut,
    "attributes": AttributeChange,
    "scatters": Scatter,
    "gates": Gate,
    "skipped": Skipped,
}


def _frozen(value: Any) -> Any:
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else value
