"""A criterion that raises when it is asked for scores: the failing trial of the integration test."""

from __future__ import annotations

from typing import Any


class Broken:
    needs = "nothing"

    def score(self, model: Any, groups: Any, batches: Any, generator: Any) -> Any:
        raise RuntimeError("broken on purpose")


def build(**options: Any) -> Broken:
    return Broken()
