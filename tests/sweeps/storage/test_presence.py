"""One driver per sweep in an object store (a real S3 server on loopback), however long another one slept."""

from __future__ import annotations

import json
import queue
import socket
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.commands.stop import stop
from sweeps.driver.searcher import ConductorSearcher
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.layout import CONFIG, ENTRY, JOURNAL
from sweeps.storage.exchange import ObjectExchange
from sweeps.storage.journal_copy import read_copy
from sweeps.storage.lock import Superseded, run_lock, stop_requested
from sweeps.storage.objects import ObjectStore
from sweeps.storage.place import bring_home
from sweeps.storage.presence import CLAIMS, DRIVER, Claim, claims, presence, refuse_second
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.sweeps.inline import config, drive, new_conductor

pytestmark = pytest.mark.integration

#: As for a sleeper: no sign comes while the test looks.
ASLEEP = 3600.0


class Told:
    """Remembers what it was called with first, and lets another thread wait for it."""

    def __init__(self) -> None:
        self._said: queue.Queue[str] = queue.Queue()

    def __call__(self, reason: str) -> None:
        self._said.put(reason)

    def wait(self) -> str:
        return self._said.get(timeout=60)


def _nobody(reason: str) -> None:
    """Asked for the end; nobody listens."""


def _gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every driver counts as gone."""
    monkeypatch.setattr("sweeps.storage.presence.GONE_S", 0.0)


def _sign(store: ObjectStore, **values: object) -> None:
    store.write(DRIVER, json.dumps({"process": 7, "token": "theirs", "folder": "/x 1:2", **values}).encode())


def test_a_second_driver_on_another_machine_is_refused_until_the_first_is_gone(
    s3: str, tmp_path: Path, monkeypatch
) -> None:
    store = ObjectStore(s3)
    _sign(store, host="elsewhere")
    with pytest.raises(
        ConfigError, match=r"running the sweep: process 7 on elsewhere \(last heartbeat \d+ s ago\)"
    ):
        refuse_second(store, tmp_path)
    _gone(monkeypatch)
    with presence(store, tmp_path, _nobody):
        assert json.loads(store.read(DRIVER))["token"] != "theirs"
    assert store.read(DRIVER) is None


def test_a_killed_driver_holds_nobody_up_who_has_its_folder(s3: str, tmp_path: Path) -> None:
    store = ObjectStore(s3)
    with presence(store, tmp_path, _nobody):
        left_behind = store.read(DRIVER)
    store.write(DRIVER, left_behind)
    refuse_second(store, tmp_path)
    with presence(store, tmp_path, _nobody):
        assert store.read(DRIVER) != left_behind


def test_two_working_folders_on_one_host_are_two_drivers(s3: str, tmp_path: Path) -> None:
    store = ObjectStore(s3)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        presence(store, tmp_path / "one", _nobody),
        pytest.raises(
            ConfigError,
            match=rf"running the sweep: process \d+ on {socket.gethostname()} from {tmp_path}/one",
        ),
    ):
        refuse_second(store, tmp_path / "two")
    (tmp_path / "one").rename(tmp_path / "moved")
    with presence(store, tmp_path / "two", _nobody):
        left_behind = store.read(DRIVER)
    # The same path in two containers with one host name: another disk.
    (tmp_path / "two").rename(tmp_path / "first disk")
    (tmp_path / "two").mkdir()
    store.write(DRIVER, left_behind)
    with pytest.raises(ConfigError, match="another driver is running the sweep:"):
        refuse_second(store, tmp_path / "two")


def test_a_driver_that_comes_back_finds_that_another_has_taken_over(
    s3: str, tmp_path: Path, monkeypatch
) -> None:
    store, told = ObjectStore(s3), Told()
    _gone(monkeypatch)
    with presence(store, tmp_path / "first", told, beat_s=0.01):
        with presence(store, tmp_path / "second", _nobody, ASLEEP) as second:
            assert told.wait() == "another driver has taken over"
        assert store.names(CLAIMS) == {Path(second.claim.path).name}, "one small object, not one per driver"
    assert store.names(CLAIMS) == {Path(second.claim.path).name}, (
        "who takes over later shall be seen by all before"
    )


def test_a_driver_that_slept_until_the_other_had_ended_stores_nothing_more(
    s3: str, tmp_path: Path, monkeypatch
) -> None:
    _gone(monkeypatch)
    monkeypatch.setattr("sweeps.storage.presence.BEAT_S", ASLEEP)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / JOURNAL).write_text(f"{name}\n")
    first, second = (ObjectExchange(tmp_path / name, s3) for name in ("first", "second"))
    with first.present(_nobody):
        first.send(JOURNAL)
        assert not first.superseded
        with second.present(_nobody):
            second.send(JOURNAL)
        assert (second.generation, second.store.read(DRIVER)) == (2, None), "nobody is there any more"
        for refused in (first.send, first.remove):
            with pytest.raises(Superseded, match="another driver has taken over"):
                refused(JOURNAL)
        first.offer(JOURNAL)
        assert first.superseded
    assert read_copy(first.store) == b"second\n"


@pytest.mark.parametrize(("token", "remains"), [("f" * 32, "theirs"), ("0" * 32, "ours")])
def test_of_two_drivers_that_claim_at_the_same_moment_one_remains(
    s3: str, tmp_path: Path, monkeypatch, token: str, remains: str
) -> None:
    store, theirs = ObjectStore(s3), Claim(1, token)
    real = store.write

    def write(path: str, content: bytes) -> None:
        if path == DRIVER:  # we have seen no claim, and neither have they
            real(theirs.path, b"")
        real(path, content)

    monkeypatch.setattr(store, "write", write)
    if remains == "theirs":
        with pytest.raises(ConfigError, match="at the same moment"), presence(store, tmp_path, _nobody):
            pass
        assert claims(store) == [theirs]
    else:
        with presence(store, tmp_path, _nobody, ASLEEP) as fence:
            fence.check()
            assert claims(store) == [fence.claim]


def test_a_store_that_is_away_is_no_reason_to_end(s3: str, tmp_path: Path, monkeypatch) -> None:
    store = ObjectStore(s3, patience_s=0.0)
    with presence(store, tmp_path, _nobody, ASLEEP) as fence:
        with monkeypatch.context() as patch:
            patch.setattr(store, "names", lambda path: (_ for _ in ()).throw(OSError("away")))
            with pytest.raises(OSError, match="away"):
                fence.check()
        fence.check()
        assert not fence.lost


def test_stop_reaches_a_driver_on_another_machine(s3: str, tmp_path: Path) -> None:
    checked, exchange = _entered(s3, tmp_path)
    told = Told()
    with presence(exchange.store, tmp_path / "elsewhere", told, beat_s=0.01):
        assert stop(checked.store, wait_s=0.0).running
        assert told.wait() == "stopped with gcp-sweep stop"
    assert not exchange.has("stop.request")
    with run_lock(exchange.root):
        assert not stop_requested(exchange.root)
    assert stop(checked.store, wait_s=0.0).message == "nothing to stop: inline is not running (complete)"


# --- the whole sweep, in one process ------------------------------------------------------------------------------


def _entered(s3: str, tmp_path: Path, ledger: str = "driver"):
    more = {"search.concurrency": 2, "ledger": str(tmp_path / ledger)}
    checked = config(tmp_path, {"storage": s3, **more})
    exchange = ObjectExchange(Path(checked.folder), checked.store)
    exchange.root.mkdir(parents=True)
    write_config(exchange.root, checked)
    write_entry(exchange.root, Entry("1", "inline", None, "inline", None, checked.digest(), "complete", 6))
    exchange.send(CONFIG, ENTRY)
    return checked, exchange


def test_a_driver_that_wakes_up_superseded_starts_no_trial_and_ends(
    s3: str, tmp_path: Path, monkeypatch
) -> None:
    """The first one sleeps with a trial running; the second one finishes the sweep and ends; the first one wakes."""
    monkeypatch.setattr("sweeps.storage.presence.BEAT_S", ASLEEP)
    checked, first = _entered(s3, tmp_path)
    with first.present(_nobody):
        sleeper, *_ = new_conductor(checked, first)
        searcher = ConductorSearcher(sleeper, DEFAULT_RUNNER)
        assert searcher.suggest("1")["generation"] == 1
        before = read_copy(first.store)

        checked_2, second = _entered(s3, tmp_path, "elsewhere")
        with (
            pytest.raises(ConfigError, match="another driver is running the sweep:"),
            second.present(_nobody),
        ):
            pass
        with monkeypatch.context() as patch:
            _gone(patch)
            with second.present(_nobody):
                bring_home(second)
                conductor, _recorder, ledger = new_conductor(checked_2, second)
                drive(conductor)
                second.send(JOURNAL)
        after = read_copy(first.store)
        assert after.startswith(before)
        assert len(after) > len(before), "it went on from the first one's ledger"

        assert searcher.suggest("2") is None
        assert (sleeper.interrupted, sleeper.stop_reason) == (True, "another driver has taken over")
        first.offer(JOURNAL, ENTRY)
    assert read_copy(first.store) == after
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6
