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
#: The version of a plan that also grows: readers that do not know of growth must not pass over it.
_GROWING = 2
GROWTH_VERSION = 1
_KIND = "growth"


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
class Insert:
    """Indices that one tensor gains along one dimension.

    Attributes:
        tensor: state-dict name of a parameter or buffer.
        dim: dimension along which it grows.
        size: length of that dimension before.
        places: where the new indices are afterwards, ascending.
    """

    tensor: str
    dim: int
    size: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class Growth:
    """What one event adds: a plan of a kind of its own, replayable on the model that it was made for.

    Attributes:
        added: group name -> new units; they come behind the living ones.
        inserts, attributes: what happens to tensors and to integer attributes of modules.
        seed: of the new filters; each tensor draws from a stream of its own.
        meta: free JSON values, for instance ``{"epoch": 3}``.

    >>> Growth.from_json(Growth({"conv1": 2}, seed=7).to_json()).num_units
    2
    """

    added: Mapping[str, int] = field(default_factory=dict)
    inserts: tuple[Insert, ...] = ()
    attributes: tuple[AttributeChange, ...] = ()
    seed: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def num_units(self) -> int:
        """Units this growth adds."""
        return sum(self.added.values())

    def effect(self) -> list[Any]:
        """JSON-ready: what it does to a model, as :meth:`Plan.effect`."""
        inserts = sorted(self.inserts, key=lambda i: (i.tensor, i.dim))
        return [[[i.tensor, i.dim, list(i.places)] for i in inserts], self.seed]

    def inverse(self) -> Plan:
        """The plan that takes exactly the new indices away again (it lists no units and no gates)."""
        cuts = (Cut(i.tensor, i.dim, i.size + len(i.places), i.places) for i in self.inserts)
        changes = (dataclasses.replace(c, before=c.after, after=c.before) for c in self.attributes)
        return Plan(cuts=tuple(cuts), attributes=tuple(changes))

    def with_meta(self, **values: Any) -> Growth:
        """A copy whose ``meta`` also holds ``values``."""
        return dataclasses.replace(self, meta={**self.meta, **values})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values; inverse of :meth:`from_dict`."""
        return {
            "version": GROWTH_VERSION,
            "kind": _KIND,
            "added": dict(self.added),
            "inserts": [[i.tensor, i.dim, i.size, list(i.places)] for i in self.inserts],
            "attributes": [list(dataclasses.astuple(change)) for change in self.attributes],
            "seed": self.seed,
            "meta": dict(self.meta),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Growth:
        """Build from :meth:`to_dict`'s values.

        Raises:
            PlanError: another kind or version, or a part is missing or malformed.
        """
        given = (values.get("kind"), values.get("version")) if isinstance(values, Mapping) else None
        if given != (_KIND, GROWTH_VERSION):
            raise PlanError(f"not a growth of version {GROWTH_VERSION} (found {given!r})", "growth")
        try:
            return cls(
                added={str(name): int(number) for name, number in values["added"].items()},
                inserts=tuple(
                    Insert(str(t), int(d), int(s), tuple(map(int, p))) for t, d, s, p in values["inserts"]
                ),
                attributes=tuple(
                    AttributeChange(str(m), str(n), int(b), int(a)) for m, n, b, a in values["attributes"]
                ),
                seed=int(values["seed"]),
                meta=dict(values["meta"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise PlanError(f"a part of the growth is missing or malformed: {exc}", "growth") from exc

    def to_json(self) -> str:
        """Compact JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Growth:
        """Inverse of :meth:`to_json`.

        Raises:
            PlanError: the text is no JSON, or no growth.
        """
        return cls.from_dict(_parsed(text, "growth"))


@dataclass(frozen=True)
class Plan:
    """What one event removes. All indices refer to the model before it.

    Attributes:
        removed: group name -> units of that group, ascending.
        cuts, attributes, scatters, gates: what surgery and gating do (see their classes).
        skipped: channels that were requested but stay (only ``remove_channels`` fills it).
        meta: free JSON values, for instance ``{"epoch": 3}``.
        growth: what is added after that, where an event also lets layers grow; it refers to the model after the cuts.

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
    growth: Growth | None = None

    @property
    def num_units(self) -> int:
        """Units this plan removes."""
        return sum(len(units) for units in self.removed.values())

    def effect(self) -> list[Any]:
        """JSON-ready: what surgery does to a model. Equal effects on equal weights leave equal weights."""
        cuts = [
            [c.tensor, c.dim, list(c.removed)] for c in sorted(self.cuts, key=lambda c: (c.tensor, c.dim))
        ]
        done = [cuts, [[s.module, s.full_channels] for s in sorted(self.scatters, key=lambda s: s.module)]]
        return done if self.growth is None else [*done, self.growth.effect()]

    def with_meta(self, **values: Any) -> Plan:
        """A copy whose ``meta`` also holds ``values``."""
        return dataclasses.replace(self, meta={**self.meta, **values})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values; inverse of :meth:`from_dict`."""
        parts = {name: [list(dataclasses.astuple(item)) for item in getattr(self, name)] for name in _PARTS}
        removed = {name: list(units) for name, units in self.removed.items()}
        found = {"version": PLAN_VERSION, "removed": removed, **parts, "meta": dict(self.meta)}
        return (
            found if self.growth is None else {**found, "version": _GROWING, "growth": self.growth.to_dict()}
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build from :meth:`to_dict`'s values.

        Raises:
            PlanError: another version, or not a plan at all.
        """
        grows = isinstance(values, Mapping) and "growth" in values
        if not isinstance(values, Mapping) or values.get("version") != (_GROWING if grows else PLAN_VERSION):
            given = values.get("version") if isinstance(values, Mapping) else type(values).__name__
            raise PlanError(f"not a plan of version {PLAN_VERSION} (found {given!r})", "plan")
        try:
            parts = {
                name: tuple(part(*map(_frozen, row)) for row in values[name]) for name, part in _PARTS.items()
            }
            removed = {str(name): _frozen(units) for name, units in values["removed"].items()}
            growth = Growth.from_dict(values["growth"]) if grows else None
            return cls(removed=removed, meta=dict(values["meta"]), growth=growth, **parts)
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
        return cls.from_dict(_parsed(text, "plan"))


_PARTS: dict[str, type] = {
    "cuts": Cut,
    "attributes": AttributeChange,
    "scatters": Scatter,
    "gates": Gate,
    "skipped": Skipped,
}


def _frozen(value: Any) -> Any:
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else value


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise PlanError(f"not JSON: {exc}", where) from exc
