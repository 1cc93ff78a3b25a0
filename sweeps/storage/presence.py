"""One driver per sweep where no file lock reaches: the driver leaves a sign of life in the object store.

On one machine the folder's lock decides (``sweeps.storage.lock``). Between machines a driver that has given no sign for
:data:`GONE_S` counts as gone; whoever takes over puts its own sign there, and the earlier one, should it come back,
finds that and ends. Times are the store's own, so the machines' clocks may differ.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gcp_core.errors import ConfigError, first_line
from sweeps.storage.lock import STOP_REQUEST
from sweeps.storage.objects import ObjectStore

_log = logging.getLogger(__name__)
DRIVER = "driver.json"
BEAT_S = 20.0
#: Longer than a store may be away before the driver gives up by itself.
GONE_S = 180.0


@dataclass(frozen=True)
class Sign:
    """Who drives the sweep, and how many seconds ago it said so."""

    process: int
    host: str
    token: str
    age_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether it may still be at work."""
        return self.age_s < GONE_S

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def driver_sign(store: ObjectStore) -> Sign | None:
    """The last sign of a driver, None if it has ended in good order (or there never was one)."""
    text, written = store.read(DRIVER), store.written_at(DRIVER)
    if text is None or written is None:
        return None
    values = json.loads(text)
    probe = f".now-{uuid.uuid4().hex}"
    store.write(probe, b"")
    now = store.written_at(probe) or written
    store.remove(probe)
    return Sign(values["process"], values["host"], values["token"], max(0.0, now - written))


def refuse_second(store: ObjectStore) -> None:
    """Raise ConfigError if a driver on another machine may still be at work.

    An earlier one on this machine is gone: the caller holds the lock of the sweep's folder.
    """
    sign = driver_sign(store)
    if sign is not None and sign.alive and sign.host != socket.gethostname():
        raise ConfigError(
            f"the sweep is being run by {sign} (last sign {sign.age_s:.0f} s ago)",
            store.url,
            f"wait for it, or stop it first; without a sign for {GONE_S:.0f} s it counts as gone",
        )


@contextlib.contextmanager
def presence(store: ObjectStore, end: Callable[[str], None], beat_s: float = BEAT_S) -> Iterator[None]:
    """Give signs of life; call ``end`` with a reason when somebody asks for the end, or has taken over.

    Raises ConfigError as :func:`refuse_second` does.
    """
    refuse_second(store)
    token = uuid.uuid4().hex
    sign = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "token": token}).encode()
    store.remove(STOP_REQUEST)  # meant for an earlier driver
    store.write(DRIVER, sign)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(beat_s):
            try:
                found = store.read(DRIVER)
                if found is not None and json.loads(found)["token"] != token:
                    end("another driver has taken over")
                    return
                store.write(DRIVER, sign)
                if store.read(STOP_REQUEST) is not None:
                    end("stopped with gcp-sweep stop")
            except (OSError, ValueError) as exc:
                _log.warning("no sign of life could be left: %s", first_line(exc))

    thread = threading.Thread(target=beat, name="driver-presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(beat_s)
        with contextlib.suppress(OSError, ValueError):
            found = store.read(DRIVER)
            if found is not None and json.loads(found)["token"] == token:
                store.remove(DRIVER)
                store.remove(STOP_REQUEST)
