"""What ``gcp-sweep methods`` says: every method with its slots, its source, and how far that could be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gcp_core.methods import find_method, method_names


@dataclass(frozen=True)
class Listed:
    """One method; the fields are those of :class:`gcp_core.methods.Method`."""

    name: str
    does: str
    slots: dict[str, Any]
    source: str
    read: str
    ours: str
    needs: str

    def text(self) -> str:
        """For people."""
        slots = ", ".join(f"{path}={value}" for path, value in self.slots.items())
        lines = [("", self.does), ("slots", slots), ("needs", self.needs), ("source", self.source)]
        lines += [("read", self.read), ("ours", self.ours)]
        told = [f"  {word:<8}{line}" if word else f"  {line}" for word, line in lines if line]
        return "\n".join([self.name, *told])


def listed() -> list[Listed]:
    """All methods that are installed, by name."""
    found = []
    for name in method_names():
        method = find_method(name)
        about = (method.source, method.read, method.ours, method.needs)
        found.append(Listed(name, method.does, dict(method.slots), *about))
    return found
