"""A private Ray as a sweep starts it, for a machine that is too busy to start one in the 30 s that Ray allows itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import processes

ATTEMPTS = 3


@contextlib.contextmanager
def private_ray(tree: Mapping[str, Any]) -> Iterator[None]:
    """Ray for the sweeps of this process: ``sweeps.run`` uses a connection that exists.

    Args:
        tree: the config of one of the sweeps.
    """
    from sweeps.config.sweep_config import load_config
    from sweeps.driver.cluster import ray_cluster

    config = load_config(tree)
    with contextlib.ExitStack() as stack:
        for attempt in range(ATTEMPTS):
            before = processes.descendants(os.getpid())
            try:
                stack.enter_context(ray_cluster(config, None))
                break
            except Exception as exc:  # Ray raises a bare Exception for this
                if attempt + 1 == ATTEMPTS or "timed out during startup" not in str(exc):
                    raise
            # ray.shutdown() leaves the processes of a start that failed running: they would slow down the next one.
            processes.end(processes.descendants(os.getpid()) - before, patience_s=0.0)
        yield
