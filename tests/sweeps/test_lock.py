from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.lock import run_lock, trial_lock

HOLD = """
import sys, time
from pathlib import Path
from sweeps.lock import run_lock, trial_lock
lock = {"run": run_lock, "trial": trial_lock}[sys.argv[1]]
with lock(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def _holder(kind: str, folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, kind, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_driver_is_refused_with_the_first_ones_process_and_gets_in_when_it_is_killed(
    tmp_path: Path,
) -> None:
    process = _holder("run", tmp_path, 60)
    with pytest.raises(ConfigError) as caught, run_lock(tmp_path):
        pass
    assert f"the sweep is being run by process {process.pid} on {os.uname().nodename}" in str(caught.value)
    process.kill()
    process.wait()
    with run_lock(tmp_path):
        pass


def test_a_trial_waits_for_a_process_that_outlived_its_driver(tmp_path: Path) -> None:
    process = _holder("trial", tmp_path, 0.7)
    start = time.monotonic()
    with trial_lock(tmp_path):
        assert time.monotonic() - start > 0.3
    process.wait()


def test_a_process_that_never_lets_go_is_an_error_with_the_folder(tmp_path: Path) -> None:
    process = _holder("trial", tmp_path, 60)
    try:
        with (
            pytest.raises(TimeoutError, match=f"another process still writes to {tmp_path}"),
            trial_lock(tmp_path, 0.3),
        ):
            pass
    finally:
        process.kill()
        process.wait()
