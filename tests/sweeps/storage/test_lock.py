from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.storage.lock import Held, Holder, Superseded, driver_of, run_lock, trial_lock

HOLD = """
import os, sys, time
from pathlib import Path
import sweeps.storage.lock
from sweeps.storage.lock import Holder, run_lock, trial_lock
sweeps.storage.lock.BEAT_S = 0.02
lock = {"run": run_lock, "trial": trial_lock}[sys.argv[1]]
names = {"holder": Holder(sys.argv[4]), "lost": lambda: os._exit(9)} if len(sys.argv) > 4 else {}
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
    assert f"another driver is running the sweep: process {process.pid} on {os.uname().nodename}" in str(
        caught.value
    )
    process.kill()
    process.wait()
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=["permission", "mounted for reading"])
def test_a_folder_in_which_one_may_not_write_is_one_message(tmp_path: Path, monkeypatch, number: int) -> None:
    """Permissions do not bind the superuser, whom containers test as: the file system's answer is played."""

    def refuses(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(ConfigError, match=rf"run\.lock cannot be written: {os.strerror(number)}"):
        driver_of(tmp_path)
    with pytest.raises(ConfigError, match="must be allowed to write in its folder"), run_lock(tmp_path):
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
            pytest.raises(TimeoutError, match=f"another process is still writing to {tmp_path}"),
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

    process = _holder("trial", tmp_path, 60, "dead-node")
    try:
        process.send_signal(signal.SIGSTOP)  # a frozen machine's files are still locked
        with trial_lock(tmp_path, timeout_s=5, holder=Holder("live-node", gone)) as held:
            assert asked == ["dead-node"]
            held.check()
            with (
                pytest.raises(TimeoutError),
                trial_lock(tmp_path, timeout_s=0.2, holder=Holder("third", gone)),
            ):
                pass
            assert set(asked[1:]) == {"live-node"}
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 9, "who wakes up finds its lock broken and ends"
            held.check()
    finally:
        process.kill()
        process.wait()


def _last_word(folder: Path, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(folder / ".lock", (then, then))


def test_a_lock_whose_node_nobody_knows_is_waited_for_as_long_as_it_gives_signs_of_life(
    tmp_path: Path,
) -> None:
    """A live process of an earlier cluster: this one's Ray has never heard of its node."""
    process = _holder("trial", tmp_path, 60, "node of another cluster")
    stranger = Holder("here", lambda name: None)
    try:
        _last_word(tmp_path, 1000)  # the next sign comes at once
        while time.time() - (tmp_path / ".lock").stat().st_mtime > 500:
            time.sleep(0.01)
        with pytest.raises(TimeoutError), trial_lock(tmp_path, timeout_s=0.6, holder=stranger):
            pass
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        _last_word(tmp_path, 170)
        with pytest.raises(TimeoutError), trial_lock(tmp_path, timeout_s=0.6, holder=stranger):
            pass
        _last_word(tmp_path, 190)
        with trial_lock(tmp_path, timeout_s=5, holder=stranger) as held:
            held.check()
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 9
    finally:
        process.kill()
        process.wait()


def test_whoever_signs_a_lock_last_has_it_also_where_a_file_system_knows_no_locks(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("sweeps.storage.lock._try_lock", lambda descriptor: True)
    with trial_lock(tmp_path) as first, trial_lock(tmp_path) as second:
        second.check()
        with pytest.raises(Superseded, match=f"{tmp_path} has been taken over by another process"):
            first.check()


def test_nothing_is_left_beside_the_lock(tmp_path: Path) -> None:
    with trial_lock(tmp_path) as held:
        assert isinstance(held, Held)
        with pytest.raises(TimeoutError), trial_lock(tmp_path, timeout_s=0.1):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
