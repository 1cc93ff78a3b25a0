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
from gcp_core.records.stages import MAX_BYTES, StageStore
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
        self._listed: set[str] = set()
        self._listed_at = -math.inf

    def has(self, key: str) -> bool:
        if time.monotonic() - self._listed_at > _LIST_S:
            # The manifest is stored last: what has none is not whole, and may be written again.
            paths = map(PurePosixPath, self._exchange.store.sizes(STAGES))
            self._listed = {path.parts[1] for path in paths if path.name == MANIFEST}
            self._listed_at = time.monotonic()
        return key in self._listed

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
        self._listed.discard(key)
        try:
            self._exchange.remove(f"{STAGES}/{key}")
        except OSError as exc:
            _log.warning("a damaged stage is left in the store: %s", exc)

    def save(self, key: str, state: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        try:
            if self.has(key):
                return
            write_folder(self.root / key, STATE, state, manifest, durable=False)
            self._exchange.send(f"{STAGES}/{key}")
            self._listed.add(key)
            self._evict(keep=key)
        except OSError as exc:
            _log.warning("stage not saved: %s", exc)
        finally:
            shutil.rmtree(self.root / key, ignore_errors=True)

    def _evict(self, keep: str) -> None:
        """The oldest go: a store does not tell when a stage was last read."""
        store = self._exchange.store
        sizes: dict[str, int] = {}
        for path, size in store.sizes(STAGES).items():
            key = PurePosixPath(path).parts[1]
            sizes[key] = sizes.get(key, 0) + size
        total = sum(sizes.values())
        if total <= self.max_bytes:
            return
        written = {key: store.written_at(f"{STAGES}/{key}/{MANIFEST}") or 0.0 for key in sizes if key != keep}
        for key in sorted(written, key=lambda key: written[key]):
            if total <= self.max_bytes:
                return
            store.remove(f"{STAGES}/{key}")
            total -= sizes[key]


def open_stages(exchange: Exchange) -> StageStore:
    """Training that the trials of ``exchange``'s sweep have in common, where all of them can reach it."""
    if isinstance(exchange, ObjectExchange):
        return ObjectStages(exchange)
    return StageStore(exchange.root / STAGES)
