"""``gcp-sweep stop``: asks the driver of a sweep, here or on another machine, to end in good order."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from sweeps.exchange import ObjectExchange
from sweeps.folder import ENTRY, existing_entry
from sweeps.lock import STOP_REQUEST, driver_of, request_stop, wait_until_free
from sweeps.place import Place, open_sweep
from sweeps.presence import driver_sign

_POLL_S = 2.0


@dataclass(frozen=True)
class Halt:
    """What came of it.

    Attributes:
        running: whether a driver is still at work.
        stopped: whether it has ended.
        driver: who it is or was, None if none was found.
        state: of the sweep, afterwards.
        message: for people.
    """

    running: bool
    stopped: bool
    driver: str | None
    state: str
    message: str


def stop(sweep: str | os.PathLike[str], wait_s: float) -> Halt:
    """Ask, and wait for at most ``wait_s`` seconds; raises ConfigError if there is no such sweep."""
    place = open_sweep(sweep)
    entry = existing_entry(place.folder)
    driver = _driver(place)
    if driver is None and entry.state != "running":
        return Halt(
            False, False, None, entry.state, f"nothing to stop: nobody runs {entry.name} ({entry.state})"
        )
    request_stop(place.folder)  # also where no lock is seen: some shared folders know none
    if isinstance(place.exchange, ObjectExchange):
        place.exchange.send(STOP_REQUEST)
    ended = driver is not None and _wait(place, wait_s)
    if ended:
        place.exchange.fetch(ENTRY)
    state = existing_entry(place.folder).state
    if ended:
        words = f"{driver} has ended; {entry.name} is {state}"
    elif driver is None:
        words = (
            f"{entry.name} says it is running, but nobody holds it: its driver was killed, or it runs where locks"
            " are not seen and will find the request. gcp-sweep run continues a killed sweep"
        )
    else:
        words = f"{driver} was asked to end, and is still at it after {wait_s:g} s"
    return Halt(not ended and driver is not None, ended, driver, state, words)


def _driver(place: Place) -> str | None:
    here = driver_of(place.folder)
    if here is not None or not isinstance(place.exchange, ObjectExchange):
        return here
    sign = driver_sign(place.exchange.store)
    return str(sign) if sign is not None and sign.alive else None


def _wait(place: Place, wait_s: float) -> bool:
    if not isinstance(place.exchange, ObjectExchange):
        return wait_until_free(place.folder, wait_s)
    end = time.monotonic() + wait_s
    while _driver(place) is not None:
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
