"""The ledger and its lock in a real PostgreSQL server (Debian's package ``postgresql``), private to these tests."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import SQLAlchemyError

from gcp_core.errors import ConfigError
from sweeps.conduct.conductor import Conductor
from sweeps.driver.preflight import check_ledger
from sweeps.records import database
from sweeps.records.database import AdvisoryLock, driver_lock, open_storage
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.ledger import Ledger, read_records
from sweeps.records.tenure import Displaced, Tenure
from tests.postgresql import Server
from tests.sweeps.inline import Silent, config, drive

pytestmark = pytest.mark.integration

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'gcp-sweep[postgresql]'")


def _holders(postgresql: Server, end: bool = False) -> int:
    """How many connections hold a driver's lock; ``end``: break them, as a network would."""
    from sqlalchemy import create_engine, text

    what = "pg_terminate_backend(pid)" if end else "pid"
    query = f"SELECT {what} FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
    engine = create_engine(postgresql.url)
    with engine.connect() as connection:
        rows = connection.execute(text(query)).all()
    engine.dispose()
    return len(rows)


def test_a_whole_sweep_goes_through_a_real_server_and_can_be_read_by_others(
    tmp_path: Path, postgresql: Server
) -> None:
    check_ledger(postgresql.url)
    checked = config(tmp_path, {"ledger": postgresql.url, "search.trials": 3})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    write_entry(folder, Entry("whole", checked.name, None, checked.name, "r", checked.digest()))
    ledger = Ledger(folder, checked.name, checked.search.objectives, url=postgresql.url, sweep_id="whole")
    conductor = Conductor(checked, ledger, Silent(), Silent())
    conductor.next_job()  # handed out when the driver dies
    again = Ledger(folder, checked.name, checked.search.objectives, url=postgresql.url, sweep_id="whole")
    drive(Conductor(checked, again, Silent(), Silent()))
    trials, baselines = read_records(folder, checked.name, checked.search.objectives, url=postgresql.url)
    assert [record.status for record in [*baselines, *trials]] == ["complete"] * 4
    assert trials == ledger.records("trial")


def test_a_second_driver_is_refused_while_the_first_holds_the_lock_and_not_afterwards(
    postgresql: Server,
) -> None:
    with driver_lock(postgresql.url, "one"):
        with (
            pytest.raises(ConfigError, match="ledger: another driver is running this sweep"),
            driver_lock(postgresql.url, "one"),
        ):
            pass
        with driver_lock(postgresql.url, "another"):
            pass
    with driver_lock(postgresql.url, "one"):
        pass
    assert _holders(postgresql) == 0, "no lock stays behind"


def test_a_dropped_connection_is_noticed_and_the_lock_taken_again(postgresql: Server) -> None:
    tenure = Tenure()
    with driver_lock(postgresql.url, "dropped", tenure):
        assert _holders(postgresql, end=True) == 1
        tenure.check()
        with pytest.raises(ConfigError, match="another driver"), driver_lock(postgresql.url, "dropped"):
            pass
    assert not tenure.lost


def _lost(postgresql: Server, sweep_id: str) -> tuple[AdvisoryLock, AdvisoryLock]:
    """A driver whose machine has lost its connection, while another one plays what the server keeps of it."""
    engine = open_storage(postgresql.url).engine
    driver, kept = AdvisoryLock(engine, sweep_id), AdvisoryLock(engine, sweep_id)
    assert driver.take()
    driver._ask("SELECT pg_advisory_unlock(:key)", key=driver._key)
    driver._drop()
    assert kept._lock(), "and leaves no token of its own"
    return driver, kept


def test_a_lock_that_the_server_keeps_for_the_drivers_lost_connection_is_waited_for(
    postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, kept = _lost(postgresql, "half-open")
    waits: list[float] = []

    def the_server_notices(seconds: float) -> None:
        waits.append(seconds)
        kept.close()

    monkeypatch.setattr(database, "time", SimpleNamespace(monotonic=time.monotonic, sleep=the_server_notices))
    assert driver.held()
    assert len(waits) == 1
    driver.close()
    driver._engine.dispose()


def test_a_lock_that_the_server_keeps_for_long_does_not_end_the_drivers_tenure(
    postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.0)
    driver, kept = _lost(postgresql, "half-open-for-long")
    tenure = Tenure()
    with tenure.depends_on(driver.held):
        with pytest.raises(SQLAlchemyError, match="for a connection that this driver has lost"):
            tenure.check()
        assert not tenure.lost
        kept.close()
        tenure.check()
    driver.close()
    driver._engine.dispose()


def test_the_server_is_told_to_look_soon_whether_the_driver_is_still_there(postgresql: Server) -> None:
    """Over a unix socket it only remembers that it was told."""
    engine = open_storage(postgresql.url).engine
    lock = AdvisoryLock(engine, "looked-after")
    assert lock.take()
    told = lock._ask("SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE source = 'session'")
    for name in (
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
        "tcp_user_timeout",
    ):
        assert name in told.split()
    lock.close()
    engine.dispose()


def test_a_restart_of_the_server_is_waited_for(postgresql: Server) -> None:
    tenure = Tenure()
    with driver_lock(postgresql.url, "restarted", tenure):
        postgresql.control("-m", "immediate", "restart")
        tenure.check()
        with pytest.raises(ConfigError), driver_lock(postgresql.url, "restarted"):
            pass


@pytest.mark.parametrize("ended", [False, True])
def test_a_driver_whose_lock_somebody_else_took_meanwhile_enters_nothing_more(
    tmp_path: Path, postgresql: Server, ended: bool
) -> None:
    """The driver was paused, its connection dropped; another one took over, and may have ended since."""
    checked = config(tmp_path, {"ledger": postgresql.url})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    tenure, name = Tenure(), f"taken-{ended}"
    with driver_lock(postgresql.url, name, tenure):
        ledger = Ledger(
            folder, checked.name, checked.search.objectives, url=postgresql.url, sweep_id=name, tenure=tenure
        )
        trial = checked.space.resolve(checked.space.first())
        ledger.add("baseline", trial.baseline(), {}, {})
        _holders(postgresql, end=True)
        storage = open_storage(postgresql.url)
        other = AdvisoryLock(storage.engine, name)
        assert other.take()
        if ended:
            other.close()
        with pytest.raises(Displaced, match="another driver has taken over"):
            ledger.add("baseline", trial.baseline(), {}, {})
        assert tenure.lost
        assert len(ledger.records("baseline")) == 1
        assert not ended or other.take(), "the lock is left to others at once"
        other.close()
        storage.engine.dispose()


def test_the_beat_notices_a_lost_lock_without_any_write(postgresql: Server) -> None:
    tenure = Tenure()
    with driver_lock(postgresql.url, "beat", tenure, beat_s=0.05):
        storage = open_storage(postgresql.url)
        other = AdvisoryLock(storage.engine, "beat")
        end = time.monotonic() + 60
        while (
            not tenure.lost
        ):  # whoever is first after the break has the lock; the driver may be it a few times
            _holders(postgresql, end=True)
            other.close()
            other.take()
            assert time.monotonic() < end
        other.close()
        storage.engine.dispose()
