"""Where a sweep may be kept, and where its ledger: folders, object stores (``s3://...``) and databases.

Names are told apart and checked here; nothing is opened.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from gcp_core.cachedir import cache_folder
from gcp_core.errors import ConfigError
from sweeps.config.secrets import refuse_secret

_LEDGERS = "null (a journal in the sweep's folder) or postgresql://USER@HOST/DATABASE"
STORES = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or a folder that all nodes share"


def is_object_store(storage: str) -> bool:
    """Whether ``storage`` is a URL rather than a folder."""
    return "://" in storage


def check_store_url(url: str) -> str:
    """``url``, if it names a bucket and carries no secret; the config it stands in is copied to many places.

    Raises ConfigError otherwise.
    """
    refuse_secret(url, "storage")
    parts = urlsplit(url)
    if parts.scheme == "file":
        raise ConfigError(f"{url!r} is a folder", "storage", f"write it as a path: {parts.path}")
    if not parts.scheme or not parts.hostname:
        raise ConfigError(f"{url!r} has no bucket name", "storage", STORES)
    return url


def join(url: str, name: str) -> str:
    """The URL of ``name`` below ``url``; options behind a question mark stay behind it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def is_url(ledger: str) -> bool:
    """Whether ``ledger`` names a database rather than a folder."""
    return "://" in ledger


def check_url(url: str) -> str:
    """``url``, if it names a database and carries no secret; the config it stands in is copied to many places.

    Raises ConfigError otherwise.
    """
    refuse_secret(url, "ledger")
    parts = urlsplit(url)
    if not url or parts.scheme.split("+")[0] not in ("postgresql", "sqlite"):
        raise ConfigError(f"{url!r} is not a database URL", "ledger", _LEDGERS)
    return url


def working_folder(storage: str, name: str, ledger: str | None) -> str:
    """Absolute path of a sweep's folder on this machine.

    With an object store it is below the folder that holds the ledger, or, where that is a database, in the user's cache
    (``gcp_core.cachedir``): all of it can be had again from store and database.
    """
    if not is_object_store(storage):
        place = storage
    elif ledger is not None and not is_url(ledger):
        place = ledger
    else:
        place = str(cache_folder() / "sweeps" / hashlib.sha256(storage.encode()).hexdigest()[:12])
    return os.path.join(os.path.abspath(os.path.expanduser(place)), name)


def as_typed(path: Path) -> str:
    """A path as one would type it here: relative if it is below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
