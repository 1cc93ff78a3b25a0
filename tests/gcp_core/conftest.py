"""Fixtures of several test files of this room."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from gcp_core.config import TrialConfig
from gcp_core.records.results import TrialResult
from tests.timings import short_timings

__all__ = ["short_timings"]


@pytest.fixture(scope="session")
def alone() -> Callable[[TrialConfig], TrialResult]:
    """Config -> its trial as nobody disturbed it, without a folder and without latency; trained once."""
    known: dict[str, TrialResult] = {}

    def trained(config: TrialConfig) -> TrialResult:
        from gcp_core.training import run_trial

        text = json.dumps(config.to_dict(), sort_keys=True)
        if text not in known:
            known[text] = run_trial(config, latency=False)
        return known[text]

    return trained
