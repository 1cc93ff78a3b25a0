"""Finds a sweep: its folder here, its config, and with an object store whatever is kept there."""

from __future__ import annotations

import itertools
import json
import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcp_core import schema
from gcp_core.errors import ConfigError
from sweeps.config.places import check_store_url, is_object_store, working_folder
from sweeps.config.sweep_config import SweepConfig, check_tree
from sweeps.records.folder import read_config, read_entry
from sweeps.records.layout import CONFIG, ENTRY, EPOCHS, JOURNAL, OUTCOME_FILE, TRIALS
from sweeps.storage.exchange import Exchange, ObjectExchange, open_exchange
from sweeps.storage.objects import store_errors

if TYPE_CHECKING:
    from sweeps.records.ledger import Ledger

_log = logging.getLogger(__name__)
#: Not needed to know how a trial went.
_HEAVY = (EPOCHS, Path(schema.ARTIFACT_WEIGHTS).name)


@dataclass(frozen=True)
class Place:
    """A sweep that exists."""

    folder: Path
    config: SweepConfig
    exchange: Exchange

    def reading(self) -> AbstractContextManager[Ledger]:
        """See :func:`sweeps.records.ledger.reading`."""
        from sweeps.records.ledger import reading  # brings optuna

        return reading(self.folder, self.config.name, self.config.search.objectives, self.config.database)


def open_sweep(sweep: str | os.PathLike[str]) -> Place:
    """The sweep in a folder, or at a URL (``STORAGE/NAME``) of an object store.

    Of a sweep in a store, what tells how it went is fetched first: into the folder of its driver if that is on this
    machine and one may write there, else into the user's cache.

    Raises:
        ConfigError: there is no sweep, or the store cannot be used.
    """
    text = os.fspath(sweep)
    if not is_object_store(text):
        folder = Path(text)
        config = read_config(folder)
        with store_errors():
            exchange = open_exchange(folder, config.store)
            bring_home(exchange)
        return Place(folder, read_config(folder), exchange)
    storage, _, name = check_store_url(text).partition("?")[0].rstrip("/").rpartition("/")
    with store_errors():
        exchange = ObjectExchange(Path(working_folder(storage, name, ledger=None)), text)
        if not exchange.has(ENTRY):
            raise ConfigError("there is no sweep", text, "a sweep's place is STORAGE/NAME")
        exchange.fetch(CONFIG)
        drivers = Path(read_config(exchange.root).folder)
        # What is new goes into the folder, so a colleague's will not do.
        mine = os.access(drivers, os.W_OK) and read_entry(drivers) is not None
        if mine and not _is_of_another(drivers, exchange):
            exchange = ObjectExchange(drivers, text)
        bring_home(exchange)
    return Place(exchange.root, read_config(exchange.root), exchange)


def bring_home(exchange: Exchange) -> None:
    """Bring the sweep's folder up to what the store holds; weights and checkpoints stay there.

    Of trials whose end is known here nothing new can come: their outcome is carried last, and it is final. But a path may
    have been taken up again.

    Raises:
        ConfigError: the folder here is another sweep's, or the ledger here and the store's copy contradict each other.
    """
    if exchange.url is None:
        return
    if _is_of_another(exchange.root, exchange):
        raise ConfigError(
            f"this folder holds another sweep of that name, not the one at {exchange.url}",
            str(exchange.root),
            "sweeps of one name in two stores need two folders as ledger, or --new; if the one here is of no use any"
            " more, move its folder away",
        )
    exchange.fetch(ENTRY)
    exchange.fetch(CONFIG)
    _bring_journal(exchange)
    folders = (path.parent for path in (exchange.root / TRIALS).glob(f"*/{OUTCOME_FILE}"))
    final = (folder.name for folder in folders if not (folder / schema.SNAPSHOTS).exists())
    exchange.fetch(TRIALS, without=(*_HEAVY, *final))


def _is_of_another(folder: Path, exchange: Exchange) -> bool:
    """Whether the folder holds a sweep that is not the store's. A store without a sweep is that of the one here only if
    that one says so: its driver was killed before it had told the store.
    """
    here, there = read_entry(folder), exchange.read(ENTRY)
    if here is None:
        return False
    if there is not None:
        return bool(json.loads(there)["id"] != here.id)
    kept = read_config(folder).store
    return kept is None or kept.partition("?")[0] != str(exchange.url).partition("?")[0]


def bring_trial(exchange: Exchange, path: str) -> None:
    """What tells how a trial went. A store that is away costs that only, for now."""
    try:
        exchange.fetch(path, without=_HEAVY)
    except OSError as exc:
        _log.warning("the files of %s could not be fetched from the store: %s", path, exc)


def _bring_journal(exchange: Exchange) -> None:
    """The copy counts if it is the one here with more at its end: another machine has continued the sweep."""
    here, copy = exchange.root / JOURNAL, exchange.root / f".{JOURNAL}.copy"
    exchange.fetch_journal(copy)
    try:
        if not copy.exists():
            return
        ours, theirs = (here.read_bytes() if here.exists() else b""), copy.read_bytes()
        whole = ours[: ours.rfind(b"\n") + 1]  # a torn last line is no contradiction
        if theirs.startswith(whole):
            if len(theirs) > len(ours):
                os.replace(copy, here)
        elif not whole.startswith(theirs[: theirs.rfind(b"\n") + 1]):
            raise ConfigError(
                "the ledger here and its copy in the store have diverged",
                str(here),
                f"two machines have continued the sweep; move the file away to continue with the copy at {exchange.url}",
            )
    finally:
        copy.unlink(missing_ok=True)


def renamed(config: SweepConfig) -> SweepConfig:
    """The same config under the first name whose folder is free: ``name``, ``name-2``, ``name-3``, ..."""
    for number in itertools.count(1):
        name = config.name if number == 1 else f"{config.name}-{number}"
        candidate = check_tree({**config.tree, "name": name})
        folder = Path(candidate.folder)
        if not folder.exists() and not open_exchange(folder, candidate.store).has(ENTRY):
            return candidate
    raise AssertionError("unreachable")
