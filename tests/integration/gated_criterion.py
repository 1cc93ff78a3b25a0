"""``l1`` behind a gate, for the integration test of what watches a sweep; each process of the sweep imports it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gcp_core.criteria import build_criterion

#: Variable of the environment that names a file; until it is there, no path of the sweep has its first event.
GATE = "GCP_TEST_GATE"


class GatedL1:
    """The L1 criterion, once the gate is open."""

    needs, comparable = "nothing", False

    def score(self, model: Any, groups: Any, batches: Any, generator: Any) -> Any:
        until(Path(os.environ[GATE]).exists)
        return build_criterion("l1").score(model, groups, batches, generator)


def gated_l1() -> GatedL1:
    return GatedL1()


def until(condition: Any, patience_s: float = 300.0) -> None:
    """Wait until it holds; an error where it does not."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
