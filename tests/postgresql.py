"""A real PostgreSQL server (Debian's package ``postgresql``), private to the tests of a module."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Server:
    """A server on a unix socket; ``url`` carries no secret because it trusts whoever reaches the socket."""

    url: str
    data: Path

    def control(self, *words: str) -> None:
        _as_postgres(_binary("pg_ctl"), "-D", str(self.data), "-w", "-t", "120", *words)


def _binary(name: str) -> str:
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None
    )
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install postgresql)")
    return found


def _as_postgres(*command: str) -> None:
    """Run it as a user that PostgreSQL accepts: it refuses to run as root."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and setpriv is not there to become another user")
        command = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    """A server of its own for the tests of a module; skips where PostgreSQL is not installed."""
    initdb = _binary("initdb")
    # A socket's path may have 107 characters, and pytest's folders are closed to other users.
    place = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        if os.geteuid() == 0:
            try:
                shutil.chown(place, "postgres", "postgres")
            except LookupError:
                pytest.skip("there is no user postgres to run the server as")
        _as_postgres(
            initdb, "-D", str(place / "data"), "-U", "sweeps", "-A", "trust", "--no-sync", "-E", "UTF8"
        )
        server = Server(f"postgresql+psycopg://sweeps@/postgres?host={place}", place / "data")
        options = f"-c listen_addresses= -k {place} -c fsync=off"
        server.control("-l", str(place / "log"), "-o", options, "start")
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)
