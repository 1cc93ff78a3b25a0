"""Training that trials have in common (``gcp_core.records.stages``), kept in an object store."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from gcp_core.records.checkpoint import MANIFEST, STATE, write_folder
from gcp_core.records.stages import MAX_BYTES, ROOM, StageStore, usual_bound
from sweeps.records.layout import STAGES
from sweeps.storage.exchange import Exchange, ObjectExchange

_log = logging.getLogger(__name__)
#: The list of stages is taken as current for this long: that way it is asked for once per epoch.
_LIST_S = 1.0


class ObjectStages(StageStore):
    """Stages in the store of ``exchange``; its folder holds one only while that is written or read."""

    def __init__(self, exchange: ObjectExchange, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(exchange.root / STAGES, max_bytes)
        self._exchange = exchange
        self._found: dict[str, tuple[float, int]] = {}
        self._whole: set[str] = set()
        self._listed_at = -math.inf

    def has(self, key: str) -> bool:
        if time.monotonic() - self._listed_at > _LIST_S:
            self._list()
        return key in self._whole

    def _list(self) -> None:
        """Which stages are whole, and of each (when it was written, its bytes): one listing tells both."""
        self._found, self._whole = {}, set()
        for name, (written, size) in self._exchange.store.listing(STAGES).items():
            path = PurePosixPath(name)
            key = path.parts[1]
            before, bytes_ = self._found.get(key, (0.0, 0))
            self._found[key] = (max(before, written), bytes_ + size)
            if (
                path.name == MANIFEST
            ):  # it is stored last: what has none is not whole, and may be written again
                self._whole.add(key)
        self._listed_at = time.monotonic()

    def load(self, key: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        try:
            if not self.has(key):
                return None
            self._exchange.fetch(f"{STAGES}/{key}")
        except OSError as exc:
            _log.warning("skipped a stage: %s", exc)
            return None
        found = super().load(key)
        shutil.rmtree(self.root / key, ignore_errors=True)
        if found is None:
            self._forget(key)
        return found

    def _forget(self, key: str) -> None:
        """Remove a damaged stage, so that the next trial that trains it can store it again."""
        self._whole.discard(key)
        try:
            self._exchange.remove(f"{STAGES}/{key}")
        except OSError as exc:
            _log.warning("a damaged stage is left in the store: %s", exc)

    def save(self, key: str, state: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        try:
            if self.has(key):
                return
            write_folder(self.root / key, STATE, state, manifest, durable=False)
            # Whoever else trains the same writes the same bytes, so nobody's leave is asked; the manifest comes last.
            for file in (STATE, MANIFEST):
                self._exchange.store.put(self.root / key / file, f"{STAGES}/{key}/{file}")
            size = sum(file.stat().st_size for file in (self.root / key).iterdir())
            self._whole.add(key)
            self._found[key] = (math.inf, size)  # the newest
            self._evict(keep=key)
        except OSError as exc:
            _log.warning("stage not saved: %s", exc)
        finally:
            shutil.rmtree(self.root / key, ignore_errors=True)

    def _evict(self, keep: str) -> None:
        """The oldest go, as the last listing knows them: a store does not tell when a stage was last read."""
        total = sum(size for _, size in self._found.values())
        if total <= self.max_bytes:
            return
        for key, (_, size) in sorted(self._found.items(), key=lambda found: found[1][0]):
            if total <= ROOM * self.max_bytes:
                return
            if key != keep:
                self._exchange.store.remove(f"{STAGES}/{key}")
                del self._found[key]
                self._whole.discard(key)
                total -= size


def open_stages(exchange: Exchange, max_bytes: int | None = None) -> StageStore:
    """Training that the trials of ``exchange``'s sweep have in common, where all of them can reach it.

    Args:
        max_bytes: how much of it is kept (``search.stage_gb``); None = a share of what is free in the sweep's folder,
            or :data:`gcp_core.records.stages.MAX_BYTES` in a store, which does not tell what is free.
    """
    if isinstance(exchange, ObjectExchange):
        return ObjectStages(exchange, max_bytes or MAX_BYTES)
    return StageStore(exchange.root / STAGES, max_bytes or usual_bound(exchange.root))
