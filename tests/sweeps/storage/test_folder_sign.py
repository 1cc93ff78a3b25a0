"""A file system without locks: a heartbeat replaces them."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.records.ledger import Ledger
from sweeps.records.tenure import Displaced, Tenure
from sweeps.storage import folder_sign as module
from sweeps.storage.folder_sign import SIGN, folder_sign, sign_of
from sweeps.storage.lock import driver_of, run_lock
from tests.sweeps.inline import config, new_conductor


@pytest.fixture(autouse=True)
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def _sign(folder: Path, process: int, host: str, age_s: float) -> None:
    path = folder / SIGN
    path.write_text(json.dumps({"process": process, "host": host, "token": "theirs"}))
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


def test_the_user_is_warned_and_others_see_who_drives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), run_lock(tmp_path):
        assert "has no locks: a heartbeat every 20 s replaces them" in caplog.text
        assert driver_of(tmp_path) == f"process {os.getpid()} on {os.uname().nodename}"
    assert driver_of(tmp_path) is None
    assert not (tmp_path / SIGN).exists()


@pytest.mark.parametrize(("age_s", "refused"), [(0.0, True), (170.0, True), (200.0, False)])
def test_a_driver_elsewhere_counts_as_gone_after_180_seconds_without_a_sign(
    tmp_path: Path, age_s: float, refused: bool
) -> None:
    _sign(tmp_path, 7, "elsewhere", age_s)
    if refused:
        with (
            pytest.raises(ConfigError, match="another driver is running the sweep: process 7 on elsewhere"),
            run_lock(tmp_path),
        ):
            pass
        assert json.loads((tmp_path / SIGN).read_text())["token"] == "theirs"
    else:
        with run_lock(tmp_path):
            assert sign_of(tmp_path).process == os.getpid()


def test_a_driver_on_this_machine_counts_as_gone_once_its_process_is(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    _sign(tmp_path, other.pid, os.uname().nodename, age_s=0.0)
    with pytest.raises(ConfigError, match=f"process {other.pid}"), run_lock(tmp_path):
        pass
    other.communicate(b"\n")
    with run_lock(tmp_path):
        pass


def test_a_number_that_another_process_has_since_the_restart_keeps_nobody_out(tmp_path: Path) -> None:
    """The driver went with its machine, and its number belongs to whoever has it now: it gives no sign of life."""
    _sign(tmp_path, os.getppid(), os.uname().nodename, age_s=200.0)
    assert driver_of(tmp_path) is None
    with run_lock(tmp_path):
        assert sign_of(tmp_path).process == os.getpid()


def test_a_driver_that_was_taken_over_enters_nothing_more(tmp_path: Path) -> None:
    checked = config(tmp_path)
    folder = Path(checked.folder)
    new_conductor(checked)  # makes folder and ledger
    tenure = Tenure()
    with run_lock(folder, tenure):
        ledger = Ledger(folder, checked.name, checked.search.objectives, tenure=tenure)
        job = ledger.add("baseline", checked.space.resolve(checked.space.first()).baseline(), {}, {})
        _sign(folder, 7, "elsewhere", age_s=0.0)
        before = (folder / "journal.log").read_bytes()
        with pytest.raises(Displaced):
            ledger.add("baseline", job.config, {}, {})
        assert tenure.lost
        assert (folder / "journal.log").read_bytes() == before
    assert sign_of(folder).host == "elsewhere", "the other one's sign stays"


def test_the_beat_notices_too_and_keeps_the_sign_fresh(tmp_path: Path) -> None:
    tenure = Tenure()
    with folder_sign(tmp_path, tenure, beat_s=0.02):
        os.utime(tmp_path / SIGN, (0, 0))
        _until(lambda: sign_of(tmp_path).age_s < 60)
        _sign(tmp_path, 7, "elsewhere", age_s=0.0)
        _until(lambda: tenure.lost)
    assert module.GONE_S > 2 * module.BEAT_S


def _until(true: object) -> None:
    """Poll with a generous end; nothing is asserted about how long it takes."""
    import time

    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
