"""One driver per sweep in a folder whose file system knows no locks: the driver writes a heartbeat there.

Of two drivers that begin at the same moment the one whose sign stays continues; the other finds that out before it enters
anything in the ledger. Times are the file server's own, so the machines' clocks may differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gcp_core.errors import ConfigError
from sweeps.records.disk import write_whole
from sweeps.records.tenure import BEAT_S, Tenure

SIGN = "driver.json"
#: Without a sign for this long a driver counts as gone.
GONE_S = 180.0


@dataclass(frozen=True)
class FolderSign:
    """Who drives the sweep, and how many seconds ago it said so."""

    process: int
    host: str
    token: str
    age_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether it may still be at work. A process of this machine that is gone is not; one that is there and silent
        may be another one with its number, since the machine or its container was started again.
        """
        here = self.host == socket.gethostname()
        if here and (self.process == os.getpid() or not process_runs(self.process)):
            return False
        return self.age_s < GONE_S

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def sign_of(folder: Path) -> FolderSign | None:
    """The last sign of a driver, None if it has ended cleanly (or there never was one)."""
    path = folder / SIGN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as probe:
            age_s = os.stat(probe.name).st_mtime - path.stat().st_mtime
        return FolderSign(values["process"], values["host"], values["token"], max(0.0, age_s))
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def folder_sign(folder: Path, tenure: Tenure, beat_s: float = BEAT_S) -> Iterator[None]:
    """Write a heartbeat every ``beat_s`` seconds; ``tenure`` ends when somebody else's stands there.

    Raises ConfigError if another driver may still be at work.
    """
    sign = sign_of(folder)
    if sign is not None and sign.alive:
        raise ConfigError(
            f"another driver is running the sweep: {sign} (last heartbeat {sign.age_s:.0f} s ago)",
            str(folder),
            f"wait for it to end, or stop it first; without a heartbeat for {GONE_S:.0f} s it counts as gone",
        )
    path, token = folder / SIGN, uuid.uuid4().hex
    write_whole(path, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "token": token}))

    def held() -> bool:
        try:
            if json.loads(path.read_text(encoding="utf-8"))["token"] != token:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    try:
        with tenure.depends_on(held, beat_s):
            yield
    finally:
        if held():
            path.unlink(missing_ok=True)


def process_runs(process: int) -> bool:
    """Whether a process of this machine is there, whoever owns it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
