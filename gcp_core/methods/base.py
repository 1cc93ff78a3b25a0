"""What a method is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
        ours: what is a reading or our own, "" = nothing.
        needs: what a config must say besides, as people read it, "" = nothing.
    """

    name: str
    does: str
    slots: Mapping[str, Any]
    source: str
    read: str
    ours: str = ""
    needs: str = ""

    def text(self) -> str:
        """For people: a block of lines."""
        slots = ", ".join(f"{path}={value}" for path, value in self.slots.items())
        lines = [("", self.does), ("slots", slots), ("needs", self.needs), ("source", self.source)]
        lines += [("read", self.read), ("ours", self.ours)]
        told = [f"  {word:<8}{line}" if word else f"  {line}" for word, line in lines if line]
        return "\n".join([self.name, *told])
