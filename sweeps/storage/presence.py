"""One driver per sweep where no file lock reaches: a heartbeat and a numbered claim in the object store.

On one machine the folder's lock decides (``sweeps.storage.lock``). Between machines, and between two working folders on
one, a driver that has given no sign for :data:`GONE_S` counts as gone. Whoever takes over leaves a claim with the next
number; from then on the right to write is its own. A driver looks at the claims before everything that it stores, so
one that was paused and wakes up superseded stores nothing more. Times are the store's own: machines' clocks may differ.

Claims are objects of their own with unique names, compared by listing them, because not every client of a store offers
conditional writes (pyarrow's do not). What that gives, as S3, GCS and Azure list what was just written: of two drivers
that claim at once exactly one remains, and no driver begins to store anything after another one's claim. What it does
not give: a request that was sent before the other's claim, or whose sender stood still for more than :data:`GONE_S`
between looking and sending, may arrive after it. The next copy of the new driver's ledger replaces what it wrote.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gcp_core.errors import ConfigError, first_line
from sweeps.storage.lock import STOP_REQUEST, Superseded
from sweeps.storage.objects import ObjectStore

_log = logging.getLogger(__name__)
#: The heartbeat.
DRIVER = "driver.json"
#: Folder of the claims: empty objects ``NUMBER-TOKEN``; only the newest is kept.
CLAIMS = "drivers"
BEAT_S = 20.0
#: Longer than a store may be away before the driver gives up by itself.
GONE_S = 180.0
_CLAIM = re.compile(r"(\d{8})-([0-9a-f]{32})")


@dataclass(frozen=True)
class Sign:
    """Who drives the sweep, from which working folder, and how many seconds ago it said so."""

    process: int
    host: str
    token: str
    folder: str = ""
    age_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether it may still be at work."""
        return self.age_s < GONE_S

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@dataclass(frozen=True, order=True)
class Claim:
    """The right to write; the greatest one counts. ``number`` rises with every driver."""

    number: int
    token: str

    @property
    def path(self) -> str:
        return f"{CLAIMS}/{self.number:08d}-{self.token}"


def claims(store: ObjectStore) -> list[Claim]:
    """All claims there are, the one that counts last."""
    found = (_CLAIM.fullmatch(name) for name in store.names(CLAIMS))
    return sorted(Claim(int(match[1]), match[2]) for match in found if match)


def driver_sign(store: ObjectStore) -> Sign | None:
    """The last sign of a driver, None if it has ended cleanly (or there never was one)."""
    text, written = store.read(DRIVER), store.written_at(DRIVER)
    if text is None or written is None:
        return None
    values = json.loads(text)
    probe = f".now-{uuid.uuid4().hex}"
    store.write(probe, b"")
    now = store.written_at(probe) or written
    store.remove(probe)
    age_s = max(0.0, now - written)
    return Sign(values["process"], values["host"], values["token"], values.get("folder", ""), age_s)


def refuse_second(store: ObjectStore, folder: Path) -> None:
    """Raise ConfigError if a driver with another working folder, here or elsewhere, may still be at work.

    An earlier one with this very folder is gone: the caller holds its lock, or has seen that nobody does.
    """
    sign = driver_sign(store)
    if sign is None or not sign.alive:
        return
    if sign.host == socket.gethostname() and sign.folder == _named(folder):
        return
    place = f" from {sign.folder.rpartition(' ')[0]}" if sign.host == socket.gethostname() else ""
    raise ConfigError(
        f"another driver is running the sweep: {sign}{place} (last heartbeat {sign.age_s:.0f} s ago)",
        store.url,
        f"wait for it to end, or stop it first; without a heartbeat for {GONE_S:.0f} s it counts as gone",
    )


class Fence:
    """A driver's right to write, as long as nobody has claimed it after it."""

    def __init__(self, store: ObjectStore, claim: Claim) -> None:
        self.claim = claim
        self.lost = False
        self._store = store

    def check(self, store: ObjectStore | None = None) -> None:
        """Raise Superseded if another driver has taken over, now or at any time before.

        ``store`` asks in the place of the one given first, with another patience.
        """
        if not self.lost:
            there = claims(store or self._store)
            self.lost = not there or there[-1] != self.claim
        if self.lost:
            raise Superseded(f"{self._store.url}: another driver has taken over")


def _claim(store: ObjectStore, folder: Path) -> tuple[Fence, bytes]:
    """Take the sweep over: (the right to write, the heartbeat to repeat)."""
    # In this order whoever sees our claim sees our sign too. Who does not see it claims the same number.
    known = claims(store)
    refuse_second(store, folder)
    claim = Claim(known[-1].number + 1 if known else 1, uuid.uuid4().hex)
    values = {"process": os.getpid(), "host": socket.gethostname(), "token": claim.token}
    sign = json.dumps({**values, "folder": _named(folder)}).encode()
    store.write(DRIVER, sign)
    store.write(claim.path, b"")
    there = claims(store)
    if there[-1] != claim:
        store.remove(claim.path)
        raise ConfigError("another driver took over the sweep at the same moment", store.url, "wait for it")
    for earlier in there[:-1]:
        store.remove(earlier.path)
    return Fence(store, claim), sign


@contextlib.contextmanager
def presence(
    store: ObjectStore, folder: Path, end: Callable[[str], None], beat_s: float = BEAT_S
) -> Iterator[Fence]:
    """Claim the sweep and send heartbeats; ``end`` is told why when somebody asks for it, or has taken over.

    Args:
        folder: the driver's working folder, whose lock the caller holds.

    Raises ConfigError as :func:`refuse_second` does.
    """
    fence, sign = _claim(store, folder)
    store.remove(STOP_REQUEST)  # meant for an earlier driver
    over = threading.Event()

    def beat() -> None:
        while not over.wait(beat_s):
            try:
                fence.check()
                store.write(DRIVER, sign)
                if store.read(STOP_REQUEST) is not None:
                    end("stopped with gcp-sweep stop")
            except Superseded:
                end("another driver has taken over")
                return
            except (OSError, ValueError) as exc:
                _log.warning("the heartbeat failed: %s", first_line(exc))

    thread = threading.Thread(target=beat, name="driver-presence", daemon=True)
    thread.start()
    try:
        yield fence
    finally:
        over.set()
        thread.join(beat_s)
        with contextlib.suppress(OSError, ValueError):  # Superseded among them: the sign is the other's
            fence.check()
            store.remove(DRIVER)
            store.remove(STOP_REQUEST)


def _named(folder: Path) -> str:
    """Tells a folder from all others of this host, also where containers with one host name see different disks."""
    folder = folder.resolve()
    try:
        there = folder.stat()
    except FileNotFoundError:
        return f"{folder} 0:0"
    return f"{folder} {there.st_dev}:{there.st_ino}"
