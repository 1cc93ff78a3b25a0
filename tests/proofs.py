"""Exports whose proof runs in the test's process: where not the proof is tested but what is done with an export."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterator

import pytest

from analysis.ship import export


@contextlib.contextmanager
def proven_here() -> Iterator[None]:
    """A fresh process takes seconds to import what is imported here; it measures the same.

    Forward passes are timed for the fewest rounds, not for up to half a second: no test goes by what they say.
    """

    def here(words: list[str]) -> subprocess.CompletedProcess[str]:
        from analysis.ship import prove

        with pytest.MonkeyPatch.context() as shorter:
            shorter.setattr(prove, "measure_against", functools.partial(prove.measure_against, seconds=0.0))
            prove.main(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "in_fresh_process", here)
        yield
