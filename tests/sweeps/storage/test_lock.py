from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.storage.lock import Holder, run_lock, trial_lock

HOLD = """
import sys, time
from pathlib import Path
from sweeps.storage.lock import Holder, run_lock, trial_lock
lock = {"run": run_lock, "trial": trial_lock}[sys.argv[1]]
names = {"holder": Holder(sys.argv[4])} if len(sys.argv) > 4 else {}
with lock(Path(sys.argv[2]), **names):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def _holder(kind: str, folder: Path, seconds: float, *name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, kind, str(folder), str(seconds), *name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
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


def test_the_lock_of_a_node_that_is_gone_is_taken_over_and_protects_the_one_who_took_it(
    tmp_path: Path,
) -> None:
    asked: list[str] = []

    def gone(name: str) -> bool:
        asked.append(name)
        return name == "dead-node"

    process = _holder(
        "trial", tmp_path, 60, "dead-node"
    )  # alive, as a frozen machine's files are still locked
    try:
        with trial_lock(tmp_path, timeout_s=5, holder=Holder("live-node", gone)):
            assert asked == ["dead-node"]
            with (
                pytest.raises(TimeoutError),
                trial_lock(tmp_path, timeout_s=0.2, holder=Holder("third", gone)),
            ):
                pass
        assert set(asked[1:]) == {"live-node"}
    finally:
        process.kill()
        process.wait()
