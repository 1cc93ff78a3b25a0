"""Whether the cluster still has room for a trial: nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.config.sweep_config import SweepConfig

#: Seconds between two looks.
EVERY_S = 10.0


def wanted(config: SweepConfig) -> dict[str, float]:
    """What one trial asks of its node, by Ray's names."""
    return {"CPU": config.resources.cpus, "GPU": config.resources.gpus}


def bundles(config: SweepConfig) -> dict[str, Any]:
    """Arguments of Ray's placement group for a trial: a bundle for each of its processes, all on one node."""
    number = config.space.base["train"]["processes"]
    each = {kind: value / number for kind, value in wanted(config).items() if value or kind == "CPU"}
    return {
        "bundles": [dict(each) for _ in range(number)],
        "strategy": "STRICT_PACK" if number > 1 else "PACK",
    }


def fits(config: SweepConfig, node: Mapping[str, Any]) -> bool:
    """Whether a trial finds everything it asks for on this node (Ray's own record of it)."""
    return all(node["Resources"].get(kind, 0.0) >= number for kind, number in wanted(config).items())


class Capacity:
    """Says so when no node that is alive could run a trial, and when one can again. The sweep waits meanwhile.

    Args:
        nodes: Ray's records of all nodes, those that are gone included.
        note: tells the user.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        config: SweepConfig,
        nodes: Callable[[], Sequence[Mapping[str, Any]]],
        note: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._nodes, self._note, self._now = config, nodes, note, now
        self._next, self._short_since = now() + EVERY_S, 0.0

    def look(self) -> None:
        """Look at the cluster, if it is time to."""
        now = self._now()
        if now < self._next:
            return
        self._next = now + EVERY_S
        alive = [node for node in self._nodes() if node["Alive"]]
        enough = any(fits(self._config, node) for node in alive)
        if enough and self._short_since:
            self._note(
                f"a node with {self._wanted()} is back after {now - self._short_since:.0f} s: going on"
            )
            self._short_since = 0.0
        elif not enough and not self._short_since:
            self._note(
                f"no node of the cluster has {self._wanted()} any more ({len(alive)} node(s) alive): trials wait until "
                "one is back; Ctrl-C ends the sweep, `run` continues it"
            )
            self._short_since = now

    def _wanted(self) -> str:
        cpus, gpus = self._config.resources.cpus, self._config.resources.gpus
        return f"{cpus} CPU(s)" + (f" and {gpus:g} GPU(s)" if gpus else "")
