"""``gcp-sweep stop``: asks the driver of a sweep, here or on another machine, to end cleanly."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sweeps.records.folder import existing_entry
from sweeps.records.layout import ENTRY
from sweeps.storage.lock import STOP_REQUEST, driver_of, request_stop, wait_until_gone
from sweeps.storage.place import Place, open_sweep

_POLL_S, _POLL_STORE_S = 0.1, 2.0


@dataclass(frozen=True)
class Halt:
    """The result.

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
            False, False, None, entry.state, f"nothing to stop: {entry.name} is not running ({entry.state})"
        )
    request_stop(place.folder)  # also where no lock is seen: some shared folders know none
    place.exchange.send(STOP_REQUEST)
    poll_s = _POLL_S if place.exchange.url is None else _POLL_STORE_S
    ended = driver is not None and wait_until_gone(lambda: _driver(place), wait_s, poll_s)
    if ended:
        place.exchange.fetch(ENTRY)
    state = existing_entry(place.folder).state
    if ended:
        words = f"{driver} has ended; {entry.name} is {state}"
    elif driver is None:
        words = (
            f"{entry.name} says it is running, but nobody holds its lock: its driver was killed, or it runs where locks"
            " are not visible and will find the request. `gcp-sweep run` continues a killed sweep"
        )
    else:
        words = f"{driver} was asked to end, and is still running after {wait_s:g} s"
    return Halt(not ended and driver is not None, ended, driver, state, words)


def _driver(place: Place) -> str | None:
    return driver_of(place.folder) or place.exchange.driver()
