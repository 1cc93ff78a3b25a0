"""Starts drivers from a process that has imported what they need: a copy of it takes milliseconds, the imports seconds.

    python -m tests.integration.forked SOCKET

A driver is a copy of this process in which a script runs as ``python -c`` would run it: a ``__main__`` of its own,
its arguments, environment, folder and output, and the interpreter's usual end. ``drivers.py`` is the other side.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import types
from typing import Any

from tests.disk import not_waited_for
from tests.pictures import without_pictures
from tests.prepared import newest_schema_known

PRELOADED = (
    "torch",
    "torch._dynamo",
    "ray.tune",
    "optuna",
    "mlflow.store.tracking.sqlalchemy_store",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "pandas",
    "sweeps.driver.launch",
    "gcp_core.training.setup",
    "analysis.show.publish",
)


def serve(path: str) -> dict[str, Any]:
    """Wait for requests; returns in a driver only, with what it was asked."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        print("ready", flush=True)
        while True:
            line, _ = door.accept()
            # Whoever looks after a driver is not waited for.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                door.close()
                return _look_after(line)
            line.close()


def _look_after(line: socket.socket) -> dict[str, Any]:
    """Start a driver, tell its number and how it ended; returns in the driver only."""
    text, outputs, _, _ = socket.recv_fds(line, 1 << 20, 2)
    driver = os.fork()
    if driver == 0:
        line.close()
        for output, number in zip(outputs, (1, 2), strict=True):
            os.dup2(output, number)
            os.close(output)
        return json.loads(text)
    for output in outputs:
        os.close(output)
    for output in (1, 2):  # or nobody would see that the driver has closed its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    line.sendall(f"{driver}\n".encode())
    _, status = os.waitpid(driver, 0)
    line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    without_pictures(setattr)  # no test of a driver looks at them
    not_waited_for()
    newest_schema_known()
    gc.freeze()  # or every copy would write to all of its pages to look for garbage
    asked = serve(sys.argv[1])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    random.seed()  # as another process has it
    tempfile.tempdir = None
    sys.argv = ["-c", *asked["arguments"]]
    place = types.ModuleType("__main__")
    sys.modules["__main__"] = place
    exec(compile(asked["script"], "<string>", "exec"), place.__dict__)


if __name__ == "__main__":
    main()
