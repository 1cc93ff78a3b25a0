"""Drivers, and trials alone, in processes of their own, to be killed, paused and watched."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
#: ``gcp-sweep`` as a script: its arguments are the command's.
PROGRAM = "from sweeps.cli import main; main()"


class Driver:
    """The part of ``subprocess.Popen`` that tests of drivers use."""

    def __init__(self, line: socket.socket, stdout: int, stderr: int) -> None:
        self._line = line.makefile("r")
        self.pid = int(self._line.readline())
        self.stdout, self._stderr = os.fdopen(stdout), os.fdopen(stderr)
        self.returncode: int | None = None
        self._said = ""
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self._waiter = threading.Thread(target=self._wait_for_end, daemon=True)
        self._waiter.start()

    def _read_errors(self) -> None:
        self._said = self._stderr.read()

    def _wait_for_end(self) -> None:
        self.returncode = int(self._line.readline())

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; as of ``Popen`` the negative number of the signal that ended it."""
        self._waiter.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("driver", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it says from here on, and all its errors; when it has ended."""
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
        reader.start()
        self.wait(timeout)
        reader.join(timeout)
        self._reader.join(timeout)
        return "".join(said), self._said

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.wait()


def start(script: str, arguments: Iterable[object] = (), cwd: Path = ROOT, **environment: str) -> Driver:
    """``python -c SCRIPT ARGUMENTS``, in the repository's root and one thread; with more variables of the environment."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(_source())
    asked = {
        "script": script,
        "arguments": [str(word) for word in arguments],
        "environment": {**_environment(), "OMP_NUM_THREADS": "1", **environment},
        "cwd": str(cwd),
    }
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    socket.send_fds(line, [json.dumps(asked).encode()], [out_end, err_end])
    os.close(out_end)
    os.close(err_end)
    return Driver(line, out, err)


def run(
    script: str, arguments: Iterable[object] = (), cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same, until it has ended."""
    driver = start(script, arguments, cwd, **environment)
    try:
        output, errors = driver.communicate()
    finally:
        driver.kill()
    return subprocess.CompletedProcess(script, driver.wait(), output, errors)


def _environment() -> dict[str, str]:
    """Without what Ray has set where a sweep ran in this process: Ray reads it when it is imported, and the drivers'
    source has imported it.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}


@functools.cache
def _source() -> str:
    """The socket of the process that is copied, started with the first driver."""
    folder = tempfile.mkdtemp(prefix="gcp-drivers-", dir="/tmp")  # a socket must have a short name
    path = f"{folder}/socket"
    command = [sys.executable, "-m", "tests.integration.forked", path]
    source = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )

    def end() -> None:
        source.kill()
        source.wait()
        Path(path).unlink(missing_ok=True)
        os.rmdir(folder)

    atexit.register(end)
    assert source.stdout is not None
    assert source.stdout.readline() == "ready\n", "the drivers' source did not start"
    return path
