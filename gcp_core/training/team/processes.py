"""The other processes of a trial, on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import torch

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.models.devices import has_gpu
from gcp_core.training.team.group import check_possible
from gcp_core.training.team.member import Started

#: A fresh interpreter, not a copy of this one: threads and GPU contexts do not survive a copy.
_PROGRAM = "from gcp_core.training.team.follower import main; main({}, {})"


def start_here(config: TrialConfig) -> Started:
    """Start the other processes of the trial on this machine, each with a GPU of its own where there are any.

    Raises:
        ConfigError: there are too few GPUs, or this torch cannot do it.
    """
    devices = _devices(config)
    check_possible("cuda" if "cuda" in devices[0] else "cpu")
    members: list[LocalMember] = []
    try:
        for rank in range(1, config.train.processes):
            members.append(LocalMember(rank, devices[rank]))
    except BaseException:
        for member in members:
            member.end(0.0)
        raise
    return Started(members)


class LocalMember:
    """A process on this machine. It ends when this one does, however that ends.

    Args:
        rank, device: see :class:`gcp_core.training.team.member.Member`.
    """

    def __init__(self, rank: int, device: str) -> None:
        self.rank, self.device = rank, device
        self._connection, theirs = Pipe()
        seen, self._life = os.pipe()  # nothing is written: it is closed where this process is gone
        self._process: subprocess.Popen[bytes] = _popen(theirs, seen)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, message: bytes) -> None:
        """See :class:`gcp_core.training.team.member.Member`."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(message)

    def answer(self) -> bytes:
        """See :class:`gcp_core.training.team.member.Member`."""
        try:
            return self._connection.recv_bytes()
        except OSError as exc:
            raise EOFError from exc

    def end(self, timeout_s: float) -> str:
        """See :class:`gcp_core.training.team.member.Member`."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._connection.close()  # not before: whoever waits for an answer is told
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _popen(theirs: Connection, seen: int) -> subprocess.Popen[bytes]:
    found = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM.format(theirs.fileno(), seen)],
            pass_fds=(theirs.fileno(), seen),
            env={**os.environ, "PYTHONPATH": found},
            stdin=subprocess.DEVNULL,
            stdout=2,  # what this process prints may be read by a program
        )
    finally:
        theirs.close()
        os.close(seen)


def _devices(config: TrialConfig) -> list[str]:
    """``train.device`` of every process."""
    device, number = config.train.device, config.train.processes
    if device == "cpu" or (device == "auto" and not has_gpu()):
        return ["cpu"] * number
    there = torch.cuda.device_count() if has_gpu() else 0
    if there < number:
        raise ConfigError(
            f"{number} processes want a GPU each, but this process sees {there}",
            "train.processes",
            f"at most {there}" if there else "train.device: cpu",
        )
    first = torch.cuda.current_device()
    others = [index for index in range(there) if index != first]
    return [f"cuda:{index}" for index in [first, *others[: number - 1]]]
