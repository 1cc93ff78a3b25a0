"""Training that trials have in common (``gcp_core.records.stages``), kept in an object store, one object a stage."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping
from typing import Any

from gcp_core.records.checkpoint import STATE, write_folder
from gcp_core.records.stages import MAX_BYTES, ROOM, StageStore, usual_bound
from sweeps.records.layout import STAGES
from sweeps.storage.exchange import Exchange, ObjectExchange
from sweeps.storage.packs import pack, unpack

_log = logging.getLogger(__name__)
#: The list of stages is taken as current for this long: that way it is asked for once per epoch.
_LIST_S = 1.0
_PACK = ".tar"


class ObjectStages(StageStore):
    """Stages in the store of ``exchange``; its folder holds one while that is read, and the one that was saved last."""

    def __init__(self, exchange: ObjectExchange, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(exchange.root / STAGES, max_bytes)
        self._exchange = exchange
        self._found: dict[str, tuple[float, int]] = {}
        self._listed_at = -math.inf

    def has(self, key: str) -> bool:
        if time.monotonic() - self._listed_at > _LIST_S:
            self._list()
        return key in self._found

    def _list(self) -> None:
        """Of each stage when it was written, and its bytes: one listing tells both."""
        listing = self._exchange.store.listing(STAGES)
        self._found = {path.split("/")[1].removesuffix(_PACK): seen for path, seen in listing.items()}
        self._listed_at = time.monotonic()

    def load(self, key: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        try:
            content = self._exchange.store.read(_at(key)) if self.has(key) else None
        except OSError as exc:
            _log.warning("skipped a stage: %s", exc)
            return None
        if content is None:
            return None
        try:
            unpack(content, self.root)
            found = super().load(key)
        except ValueError as exc:
            _log.warning("stage passed over: %s", exc)
            found = None
        finally:
            shutil.rmtree(self.root / key, ignore_errors=True)
        if found is None:
            self._forget(key)
        return found

    def _forget(self, key: str) -> None:
        """Remove a damaged stage, so that the next trial that trains it can store it again."""
        self._found.pop(key, None)
        try:
            self._exchange.remove(_at(key))
        except OSError as exc:
            _log.warning("a damaged stage is left in the store: %s", exc)

    def save(self, key: str, state: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        shutil.rmtree(self.root, ignore_errors=True)  # the stage before this one
        try:
            # Whoever trains an epoch has just looked for its stage.
            if key in self._found or (self._listed_at == -math.inf and self.has(key)):
                return
            self._last = key, write_folder(self.root / key, STATE, state, manifest, durable=False)
            content = pack(self.root, [key])
            # Whoever else trains the same writes the same bytes, so nobody's leave is asked.
            self._exchange.store.write(_at(key), content)
            self._found[key] = (math.inf, len(content))  # the newest
            self._evict(keep=key)
        except OSError as exc:
            _log.warning("stage not saved: %s", exc)

    def _evict(self, keep: str) -> None:
        """The oldest go, as the last listing knows them: a store does not tell when a stage was last read."""
        total = sum(size for _, size in self._found.values())
        if total <= self.max_bytes:
            return
        for key, (_, size) in sorted(self._found.items(), key=lambda found: found[1][0]):
            if total <= ROOM * self.max_bytes:
                return
            if key != keep:
                self._exchange.store.remove(_at(key))
                del self._found[key]
                total -= size


def _at(key: str) -> str:
    return f"{STAGES}/{key}{_PACK}"


def open_stages(exchange: Exchange, max_bytes: int | None = None) -> StageStore:
    """Training that the trials of ``exchange``'s sweep have in common, where all of them can reach it.

    Args:
        max_bytes: how much of it is kept (``search.stage_gb``); None = a share of what is free in the sweep's folder,
            or :data:`gcp_core.records.stages.MAX_BYTES` in a store, which does not tell what is free.
    """
    if isinstance(exchange, ObjectExchange):
        return ObjectStages(exchange, max_bytes or MAX_BYTES)
    return StageStore(exchange.root / STAGES, max_bytes or usual_bound(exchange.root))
