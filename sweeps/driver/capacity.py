"""Whether the cluster still has room for a trial: nodes come and go."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sweeps.config.sweep_config import SweepConfig

#: Seconds between two looks.
EVERY_S = 10.0
#: What floating point may take off a number of processes: three thirds of a CPU are one.
_HAIR = 1e-9


def wanted(config: SweepConfig) -> dict[str, float]:
    """What one trial asks of its node, by Ray's names."""
    return {"CPU": config.resources.cpus, "GPU": config.resources.gpus}


def processes(config: SweepConfig) -> int:
    """How many processes train a trial together."""
    return int(config.space.base["train"]["processes"])


def bundles(config: SweepConfig) -> dict[str, Any]:
    """Arguments of Ray's placement group for a trial: a bundle for each of its processes, all on one node or, with
    ``resources.spread``, on as few as there are places.
    """
    number = processes(config)
    whole = number == 1 or config.resources.spread
    return {"bundles": [_each(config) for _ in range(number)], "strategy": "PACK" if whole else "STRICT_PACK"}


def _each(config: SweepConfig) -> dict[str, float]:
    """What each process of a trial asks for."""
    number = processes(config)
    return {kind: value / number for kind, value in wanted(config).items() if value or kind == "CPU"}


def places(config: SweepConfig, nodes: Iterable[Mapping[str, Any]]) -> int:
    """For how many processes of one trial these nodes have places (Ray's own records of them): on the best node or, with
    ``resources.spread``, on all of them.
    """
    found = [
        min(
            math.floor(node["Resources"].get(kind, 0.0) / number + _HAIR)
            for kind, number in _each(config).items()
        )
        for node in nodes
    ]
    return sum(found) if config.resources.spread else max(found, default=0)


def fits(config: SweepConfig, nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a trial finds everything it asks for on these nodes."""
    return places(config, nodes) >= processes(config)


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
        enough = fits(self._config, alive)
        if enough and self._short_since:
            self._note(f"{self._room()} is back after {now - self._short_since:.0f} s: going on")
            self._short_since = 0.0
        elif not enough and not self._short_since:
            self._note(
                f"{self._lack()} any more ({len(alive)} node(s) alive): trials wait until it is back; Ctrl-C ends the "
                "sweep, `run` continues it"
            )
            self._short_since = now

    def _room(self) -> str:
        if self._config.resources.spread:
            return f"room for the {processes(self._config)} processes of a trial"
        return f"a node with {self._wanted()}"

    def _lack(self) -> str:
        if self._config.resources.spread:
            return f"the cluster has no {self._room()}"
        return f"no node of the cluster has {self._wanted()}"

    def _wanted(self) -> str:
        cpus, gpus = self._config.resources.cpus, self._config.resources.gpus
        return f"{cpus} CPU(s)" + (f" and {gpus:g} GPU(s)" if gpus else "")
