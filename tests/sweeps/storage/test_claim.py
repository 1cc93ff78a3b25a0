"""Whose a trial is, in a store that does not tell when an object was written."""

from __future__ import annotations

from typing import cast

import pytest

from gcp_core.config import TrialConfig
from sweeps.records.job import Job
from sweeps.storage.claim import Claim
from sweeps.storage.lock import Superseded
from sweeps.storage.objects import ObjectStore


class Timeless:
    """Objects in memory, without times."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def write(self, path: str, content: bytes) -> None:
        self._objects[path] = content

    def read(self, path: str) -> bytes | None:
        return self._objects.get(path)

    def stamp(self, path: str) -> tuple[float, int] | None:
        return (0.0, len(self._objects[path])) if path in self._objects else None


def test_a_claim_of_the_same_length_is_another_one_where_the_store_tells_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweeps.storage.claim._SAME_STAMP_S", -1.0)  # as if it had been written long ago
    store = cast(ObjectStore, Timeless())
    job = Job("t0007", "trial", 7, TrialConfig(), {}, "/sweep/trials/t0007")
    first = Claim(store, job, generation=1)
    first.check(store)
    second = Claim(store, job, generation=1)
    second.check(store)
    with pytest.raises(Superseded, match="trials/t0007 has been taken over by another process"):
        first.check(store)
