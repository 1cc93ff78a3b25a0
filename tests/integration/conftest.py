"""Fixtures of several test files of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pictures import rendered, rendering
from tests.timings import short_timings

__all__ = ["rendered", "rendering", "short_timings"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Three Ray nodes on loopback, the head without CPUs: what ``--address`` names."""
    from ray.cluster_utils import Cluster

    # Nobody asks the processes that show the workers' output and watch the load.
    lean = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **lean})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()
