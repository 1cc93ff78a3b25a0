"""Exports whose proof runs in the test's process: where not the proof is tested but what is done with an export."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from analysis.ship import export


@contextlib.contextmanager
def proven_here() -> Iterator[None]:
    """A fresh process takes seconds to import what is imported here; it measures the same."""

    def here(words: list[str]) -> subprocess.CompletedProcess[str]:
        from analysis.ship import prove

        prove.main(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "in_fresh_process", here)
        yield
