"""Fixtures for tests that train: what a trial measures on a clock is short."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from gcp_core.training import finals


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> Iterator[None]:
    """At the end of a trial its model's forward pass is timed until its share of the dense model's is known within 2 %,
    or for half a second. Here it takes the fewest rounds: no test goes by what they say.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finals, "measure_against", functools.partial(finals.measure_against, seconds=0.0))
        yield
