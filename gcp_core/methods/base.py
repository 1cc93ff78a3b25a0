"""What a method is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """A named composition of slots.

    Attributes:
        name: what ``prune.method`` calls it.
        does: one sentence.
        slots: key of a config -> value, for instance ``{"prune.criterion": "frs"}``. A mapping holds options: what the
            user gives of them stays.
        source: paper or code that it is taken from.
        read: how far the source could be read.
        single: further slots that only single trials have; a path leaves them as they are.
        ours: what is a reading or our own, "" = nothing.
        needs: what a config must say besides, as people read it, "" = nothing.
    """

    name: str
    does: str
    slots: Mapping[str, Any]
    source: str
    read: str
    single: Mapping[str, Any] = field(default_factory=dict)
    ours: str = ""
    needs: str = ""

    def text(self) -> str:
        """For people: a block of lines."""
        lines = [("", self.does), ("slots", _text(self.slots)), ("single", _text(self.single))]
        lines += [("needs", self.needs), ("source", self.source)]
        lines += [("read", self.read), ("ours", self.ours)]
        told = [f"  {word:<8}{line}" if word else f"  {line}" for word, line in lines if line]
        return "\n".join([self.name, *told])

    def of(self, *, path: bool) -> dict[str, Any]:
        """The slots that a path, or a single trial, has of it."""
        return {**self.slots, **({} if path else self.single)}


def _text(slots: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in slots.items())
