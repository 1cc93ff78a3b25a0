"""Where this machine keeps what can be made again: decoded images, copies of sweeps that lie in an object store."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$GCP_CACHE_DIR``, or ``gcp-sweep`` in the user's cache folder."""
    given = os.environ.get("GCP_CACHE_DIR")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "gcp-sweep"
